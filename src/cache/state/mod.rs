//! Every decision about one token, as data: use it, renew it, wait, refuse, replay.
//!
//! [`State`] does no I/O, takes no lock, reads no clock and rolls no dice. It holds numbers and
//! times only, so it can be cloned, compared and enumerated. [`core`](super::core) holds the texts of
//! the tokens and the errors; [`driver`](super::driver) owns the lock, the wakers and the tasks.
//!
//! # Contract
//!
//! There are four kinds of methods, as in quinn-proto's `Connection`:
//!
//! - **A, getters**: [`newest`](State::newest), [`former`](State::former),
//!   [`usable`](State::usable), [`untried`](State::untried), [`is_rejected`](State::is_rejected),
//!   [`issued`](State::issued), [`due`](State::due), [`stale_refusal`](State::stale_refusal). They
//!   change nothing.
//! - **B, input**: [`on`](State::on) takes one [`Event`] and the time. The caller holds the lock
//!   from before it gathers the event's facts (is the text the same as before?) until it has stored
//!   what [`newest`](State::newest) and [`former`](State::former) say now.
//! - **C, output**: [`Effects`] is everything that has to happen as a result, in this order: store
//!   the tokens, change the epoch, release the lock, complete the flights that were given up,
//!   launch, answer.
//! - **D, construction**: [`State::new`].
//!
//! # Which token is used
//!
//! A renewal replaces a token that is still usable, and some APIs do not accept the new one at
//! once: its `nbf` lies ahead of their clock, or its key is not in their copy of the key set yet.
//! So the former token is kept until it expires, unless it was rejected. N is the newest token, F
//! the former one:
//!
//! ```text
//!                     background renewal lands              401 with N
//!            ┌───────────────────────────────▶ Trial ─────────────────────▶ Benched ◀─┐ 401 with
//!            │                                  │  ▲   (F used, N waits:       │  │   │ the probe:
//!            │              200 with N          │  │    1 s, doubling, ≤ 60 s) │  └───┘ pause × 2
//!         Proven ◀──────────────────────────────┤  └───────────────────────────┤
//!            ▲  ◀─────────────── 200 with N, by a probe, one request a pause ──┤
//!            │                                  │                              │
//!            │ 200 with N                       │ 401 with F, or F expires     │
//!            └──────────────────────────────── Alone ◀─────────────────────────┘
//!                                               ▲
//!                 cold start, forced renewal ───┘
//! ```
//!
//! In every phase, the renewal follows N's schedule. Once F is dropped it never returns, so two
//! tokens cannot alternate without end.
//!
//! # Triggers
//!
//! At most one renewal is in flight. [`Trigger`] is the reason for its launch. A request that needs
//! a newer token joins it, whatever its trigger.

mod acquire;
mod breaker;
#[cfg(test)]
mod enumeration;
mod failure;
mod landing;
mod rejection;

use std::time::Duration;

use self::{
    breaker::Breaker,
    failure::{Failure, Streak},
};
pub(crate) use self::{
    failure::Failed,
    landing::{Issued, Landed, SameAs},
    rejection::{Call, Rejected, Sending},
};
use super::budget::{Budget, Purpose};
use crate::{
    clock::Now,
    error::ErrorClass,
    policy::challenge::Evidence,
    token::{Schedule, Trigger, schedule::LifetimeLimits},
};

/// A renewal that has not ended this long after its deadline is not being polled.
const OVERDUE_GRACE: Duration = Duration::from_secs(5);

/// The longest wait for a renewal by a caller that has a usable token.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time for which `invalid_token` makes other callers wait for the renewal that it forces.
const BLOCK: Duration = Duration::from_secs(2);

/// The decisions about one token. See the [module](self) for the contract.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    limits: Limits,
    newest: Option<Token>,
    former: Option<Token>,
    phase: Phase,
    in_flight: Option<InFlight>,
    failure: Option<Failure>,
    streak: Streak,
    breaker: Breaker,
    budget: Option<Budget>,
    issued: u64,
    /// The first generation after the newest token's that stands for an uncacheable token.
    uncacheable_from: Option<u64>,
    generations: u64,
    flights: u64,
    failures: u64,
}

