//! The names of spans and events, in one place; their target is the crate's name,
//! `tower_oauth2_client_credentials`. Without the feature `tracing` every function here
//! is empty, so that no call site carries a `cfg`.
//!
//! | span or event | level | fields |
//! |---|---|---|
//! | span `oauth2.renewal` | INFO | `endpoint`, `client_id`, `attempt`, `class`, `duration_ms`, `lifetime_s` |
//! | `token renewed` | INFO | `generation`, `trigger`, `attempt`, `lifetime_s`, `duration_ms` |
//! | `renewal failed` | WARN | `class`, `trigger`, `error`, `cause`, `attempt`, `duration_ms` |
//! | `odd token type` | WARN | `endpoint`, `token_type` |
//! | `attempt failed` | DEBUG | `attempt`, `class`, `error`, `cause` |
//! | `token rejected` | INFO, DEBUG | `generation`, `challenge`, `sending`, `decision`, `error` |
//! | `rejection stands` | INFO, then DEBUG | `generation`, `reason` |
//! | `not a rejection` | DEBUG | `generation`, `verdict` |
//!
//! `endpoint` and `client_id` are those of the first attempt, for programs with several tokens.
//! They are absent if the credentials were unavailable. The span's other fields are recorded when
//! it ends: `attempt` is the number of attempts, `class` the class of the failure, if it failed,
//! and `lifetime_s` the token's lifetime, if it expires. `cause` is the text of the error's
//! sources, if it has any.
//!
//! `odd token type` is emitted once per token endpoint: see
//! [`Dialect::strict_token_type`](crate::Dialect::strict_token_type).
//!
//! Each decision about a 401 emits one event: `not a rejection`, or `token rejected` with the
//! decision. If a planned replay does not take place, `rejection stands` gives the reason.
//!
//! The renewal's span has no parent, because it outlives the request that started it. No field ever
//! contains a secret or a token.

use std::time::Duration;

use http::Uri;

use crate::{
    cache::{NotReplaced, Outcome, Reason, RejectAction, Sending},
    error::TokenError,
    policy::challenge::{Evidence, Verdict},
    token::{Attempt, Trigger},
};

#[cfg(not(feature = "tracing"))]
pub(crate) use self::off::{RenewalSpan, within};
#[cfg(feature = "tracing")]
pub(crate) use self::on::{RenewalSpan, within};

/// The target of all spans and events.
#[cfg(feature = "tracing")]
const TARGET: &str = "tower_oauth2_client_credentials";

/// Reports the end of a renewal, after `attempts` attempts.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn renewed(
    span: &RenewalSpan,
    trigger: Trigger,
    outcome: &Outcome,
    attempts: u32,
    took: Duration,
) {
    #[cfg(feature = "tracing")]
    span.end(trigger, outcome, attempts, took);
}

/// Reports that the request of a rejected token is not sent again after all. Emitted at INFO once
/// for each token and kind of reason, like [`rejected`].
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn stands(generation: u64, why: &NotReplaced, is_new: bool) {
    #[cfg(feature = "tracing")]
    if is_new {
        tracing::info!(target: TARGET, generation, reason = %why, "rejection stands");
    } else {
        tracing::debug!(target: TARGET, generation, reason = %why, "rejection stands");
    }
}

/// Reports a 401 that says nothing about the token of its request.
#[cold]
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn not_a_rejection(generation: u64, verdict: Verdict) {
    #[cfg(feature = "tracing")]
    tracing::debug!(
    target: TARGET,
            generation,
            verdict = match verdict {
                Verdict::Neutral => "not about the token",
                _ => "the token is accepted",
            },
            "not a rejection"
        );
}

/// Records the target of a token request that is about to be sent, in the renewal's span.
///
/// Only the first attempt records it: a field that is recorded twice is shown twice.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn asks(attempt: Attempt, endpoint: &Uri, client_id: &str) {
    #[cfg(feature = "tracing")]
    if attempt.number() == 1 {
        let host = endpoint.authority().map(http::uri::Authority::as_str);
        tracing::Span::current().record("endpoint", host).record("client_id", client_id);
    }
}

/// Reports a `token_type` other than `Bearer`, of a token that is used as a bearer token.
#[cold]
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn odd_token_type(endpoint: &Uri, token_type: &str) {
    #[cfg(feature = "tracing")]
    {
        let endpoint = endpoint.authority().map(http::uri::Authority::as_str);
        tracing::warn!(target: TARGET, endpoint, token_type, "odd token type");
    }
}

/// Reports a failed attempt of a renewal.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn attempt_failed(attempt: u32, error: &TokenError) {
    #[cfg(feature = "tracing")]
    {
        let (class, cause) = (error.class().as_str(), error.cause());
        tracing::debug!(target: TARGET, attempt, class, %error, cause = cause.as_deref(), "attempt failed");
    }
}

