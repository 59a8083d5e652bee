//! The settings of the layer: where the token goes, and which responses reject it.

use std::sync::Arc;

use http::response::Parts;

use super::{
    base::Builder,
    target::{ForLayer, sealed},
};
use crate::policy::{Existing, RejectionPredicate};

/// # Layer settings
impl<S: sealed::Source> Builder<ForLayer, S> {
    /// Adds an origin that may receive the token: an [`Origin`](crate::Origin), or a string of the
    /// form `scheme://host` or `scheme://host:port`. Once an origin has been added, a request to
    /// any other origin fails before anything is sent.
    ///
    /// By default, every `https` origin may receive the token, and so may plain `http` to this
    /// machine. Set the allowed origins if your program takes request URLs from elsewhere, or if a
    /// redirect layer wraps this one.
    pub fn allowed_origin(mut self, origin: impl AsRef<str>) -> Self {
        match origin.as_ref().parse() {
            Ok(origin) => self.target.policy.origins.allow(origin),
            Err(error) => self.fail("allowed_origin", format!("is wrong: {error}")),
        }
        self
    }

    /// Adds several origins: see [`allowed_origin`](Self::allowed_origin). An empty list is an
    /// error, since it would let every `https` origin receive the token.
    pub fn allowed_origins<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut origins = origins.into_iter().peekable();
        if origins.peek().is_none() {
            let problem = "names no origin (where none is to be named, leave the setting out: every \
                           https origin may have the token then)";
            self.fail("allowed_origin", problem);
        }
        origins.fold(self, Self::allowed_origin)
    }

    /// Sends requests to origins that are not allowed without the token, instead of failing.
    pub fn pass_other_origins_without_token(mut self) -> Self {
        self.target.policy.origins.pass_others_without_token();
        self
    }

    /// Lets plain `http` requests to other machines carry the token if no allowed origins are set.
    /// Every machine on the path can then read and use the token.
    pub fn dangerously_allow_plain_http(mut self) -> Self {
        self.target.policy.origins.allow_plain_http();
        self
    }

    /// Replaces an `Authorization` header that is already present. By default, such a request is
    /// sent unchanged, and its response is not examined.
    pub fn replace_authorization(mut self) -> Self {
        self.target.policy.existing = Existing::Replace;
        self
    }

    /// Treats a 403 like a 401. Some APIs respond to an expired token with 403 (the views of Django
    /// OAuth Toolkit do). In most APIs a 403 means that a valid token lacks permission, so this is
    /// off by default.
    pub fn forbidden_means_rejected(mut self) -> Self {
        self.target.policy.challenges = self.target.policy.challenges.forbidden_is_stale();
        self
    }

    /// Sets the predicate that decides whether a response rejects the token of its request.
    ///
    /// By default, every 401 is a rejection, unless its `WWW-Authenticate` has the code
    /// `insufficient_scope`, `insufficient_user_authentication` or one of DPoP's, or offers only
    /// DPoP or another proof-of-possession scheme. gRPC's `UNAUTHENTICATED` in the response headers
    /// is a rejection as well.
    pub fn rejected_when(mut self, test: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.target.policy.test = Some(RejectionPredicate(Arc::new(test)));
        self
    }

    /// Sets how many bytes of a streaming body are copied as they are sent, so that the request can
    /// be replayed. Default: 65,536. A longer body is sent as usual, but not replayed. Bodies that
    /// are cheap to clone are kept regardless of their size.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.target.policy.replay_limit = bytes;
        self
    }
}