/// The settings that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) lifetimes: LifetimeLimits,
    pub(crate) renewal_timeout: Duration,
}

/// A token as the state knows it: without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The number that stands for the text. A token that the server issues again keeps its number.
    pub(crate) generation: u64,
    pub(crate) schedule: Schedule,
    /// Whether a rejection caused the renewal that fetched it.
    pub(crate) forced: bool,
    /// The last generation under which it was sent to probe the API. At least `generation`.
    last_probe: u64,
    /// Whether an API rejected it, and nothing suggests that the API misuses 401.
    is_rejected: bool,
}

/// The phase, which selects the token that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The newest: a request with it was accepted.
    Proven,
    /// The newest, until a request with it is rejected. There is a former one to fall back to.
    Trial,
    /// The former. At `next`, one request probes whether the newest is accepted by now.
    Benched { pause: Duration, next: Duration, probe: Option<u64> },
    /// The newest, as there is no other. No request with it was accepted yet.
    Alone,
}

/// The number of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightId(u64);

/// The renewal in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlight {
    id: FlightId,
    trigger: Trigger,
    launched: Duration,
    /// The time until which other callers wait for it, because an API called the newest token
    /// invalid.
    blocks_until: Option<Duration>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A caller needs a token.
    Acquire,
    /// The timer of a cache that is kept warm has run out.
    TimerDue,
    /// An API rejected a request's token.
    Rejected(Rejected),
    /// The renewal that a rejected call waited for has ended.
    Replace { call: Call, evidence: Evidence },
    /// An API accepted a request's token.
    Accepted { generation: u64, sending: Sending },
    /// The source returned the version of its credentials. It was asked because of the failure with
    /// this number.
    CredentialsVersion { failure: u64, version: u64 },
    /// A renewal is about to ask the source again. `is_resend` means immediately, because the last
    /// request was lost with its connection.
    AttemptStarts { flight: FlightId, is_resend: bool },
    /// An attempt has failed. `is_free` means that no token can have been issued to it, so the
    /// budget that was reserved at this time is returned.
    AttemptFailed { reserved: Duration, is_free: bool },
    /// A renewal has ended.
    Landed(Landed),
}

/// The effects of an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effects {
    pub(crate) answer: Answer,
    pub(crate) launch: Option<Launch>,
    /// The renewal to complete with an error, and whose task to abort.
    pub(crate) give_up: Option<FlightId>,
    /// Whether the handles' cached copies may be outdated.
    pub(crate) epoch_changed: bool,
}

/// A renewal to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) flight: FlightId,
    pub(crate) trigger: Trigger,
    /// The time at which budget was reserved for its first attempt.
    pub(crate) reserved: Duration,
    /// The most attempts of this renewal while its failures are transient.
    pub(crate) attempts: u32,
}

/// The answer to the caller that an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There is no answer.
    None,
    Use(Usable),
    /// The caller waits for the renewal, but asks again at `until`.
    Wait {
        flight: FlightId,
        until: Option<Duration>,
    },
    Refuse(Refusal),
}

/// A token to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usable {
    pub(crate) which: Which,
    /// The generation that the request carries.
    pub(crate) generation: u64,
    /// The time until which it can be used without asking again, while the epoch stays the same.
    pub(crate) until: Now,
    /// Whether the first response that accepts it must be reported.
    pub(crate) on_probation: bool,
}

/// The place of a token's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Newest,
    Former,
    /// The event brought the token, which is not kept.
    Uncacheable,
}

/// The reason why there is no token to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The last renewal failed; the next may start at `until`.
    Failed { until: Option<Now> },
    /// The issuance budget is used up until `until`.
    Budget { until: Duration },
    /// The server issues no token other than the rejected one.
    SameToken,
    /// Recent forced renewals were ineffective; the next may be forced at `until`.
    Cooldown { until: Duration },
    /// The newer token was rejected as well.
    ReplayRejected,
}

