//! What the layer is told to do besides the token: where the token may go, what counts as a
//! rejection, how much of a request is kept.

use std::{fmt, sync::Arc};

use http::{Response, response::Parts};

use crate::{
    challenge::{self, Evidence, Verdict},
    origin::OriginRules,
};

/// How much of a streaming body is kept by default, in bytes.
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) origins: OriginRules,
    pub(crate) existing: Existing,
    pub(crate) challenges: challenge::Rules,
    pub(crate) test: Option<Test>,
    pub(crate) replay_limit: usize,
}

/// What becomes of an `Authorization` header that a request already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the request is none of the layer's business.
    Keep,
    Replace,
}

/// A user's own test for "this response rejects the token".
#[derive(Clone)]
pub(crate) struct Test(pub(crate) Arc<dyn Fn(&Parts) -> bool + Send + Sync>);

/// Left in a response's extensions by an adapter whose client follows redirects itself. It is only
/// looked for once a response rejects the token.
#[cfg(feature = "reqwest")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirected {
    /// Another origin has answered, which never saw the token.
    Elsewhere,
    /// The origin has answered, but to another request: this one may have had its effect, and must
    /// not be sent again.
    AfterEffect,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            origins: OriginRules::default(),
            existing: Existing::Keep,
            challenges: challenge::Rules::default(),
            test: None,
            replay_limit: REPLAY_LIMIT,
        }
    }
}

impl Rules {
    /// What `response` says about the token that its request carried.
    pub(crate) fn judge<R>(&self, response: &Response<R>) -> Verdict {
        self.challenges.judge(response.status(), response.version(), response.headers())
    }

    /// At a glance: it accepts the token, whatever the rules. `false` says nothing. A user's own
    /// test is not asked.
    #[inline]
    pub(crate) fn surely_accepts<R>(response: &Response<R>) -> bool {
        challenge::Rules::surely_accepts(response.status(), response.version(), response.headers())
    }
}

/// Is the rejection another origin's, and so none?
#[cold]
#[cfg_attr(not(feature = "reqwest"), allow(unused_variables, reason = "nobody marks responses"))]
pub(crate) fn is_from_elsewhere<R>(response: &Response<R>) -> bool {
    #[cfg(feature = "reqwest")]
    return response.extensions().get() == Some(&Redirected::Elsewhere);
    #[cfg(not(feature = "reqwest"))]
    false
}

/// May the request have had its effect, although the response says 401?
#[cold]
#[cfg_attr(not(feature = "reqwest"), allow(unused_variables, reason = "nobody marks responses"))]
pub(crate) fn may_have_had_effect<R>(response: &Response<R>) -> bool {
    #[cfg(feature = "reqwest")]
    return response.extensions().get() == Some(&Redirected::AfterEffect);
    #[cfg(not(feature = "reqwest"))]
    false
}

impl Test {
    /// The same by the user's test. `verdict` is what it would be without.
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

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Test")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user's test says whether it is a rejection. How clear a word it is, and whether a response
    /// that is none accepts the token, is still read from the response.
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
            let test = Test(Arc::new(move |_| rejects));
            let (_, judged) = test.judge(Response::new(()), without);
            assert_eq!(judged, verdict, "{rejects} {without:?}");
        }
    }
}
