//! The names of spans and events, in one place. Without the feature `tracing` every function here
//! is empty, so that no call site carries a `cfg`.
//!
//! | span or event | level | fields |
//! |---|---|---|
//! | span `oauth2.renewal` | INFO | |
//! | `token renewed` | INFO | `generation`, `forced`, `lifetime_s`, `duration_ms` |
//! | `renewal failed` | WARN | `class`, `error`, `duration_ms` |
//! | `attempt failed` | DEBUG | `attempt`, `class`, `error` |
//! | `token rejected` | INFO | `generation`, `challenge`, `sending`, `decision`, `error` |
//!
//! The renewal's span has no parent: it outlives the request that set it off. No field ever holds
//! a secret or a token.

use crate::{
    error::TokenError,
    token::{Outcome, Rejection, Sending, Staleness},
};

#[cfg(not(feature = "tracing"))]
pub(crate) use self::off::{RenewalSpan, within};
#[cfg(feature = "tracing")]
pub(crate) use self::on::{RenewalSpan, within};

/// The span of a renewal.
pub(crate) fn renewal_span() -> RenewalSpan {
    RenewalSpan::new()
}

/// A renewal has ended.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn renewed(outcome: &Outcome, took: std::time::Duration) {
    #[cfg(feature = "tracing")]
    on::renewed(outcome, took);
}

/// One attempt of a renewal has failed.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn attempt_failed(attempt: u32, error: &TokenError) {
    #[cfg(feature = "tracing")]
    tracing::debug!(attempt, class = error.class().as_str(), %error, "attempt failed");
}

/// A request was rejected, and this was decided.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn rejected(
    generation: u64,
    staleness: Staleness,
    sending: Sending,
    decision: &Rejection,
) {
    #[cfg(feature = "tracing")]
    {
        let error = match decision {
            Rejection::Stand(crate::token::Standstill::Failed(error)) => Some(error),
            _ => None,
        };
        tracing::info!(
            generation,
            challenge = match staleness {
                Staleness::Invalid => "invalid_token",
                Staleness::Unclear => "bare",
            },
            sending = match sending {
                Sending::First => "first",
                Sending::Replay => "replay",
            },
            decision = decision.as_str(),
            error = error.map(tracing::field::display),
            "token rejected"
        );
    }
}

#[cfg(feature = "tracing")]
mod on {
    use std::{future::Future, time::Duration};

    use tracing::{Instrument as _, Span};

    use crate::token::Outcome;

    #[derive(Debug)]
    pub(crate) struct RenewalSpan(Span);

    impl RenewalSpan {
        pub(super) fn new() -> Self {
            Self(tracing::info_span!(parent: None, "oauth2.renewal"))
        }
    }

    /// `future`, inside of `span`.
    pub(crate) fn within<F: Future>(
        span: RenewalSpan,
        future: F,
    ) -> impl Future<Output = F::Output> {
        future.instrument(span.0)
    }

    pub(super) fn renewed(outcome: &Outcome, took: Duration) {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(snapshot) => tracing::info!(
                generation = snapshot.generation,
                forced = snapshot.forced,
                lifetime_s = snapshot.schedule.lifetime().as_secs(),
                duration_ms,
                "token renewed"
            ),
            Err(error) => {
                tracing::warn!(class = error.class().as_str(), %error, duration_ms, "renewal failed");
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::future::Future;

    #[derive(Debug)]
    pub(crate) struct RenewalSpan;

    impl RenewalSpan {
        pub(super) fn new() -> Self {
            Self
        }
    }

    /// `future`, as it is.
    pub(crate) fn within<F: Future>(_: RenewalSpan, future: F) -> F {
        future
    }
}
