//! [`Replacement`], the token that replaces a rejected one; and [`NotReplaced`], the reason why
//! there is none.

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
use crate::{
    error::{ErrorClass, TokenError},
    policy::challenge::Evidence,
    token::issued::AccessToken,
};

/// The future of [`TokenCache::rejected`](crate::TokenCache::rejected). Dropping it does not cancel
/// the renewal.
///
/// Polled again after its end, it returns an error of the class
/// [`Interrupted`](ErrorClass::Interrupted).
#[derive(Debug)]
pub struct Replacement {
    state: Replaced,
}

#[derive(Debug)]
enum Replaced {
    /// `None` once the result has been returned.
    Ready(Option<Result<AccessToken, NotReplaced>>),
    Waiting(Replacing),
}

impl Replacement {
    /// Returns the future that carries out `action` for a `call` that was rejected.
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

/// Returns the error of a future that is polled after completion: a `Pending` would hang its
/// caller.
fn polled_again() -> NotReplaced {
    const AGAIN: &str = "the future of a replacement was polled after it had ended";
    NotReplaced::new(Reason::Failed(TokenError::new(ErrorClass::Interrupted, AGAIN)))
}

/// The reason why a rejected token was not replaced, so that the rejecting response is final.
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

    /// Returns the error of the renewal, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<&TokenError> {
        match &self.why {
            Why::Stands(Reason::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// Returns `true` if the request could not be sent again: its body was not kept, or it was
    /// redirected and may have taken effect. The rejection still counts, and the next call gets a
    /// newer token where one can be fetched.
    #[must_use]
    pub fn is_not_replayable(&self) -> bool {
        matches!(self.why, Why::NotReplayable)
    }

    /// Returns `true` if no renewal was forced because recent ones were ineffective.
    #[must_use]
    pub fn is_cooling_down(&self) -> bool {
        matches!(self.why, Why::Stands(Reason::Cooldown { .. }))
    }

    /// Returns the time at which a newer token is requested again, if it is known.
    #[must_use]
    pub fn retry_at(&self) -> Option<SystemTime> {
        match &self.why {
            Why::Stands(Reason::Cooldown { until }) => Some(until.0),
            Why::Stands(Reason::Failed(error)) => error.retry_at(),
            _ => None,
        }
    }

    /// Returns `true` if the request was sent again with a newer token and rejected as well, or if
    /// the server issued no other token.
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
            Why::Stands(Reason::Cooldown { until }) => {
                write!(f, "newer tokens were rejected as well, so the next is asked for {until}")
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
        // This error's text includes that of the token error, so the source is the next one.
        self.error().and_then(std::error::Error::source)
    }
}