/// Reports a rejected request, and the decision. The first decision of a kind about a token is
/// emitted at INFO, the others at DEBUG: an API may respond 401 at any rate.
#[allow(unused_variables, reason = "without `tracing` nothing is said")]
pub(crate) fn rejected(
    generation: u64,
    evidence: Evidence,
    sending: Sending,
    action: &RejectAction,
    is_new: bool,
) {
    #[cfg(feature = "tracing")]
    {
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    target: TARGET,
                    generation,
                    challenge = match evidence {
                        Evidence::Strong => "invalid_token",
                        Evidence::Weak => "bare",
                    },
                    sending = match sending {
                        Sending::First => "first",
                        Sending::Replay => "replay",
                    },
                    decision = decision(action).0,
                    error = match action {
                        RejectAction::GiveUp(Reason::Failed(error)) => {
                            Some(tracing::field::display(error))
                        }
                        _ => None,
                    },
                    "token rejected"
                )
            };
        }
        if is_new { tell!(info) } else { tell!(debug) }
    }
}

/// The kinds of decisions about the newest token that were emitted at INFO.
#[derive(Debug, Default)]
pub(crate) struct Told {
    generation: u64,
    decisions: u8,
}

impl Told {
    /// Returns `true` the first time that `action` is decided about the token of `generation`.
    pub(crate) fn is_new(&mut self, generation: u64, action: &RejectAction) -> bool {
        self.is_new_bit(generation, decision(action).1)
    }

    /// Returns `true` the first time that a request with the token of `generation` is not sent
    /// again, for this kind of reason.
    pub(crate) fn is_new_end(&mut self, generation: u64, why: &NotReplaced) -> bool {
        self.is_new_bit(generation, if why.is_not_replayable() { 6 } else { 7 })
    }

    fn is_new_bit(&mut self, generation: u64, bit: u8) -> bool {
        if self.generation < generation {
            *self = Self { generation, decisions: 0 };
        }
        let bit = 1 << bit;
        let is_new = self.generation == generation && self.decisions & bit == 0;
        self.decisions |= bit;
        is_new
    }
}

/// Returns the name of a decision in events, and its bit in [`Told`], which has two more.
fn decision(action: &RejectAction) -> (&'static str, u8) {
    match action {
        RejectAction::Retry(_) => ("replay", 0),
        RejectAction::Wait(_) => ("renew", 1),
        RejectAction::GiveUp(Reason::SameToken) => ("same token", 2),
        RejectAction::GiveUp(Reason::Cooldown { .. }) => ("cooldown", 3),
        RejectAction::GiveUp(Reason::ReplayRejected) => ("replay rejected", 4),
        RejectAction::GiveUp(Reason::Failed(_)) => ("renewal failed", 5),
    }
}

#[cfg(feature = "tracing")]
mod on {
    use std::{future::Future, time::Duration};

    use tracing::{Instrument as _, Span, field::Empty};

    use super::TARGET;
    use crate::{cache::Outcome, token::Trigger};

    #[derive(Clone, Debug)]
    pub(crate) struct RenewalSpan(Span);

    impl RenewalSpan {
        pub(crate) fn new() -> Self {
            Self(tracing::info_span!(
            target: TARGET,
                            parent: None,
                            "oauth2.renewal",
                            endpoint = Empty,
                            client_id = Empty,
                            attempt = Empty,
                            class = Empty,
                            duration_ms = Empty,
                            lifetime_s = Empty,
                        ))
        }

        /// Ends the span. Must be called once, since a field that is recorded twice is shown twice.
        pub(super) fn end(
            &self,
            trigger: Trigger,
            outcome: &Outcome,
            attempt: u32,
            took: Duration,
        ) {
            let trigger = trigger.as_str();
            let Self(span) = self;
            let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            match outcome {
                Ok(snapshot) => {
                    let lifetime = snapshot.schedule.lifetime();
                    let lifetime_s = (lifetime != Duration::MAX).then_some(lifetime.as_secs());
                    tracing::info!(
                    target: TARGET,
                                            parent: span,
                                            generation = snapshot.generation,
                                            trigger,
                                            attempt,
                                            lifetime_s,
                                            duration_ms,
                                            "token renewed"
                                        );
                    span.record("lifetime_s", lifetime_s);
                }
                Err(error) => {
                    let (class, cause) = (error.class().as_str(), error.cause());
                    tracing::warn!(
                    target: TARGET,
                                            parent: span,
                                            class,
                                            trigger,
                                            %error,
                                            cause = cause.as_deref(),
                                            attempt,
                                            duration_ms,
                                            "renewal failed"
                                        );
                    span.record("class", class);
                }
            }
            // After the event, which has the same fields: a log line would show the span's beside
            // its own.
            span.record("attempt", attempt).record("duration_ms", duration_ms);
        }
    }

    /// Runs `future` in the renewal's span.
    pub(crate) fn within<F: Future>(
        span: RenewalSpan,
        future: F,
    ) -> impl Future<Output = F::Output> {
        future.instrument(span.0)
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::future::Future;

    #[derive(Clone, Debug)]
    pub(crate) struct RenewalSpan;

    impl RenewalSpan {
        pub(crate) fn new() -> Self {
            Self
        }
    }

    /// Returns `future` unchanged.
    pub(crate) fn within<F: Future>(_: RenewalSpan, future: F) -> F {
        future
    }
}
