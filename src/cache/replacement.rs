//! [`Replacement`]: what comes in the place of a rejected token; and [`NotReplaced`], why nothing
//! does.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use super::{
    core::{Reason, RejectAction},
    driver::Driver,
    state::Call,
    waiting::Replacing,
};
use crate::challenge::Evidence;
use crate::{
    error::{ErrorClass, TokenError},
    token::issued::AccessToken,
};

/// The future of [`TokenCache::rejected`](crate::TokenCache::rejected). Dropping it stops nothing.
///
/// Polled again after its end, it returns an error of the class
/// [`Interrupted`](ErrorClass::Interrupted).
#[derive(Debug)]
pub struct Replacement {
    state: Replaced,
}

#[derive(Debug)]
enum Replaced {
    /// `None`: the result has been handed out.
    Ready(Option<Result<AccessToken, NotReplaced>>),
    Waiting(Replacing),
}

impl Replacement {
    /// Returns what `action` comes to, for a `call` that was rejected.
    pub(crate) fn new(
        driver: &Arc<Driver>,
        action: RejectAction,
        call: Call,
        evidence: Evidence,
    ) -> Self {
        let state = match action {
            RejectAction::Retry(token) => Replaced::Ready(Some(Ok(AccessToken::new(token)))),
            RejectAction::Wait(flight) => {
                Replaced::Waiting(Replacing::new(driver, &flight, call, evidence))
            }
            RejectAction::GiveUp(reason) => Replaced::Ready(Some(Err(NotReplaced::new(reason)))),
        };
        Self { state }
    }
}

impl Future for Replacement {
    type Output = Result<AccessToken, NotReplaced>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut self.get_mut().state;
        let result = match state {
            Replaced::Ready(result) => result.take().unwrap_or_else(|| Err(polled_again())),
            Replaced::Waiting(replacing) => {
                let result = ready!(Pin::new(replacing).poll(cx));
                result.map(AccessToken::new).map_err(NotReplaced::new)
            }
        };
        *state = Replaced::Ready(None);
        Poll::Ready(result)
    }
}

/// Returns the error of a future that is polled after its end: a `Pending` would hang its caller.
fn polled_again() -> NotReplaced {
    const AGAIN: &str = "the future of a replacement was polled after it had ended";
    NotReplaced::new(Reason::Failed(TokenError::new(ErrorClass::Interrupted, AGAIN)))
}

/// Why a rejected token was not replaced, and the response that rejected it stands.
///
/// The layer puts it into the extensions of the 401 that it returns.
///
/// ```
/// use tower_oauth2_client_credentials::NotReplaced;
///
/// fn explain<B>(response: &http::Response<B>) -> Option<String> {
///     Some(response.extensions().get::<NotReplaced>()?.to_string())
/// }
/// # assert_eq!(explain(&http::Response::new(())), None);
/// ```
#[derive(Clone, Debug)]
pub struct NotReplaced {
    why: Why,
}

#[derive(Clone, Debug)]
enum Why {
    Stands(Reason),
    NotReplayable,
}

impl NotReplaced {
    pub(crate) fn new(why: Reason) -> Self {
        Self { why: Why::Stands(why) }
    }

    pub(crate) fn not_replayable() -> Self {
        Self { why: Why::NotReplayable }
    }

    /// The failure of the renewal, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<&TokenError> {
        match &self.why {
            Why::Stands(Reason::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// The request could not be sent again: its body was not kept, or it has been redirected and
    /// may have had its effect. The token has been rejected all the same, and the next call will
    /// have a newer one.
    #[must_use]
    pub fn is_not_replayable(&self) -> bool {
        matches!(self.why, Why::NotReplayable)
    }

    /// Renewals were of no use lately, so none was forced.
    #[must_use]
    pub fn is_cooling_down(&self) -> bool {
        matches!(self.why, Why::Stands(Reason::Cooldown { .. }))
    }

    /// When a newer token will be asked for again, if that is known.
    #[must_use]
    pub fn retry_at(&self) -> Option<SystemTime> {
        match &self.why {
            Why::Stands(Reason::Cooldown { until }) => Some(*until),
            Why::Stands(Reason::Failed(error)) => error.retry_at(),
            _ => None,
        }
    }

    /// The request was sent again with a newer token, and that was rejected as well; or the
    /// server had no other token to give.
    #[must_use]
    pub fn is_futile(&self) -> bool {
        matches!(self.why, Why::Stands(Reason::ReplayRejected | Reason::SameToken))
    }
}

impl fmt::Display for NotReplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::NotReplayable => f.write_str("the request could not be sent again"),
            Why::Stands(Reason::SameToken) => {
                f.write_str("the authorization server has no newer token")
            }
            Why::Stands(Reason::Cooldown { .. }) => {
                f.write_str("newer tokens were rejected as well, so none is asked for now")
            }
            Why::Stands(Reason::ReplayRejected) => {
                f.write_str("the newer token was rejected as well")
            }
            Why::Stands(Reason::Failed(error)) => write!(f, "no newer token: {error}"),
        }
    }
}

impl std::error::Error for NotReplaced {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The error's own words are in ours.
        self.error().and_then(std::error::Error::source)
    }
}