impl Refusal {
    /// Returns the time from which asking again makes sense, `deadline` at the latest.
    fn before(self, deadline: Now) -> Now {
        let until = match self {
            Self::Failed { until: Some(until) } => until,
            // Only the monotonic clock counts: setting the wall clock must not spend tokens.
            Self::Budget { until } => Now { mono: until, wall: Duration::MAX },
            _ => return deadline,
        };
        until.min(deadline)
    }
}

impl State {
    pub(crate) fn new(limits: Limits, budget: Option<Budget>) -> Self {
        Self {
            limits,
            newest: None,
            former: None,
            phase: Phase::Alone,
            in_flight: None,
            failure: None,
            streak: Streak::default(),
            breaker: Breaker::new(),
            budget,
            issued: 0,
            uncacheable_from: None,
            generations: 0,
            flights: 0,
            failures: 0,
        }
    }

    /// Applies `event`, and returns its effects.
    pub(crate) fn on(&mut self, event: Event, now: Now) -> Effects {
        let before = self.view();
        // Copies made while a renewal was in flight are valid for as long as it might take.
        let had_flight = self.in_flight.map(|flight| flight.id);
        let mut launch = None;
        let give_up = match event {
            // The caller carries out no effects of these events.
            Event::Landed(_)
            | Event::AttemptStarts { .. }
            | Event::AttemptFailed { .. }
            | Event::CredentialsVersion { .. } => None,
            _ => self.take_overdue(now),
        };
        self.drop_expired_former(now);
        let answer = match event {
            Event::Acquire => self.acquire(now, &mut launch),
            Event::TimerDue => self.renew_ahead(now, &mut launch),
            Event::Rejected(rejected) => self.rejected(&rejected, now, &mut launch),
            Event::Replace { call, evidence } => {
                self.replace_after_wait(&call, evidence, now, &mut launch)
            }
            Event::Accepted { generation, sending } => self.accepted(generation, sending),
            Event::CredentialsVersion { failure, version } => {
                self.credentials_version(failure, version)
            }
            Event::AttemptStarts { flight, is_resend } => {
                self.attempt_starts(flight, is_resend, now)
            }
            Event::AttemptFailed { reserved, is_free } => {
                if let Some(budget) = &mut self.budget {
                    if is_free { budget.refund(reserved) } else { budget.wasted(now.mono) }
                }
                Answer::None
            }
            Event::Landed(landed) => self.landed(landed, now),
        };
        let has_ended = had_flight.is_some() && had_flight != self.in_flight.map(|f| f.id);
        let epoch_changed = has_ended || self.view() != before;
        Effects { answer, launch, give_up, epoch_changed }
    }

    /// Returns everything that a cached copy of the answer to [`Event::Acquire`] depends on,
    /// besides time.
    fn view(&self) -> impl PartialEq + use<> {
        let token = |token: &Token| (token.generation, token.schedule);
        (
            self.newest.as_ref().map(token),
            self.former.as_ref().map(|former| (token(former), former.is_rejected)),
            matches!(self.phase, Phase::Benched { .. }),
            self.is_on_probation(),
            self.in_flight.and_then(|flight| flight.blocks_until),
        )
    }

    pub(crate) fn newest(&self) -> Option<Token> {
        self.newest
    }

