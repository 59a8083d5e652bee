//! The settings of the layer: where the token goes, and which responses reject it.

use std::sync::Arc;

use http::response::Parts;

use super::{
    base::Builder,
    target::{ForLayer, sealed},
};
use crate::rules::{Existing, Test};

/// # Where the token goes, and what a rejection is
impl<S: sealed::Source> Builder<ForLayer, S> {
    /// Adds an origin that may have the token: an [`Origin`](crate::Origin), or its text,
    /// `scheme://host` or `scheme://host:port`. With at least one, a request for any other is an
    /// error before anything is sent.
    ///
    /// Without: every `https` origin may, and plain `http` to this machine. Name the origins where
    /// the targets of requests are not all written down in your program, and where a redirect is
    /// followed outside of the layer.
    pub fn allowed_origin(mut self, origin: impl AsRef<str>) -> Self {
        match origin.as_ref().parse() {
            Ok(origin) => self.target.rules.origins.allow(origin),
            Err(error) => self.fail("allowed_origin", format!("is wrong: {error}")),
        }
        self
    }

    /// Adds several origins: see [`allowed_origin`](Self::allowed_origin). A list that turns out empty
    /// is an error: every `https` origin would have the token.
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

    /// Sends requests for other than the allowed origins without the token, in place of an error.
    pub fn pass_other_origins_without_token(mut self) -> Self {
        self.target.rules.origins.pass_others_without_token();
        self
    }

    /// Lets plain `http` to other machines have the token, where no allowed origins are named. Every
    /// machine on the way can read it and use it.
    pub fn dangerously_allow_plain_http(mut self) -> Self {
        self.target.rules.origins.allow_plain_http();
        self
    }

    /// Replaces an `Authorization` header that a request already has. Without this, such a request
    /// is sent as it is, and its response is none of the layer's business.
    pub fn replace_authorization(mut self) -> Self {
        self.target.rules.existing = Existing::Replace;
        self
    }

    /// Reads 403 as it does 401. Some APIs answer so to an expired token (the views of Django OAuth
    /// Toolkit do); at most, 403 means that a valid token is not enough.
    pub fn forbidden_means_rejected(mut self) -> Self {
        self.target.rules.challenges = self.target.rules.challenges.forbidden_is_stale();
        self
    }

    /// Sets the test of whether a response rejects the token that its request carried.
    ///
    /// The default: every 401, unless its `WWW-Authenticate` has the code `insufficient_scope`,
    /// `insufficient_user_authentication` or one of DPoP's, or offers only DPoP or another
    /// proof-of-possession scheme; and gRPC's `UNAUTHENTICATED` in the headers of a response.
    pub fn rejected_when(mut self, test: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.target.rules.test = Some(Test(Arc::new(test)));
        self
    }

    /// Sets how many bytes of a streaming body are kept while they pass, so that the request can be
    /// sent again. Default: 65,536. A longer body streams on, and is not sent again. Bodies that are
    /// cheap to clone are kept whatever their size.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.target.rules.replay_limit = bytes;
        self
    }
}
