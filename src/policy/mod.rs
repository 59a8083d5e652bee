//! The policy of a layer: which origins receive the token, which responses reject it, and how much
//! of a request is kept.

pub(crate) mod challenge;
pub(crate) mod origin;
mod origin_value;

use std::{fmt, sync::Arc};

use http::{Response, response::Parts};

use self::{
    challenge::{Evidence, Verdict},
    origin::OriginPolicy,
};

/// The default of [`Builder::replay_limit`](crate::Builder::replay_limit), in bytes.
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) origins: OriginPolicy,
    pub(crate) existing: Existing,
    pub(crate) challenges: challenge::ChallengePolicy,
    pub(crate) test: Option<RejectionPredicate>,
    pub(crate) replay_limit: usize,
}

/// The treatment of requests that already have an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The request passes through unchanged.
    Keep,
    Replace,
}

/// A user's predicate that decides whether a response rejects the token.
#[derive(Clone)]
pub(crate) struct RejectionPredicate(pub(crate) Arc<dyn Fn(&Parts) -> bool + Send + Sync>);

/// A response extension set by adapters whose client follows redirects itself. The layer looks for
/// it only after a rejection.
#[cfg(feature = "reqwest")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirected {
    /// The response comes from another origin, which never saw the token.
    Elsewhere,
    /// The response comes from the origin, but answers another request. The original request may
    /// have taken effect and must not be sent again.
    AfterEffect,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            origins: OriginPolicy::default(),
            existing: Existing::Keep,
            challenges: challenge::ChallengePolicy::default(),
            test: None,
            replay_limit: REPLAY_LIMIT,
        }
    }
}

impl Policy {
    /// Returns the verdict of `response` on the token that its request carried.
    pub(crate) fn judge<R>(&self, response: &Response<R>) -> Verdict {
        self.challenges.judge(response.status(), response.version(), response.headers())
    }

    /// Returns `true` if `response` surely accepts the token. This is the fast path: `false` means
    /// that [`judge`](Self::judge) must decide. The user's predicate is not called.
    #[inline]
    pub(crate) fn accepts_fast<R>(response: &Response<R>) -> bool {
        challenge::ChallengePolicy::accepts_fast(
            response.status(),
            response.version(),
            response.headers(),
        )
    }
}

/// Returns `true` if the response comes from another origin, so that it rejects nothing.
#[cold]
#[cfg_attr(
    not(feature = "reqwest"),
    allow(unused_variables, reason = "no adapter marks responses")
)]
pub(crate) fn is_from_elsewhere<R>(response: &Response<R>) -> bool {
    #[cfg(feature = "reqwest")]
    return response.extensions().get() == Some(&Redirected::Elsewhere);
    #[cfg(not(feature = "reqwest"))]
    false
}

/// Returns `true` if the request may have taken effect although the response is a 401.
#[cold]
#[cfg_attr(
    not(feature = "reqwest"),
    allow(unused_variables, reason = "no adapter marks responses")
)]
pub(crate) fn may_have_had_effect<R>(response: &Response<R>) -> bool {
    #[cfg(feature = "reqwest")]
    return response.extensions().get() == Some(&Redirected::AfterEffect);
    #[cfg(not(feature = "reqwest"))]
    false
}

impl RejectionPredicate {
    /// Returns the verdict according to the user's predicate. `verdict` is the verdict without it.
    #[cold]
    pub(crate) fn judge<R>(
        &self,
        response: Response<R>,
        verdict: Verdict,
    ) -> (Response<R>, Verdict) {
        let (parts, body) = response.into_parts();
        let verdict = match (self.0(&parts), verdict) {
            (true, Verdict::Rejected(Evidence::Strong)) => Verdict::Rejected(Evidence::Strong),
            (true, _) => Verdict::Rejected(Evidence::Weak),
            (false, Verdict::Neutral) => Verdict::Neutral,
            (false, _) => Verdict::Accepted,
        };
        (Response::from_parts(parts, body), verdict)
    }
}

impl fmt::Debug for RejectionPredicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RejectionPredicate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The predicate only decides whether the response is a rejection. The strength of the
    /// evidence, and whether any other response accepts the token, is still read from the response.
    #[test]
    fn a_users_test_decides_no_more_than_it_is_asked() {
        use Verdict::{Accepted, Neutral};
        const WEAK: Verdict = Verdict::Rejected(Evidence::Weak);
        const STRONG: Verdict = Verdict::Rejected(Evidence::Strong);
        for (rejects, without, verdict) in [
            (true, Accepted, WEAK),
            (true, Neutral, WEAK),
            (true, WEAK, WEAK),
            (true, STRONG, STRONG),
            (false, Accepted, Accepted),
            (false, Neutral, Neutral),
            (false, WEAK, Accepted),
            (false, STRONG, Accepted),
        ] {
            let test = RejectionPredicate(Arc::new(move |_| rejects));
            let (_, judged) = test.judge(Response::new(()), without);
            assert_eq!(judged, verdict, "{rejects} {without:?}");
        }
    }
}