    pub(crate) fn former(&self) -> Option<Token> {
        self.former
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// Returns a usable token, for callers that cannot wait. Does not probe.
    pub(crate) fn usable(&self, now: Now) -> Option<Which> {
        let former = self.usable_former(now).map(|_| Which::Former);
        let newest = self.usable_newest(now).map(|_| Which::Newest);
        if self.is_benched(now) { former.or(newest) } else { newest.or(former) }
    }

    fn usable_newest(&self, now: Now) -> Option<Token> {
        self.newest.filter(|token| token.schedule.is_usable(now))
    }

    fn usable_former(&self, now: Now) -> Option<Token> {
        self.former.filter(|token| !token.is_rejected && token.schedule.is_usable(now))
    }

    /// Returns `true` if the former token is used instead of the newest, until its hard point.
    fn is_benched(&self, now: Now) -> bool {
        matches!(self.phase, Phase::Benched { .. })
            && self.former.is_some_and(|former| former.schedule.is_before_hard(now))
    }

    /// Returns `true` if the first response that accepts the newest token must be reported.
    fn is_on_probation(&self) -> bool {
        self.newest.is_some() && self.phase != Phase::Proven || self.breaker.is_watching()
    }

    /// Returns `true` if the acceptance of a first sending with the newest token would change
    /// nothing.
    pub(super) fn knows_acceptance(&self) -> bool {
        self.phase == Phase::Proven
            && self.newest.is_none_or(|newest| !newest.is_rejected)
            && self.breaker.knows_acceptance()
    }

    fn drop_expired_former(&mut self, now: Now) {
        if self.former.is_some_and(|former| !former.schedule.is_usable(now)) {
            self.drop_former();
        }
    }

    fn drop_former(&mut self) {
        self.former = None;
        if self.phase != Phase::Proven {
            self.phase = Phase::Alone;
        }
    }

    /// Takes the renewal in flight if it is overdue: its runtime is alive, but not driven.
    fn take_overdue(&mut self, now: Now) -> Option<FlightId> {
        let limit = self.limits.renewal_timeout.saturating_add(OVERDUE_GRACE);
        let overdue = |flight: &mut InFlight| now.mono.saturating_sub(flight.launched) > limit;
        self.in_flight.take_if(overdue).map(|flight| flight.id)
    }

    /// Joins the renewal in flight, or starts one unless a failure or the budget forbids it.
    fn renewal(
        &mut self,
        trigger: Trigger,
        now: Now,
        launch: &mut Option<Launch>,
    ) -> Result<InFlight, Refusal> {
        if let Some(flight) = self.in_flight {
            return Ok(flight);
        }
        if let Some(until) = self.failure_until(now).filter(|&until| now.is_before(until)) {
            return Err(Refusal::Failed { until: Some(until) });
        }
        if let Some(budget) = &mut self.budget {
            budget
                .reserve(purpose(trigger), now.mono)
                .map_err(|until| Refusal::Budget { until })?;
        }
        self.flights += 1;
        let id = FlightId(self.flights);
        let flight = InFlight { id, trigger, launched: now.mono, blocks_until: None };
        self.in_flight = Some(flight);
        let attempts = if self.streak.is_failing() { 1 } else { 3 };
        *launch = Some(Launch { flight: id, trigger, reserved: now.mono, attempts });
        Ok(flight)
    }

    /// Reserves budget for an attempt after the first ([`renewal`](Self::renewal) reserves that
    /// one's).
    fn attempt_starts(&mut self, flight: FlightId, is_resend: bool, now: Now) -> Answer {
        let trigger =
            self.in_flight.filter(|f| f.id == flight).map_or(Trigger::Soft, |f| f.trigger);
        let Some(budget) = &mut self.budget else { return Answer::None };
        if is_resend {
            budget.end_pause();
        }
        match budget.reserve(purpose(trigger), now.mono) {
            Ok(()) => Answer::None,
            Err(until) => Answer::Refuse(Refusal::Budget { until }),
        }
    }

    /// Renews the token for the timer of a cache that is kept warm. No caller waits for it.
    fn renew_ahead(&mut self, now: Now, launch: &mut Option<Launch>) -> Answer {
        if self.in_flight.is_none()
            && self.newest.is_none_or(|newest| newest.schedule.is_before_soft(now))
        {
            return Answer::None;
        }
        match self.renewal(Trigger::Warmup, now, launch) {
            Ok(flight) => Answer::Wait { flight: flight.id, until: None },
            Err(refusal) => Answer::Refuse(refusal),
        }
    }
}

/// Returns the purpose of a token that is renewed for this reason.
fn purpose(trigger: Trigger) -> Purpose {
    match trigger {
        Trigger::Cold => Purpose::Needed,
        Trigger::Soft | Trigger::Hard | Trigger::Forced | Trigger::Warmup => Purpose::Convenience,
    }
}
