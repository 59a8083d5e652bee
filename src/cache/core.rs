//! [`Core`]: the state together with the objects that its numbers stand for, which are the texts of
//! the tokens, the flight and the errors. It translates between the two, under the lock of
//! [`Driver`](super::driver::Driver).

use std::{sync::Arc, time::Duration};

use super::{
    budget::Budget,
    flight::{Flight, Outcome},
    settings::Settings,
    state::{
        self, Effects, Event, Failed, FlightId, Issued, Landed, Launch, Limits, Refusal, SameAs,
        State, Usable, Which,
    },
    zero::LastZero,
};
use crate::{
    clock::Now,
    error::{ErrorClass, ShownTime, TokenError},
    random::Random,
    telemetry,
    token::issued::IssuedToken,
    token::schedule::Schedule,
    token::source::TokenResponse,
};

/// The state, and the objects that its numbers stand for.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) newest: Option<Arc<IssuedToken>>,
    former: Option<Arc<IssuedToken>>,
    flight: Option<(FlightId, Arc<Flight>)>,
    /// The error of the failure that the state remembers.
    remembered: Option<TokenError>,
    pub(super) last_error: Option<TokenError>,
    last_zero: LastZero,
    random: Random,
    pub(super) told: telemetry::Told,
}

/// The result of asking for a token.
#[derive(Debug)]
pub(crate) enum Answer {
    Use(Granted),
    Wait(Waiting),
    Refuse(TokenError),
}

/// A token to use, and the time until which the cache need not be asked again.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) snapshot: Arc<IssuedToken>,
    pub(crate) until: Now,
    /// Whether the cache waits for a report that a request with the token was accepted.
    pub(crate) watched: bool,
}

/// A renewal to wait for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) flight: Arc<Flight>,
    /// The time at which to ask again, if there is a usable token.
    pub(crate) until: Option<Duration>,
}

/// The answer to a caller whose token was rejected.
#[derive(Debug)]
pub(crate) enum RejectAction {
    /// The request is sent again with this token.
    Retry(Arc<IssuedToken>),
    /// The caller waits for the renewal, and asks again.
    Wait(Arc<Flight>),
    /// The response goes to the caller.
    GiveUp(Reason),
}

/// The reason why a rejected request is not sent again.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// The server issues no token other than the rejected one.
    SameToken,
    /// Recent forced renewals were ineffective; the next may be forced at `until`.
    Cooldown { until: ShownTime },
    /// The newer token was rejected as well.
    ReplayRejected,
    /// The renewal failed, or is not tried again yet.
    Failed(TokenError),
}

/// The end of a renewal, as reported by its task.
#[derive(Debug)]
pub(crate) struct End {
    /// The token and the time just before it was requested, or the error.
    pub(crate) result: Result<(TokenResponse, Now), TokenError>,
    pub(crate) credentials_version: u64,
    /// The number of issued tokens that could not be used.
    pub(crate) wasted: u32,
    /// Whether its task was aborted or its runtime shut down.
    pub(crate) is_interrupted: bool,
}

/// Effects that have to wait until the lock is released.
pub(super) struct AfterUnlock {
    pub(super) given_up: Option<(FlightId, Arc<Flight>)>,
    pub(super) launch: Option<(Launch, Arc<Flight>, Random)>,
    /// Errors to drop. One may contain an error of the source, whose `Drop` may call into the
    /// cache.
    pub(super) spent: Vec<TokenError>,
}

impl Core {
    pub(super) fn new(settings: &Settings) -> Self {
        let limits =
            Limits { lifetimes: settings.lifetimes, renewal_timeout: settings.renewal_timeout };
        let budget = settings.budget.map(|(tokens, per)| Budget::new(tokens, per));
        let mut core = Self {
            state: State::new(limits, budget),
            newest: None,
            former: None,
            flight: None,
            remembered: None,
            last_error: None,
            last_zero: LastZero::default(),
            random: settings.seed.map_or_else(Random::new, Random::seeded),
            told: telemetry::Told::default(),
        };
        if let Some(response) = settings.initial_token.clone() {
            let now = settings.clock.now();
            let seed = core.random.next();
            core.state.adopt(response.lifetime(), seed, now);
            core.store(Some(response));
        }
        core
    }

    /// Passes `event` to the state, and stores its effects. Sets the flag if the epoch has to
    /// change before the lock is released.
    pub(super) fn step(
        &mut self,
        event: Event,
        response: Option<TokenResponse>,
        now: Now,
    ) -> (state::Answer, bool, AfterUnlock) {
        let Effects { answer, launch, give_up, epoch_changed } = self.state.on(event, now);
        self.store(response);
        let given_up = give_up.and_then(|id| self.take_flight(id));
        let launch = launch.map(|launch| {
            let flight = Flight::new();
            self.flight = Some((launch.flight, Arc::clone(&flight)));
            (launch, flight, self.random.split())
        });
        (answer, epoch_changed, AfterUnlock { given_up, launch, spent: Vec::new() })
    }

    /// Builds the event for the end of a renewal, with the token that it returned or the error.
    pub(super) fn landed(
        &mut self,
        flight: FlightId,
        end: End,
    ) -> (Event, Option<TokenResponse>, Option<TokenError>) {
        let End { result, credentials_version, wasted, is_interrupted } = end;
        let (result, response, error) = match result {
            Ok((response, t0)) => {
                let same_as = self.same_as(&response);
                let lifetime = self.last_zero.lifetime(&response, t0, same_as.is_some());
                let issued = Issued { lifetime, t0, same_as };
                (Ok(issued), Some(response), None)
            }
            Err(error) => {
                let (class, retry_after) = (error.class(), error.retry_after());
                let failed = Failed { class, retry_after, is_interrupted, credentials_version };
                (Err(failed), None, Some(error))
            }
        };
        let seed = self.random.next();
        (Event::Landed(Landed { flight, result, wasted, seed }), response, error)
    }

    /// Returns the outcome that the waiters of a renewal share.
    pub(super) fn outcome(
        &mut self,
        answer: state::Answer,
        response: Option<TokenResponse>,
        error: Option<TokenError>,
        after: &mut AfterUnlock,
        now: Now,
    ) -> Outcome {
        match (answer, error) {
            (state::Answer::Use(usable), _) => {
                let forgotten = self.last_error.take().into_iter().chain(self.remembered.take());
                after.spent.extend(forgotten);
                match (usable.which, response) {
                    (Which::Uncacheable, Some(response)) => Ok(uncacheable(response, usable, now)),
                    _ => self.kept(usable.which).cloned().ok_or_else(|| interrupted("no token")),
                }
            }
            (state::Answer::Refuse(Refusal::Failed { until }), Some(error)) => {
                let error = match until {
                    Some(until) => error.with_retry_at(until.system_time()),
                    None => error,
                };
                after.spent.extend(self.last_error.replace(error.clone()));
                after.spent.extend(self.remembered.replace(error.clone()));
                Err(error)
            }
            (_, error) => {
                after.spent.extend(error);
                Err(interrupted("the renewal came too late"))
            }
        }
    }

    /// Converts the state's answer for a caller that needs a token.
    pub(super) fn answer(&self, answer: state::Answer, now: Now) -> Answer {
        match answer {
            state::Answer::Use(usable) => match self.granted(usable) {
                Some(granted) => Answer::Use(granted),
                None => Answer::Refuse(interrupted("the token is gone")),
            },
            state::Answer::Wait { flight, until } => match self.flight(flight) {
                Some(flight) => Answer::Wait(Waiting { flight, until }),
                None => Answer::Refuse(interrupted("the renewal is gone")),
            },
            state::Answer::Refuse(refusal) => Answer::Refuse(self.error(refusal, now)),
            state::Answer::None => Answer::Refuse(interrupted("there is no answer")),
        }
    }

    /// Keeps only the tokens that the state keeps. One of them may be new.
    fn store(&mut self, response: Option<TokenResponse>) {
        let known = [self.newest.take(), self.former.take()];
        let mut response = response;
        let mut find = |token: state::Token| {
            let state::Token { generation, schedule, forced, .. } = token;
            let snapshot = known.iter().flatten().find(|known| known.generation == generation);
            match snapshot {
                Some(known) if known.schedule == schedule => Some(Arc::clone(known)),
                Some(known) => Some(Arc::new(known.renumbered(generation, schedule, forced))),
                None => response
                    .take()
                    .map(|new| Arc::new(IssuedToken::new(new, generation, schedule, forced))),
            }
        };
        let newest = self.state.newest().and_then(&mut find);
        let former = self.state.former().and_then(&mut find);
        (self.newest, self.former) = (newest, former);
    }

    pub(super) fn kept(&self, which: Which) -> Option<&Arc<IssuedToken>> {
        match which {
            Which::Newest => self.newest.as_ref(),
            Which::Former => self.former.as_ref(),
            Which::Uncacheable => None,
        }
    }

    fn same_as(&self, response: &TokenResponse) -> Option<SameAs> {
        let is_same = |known: &Option<Arc<IssuedToken>>| {
            known.as_ref().is_some_and(|known| response.has_header(&known.header))
        };
        if is_same(&self.newest) {
            Some(SameAs::Newest)
        } else {
            is_same(&self.former).then_some(SameAs::Former)
        }
    }

    fn granted(&self, usable: Usable) -> Option<Granted> {
        let kept = self.kept(usable.which)?;
        let snapshot = if kept.generation == usable.generation {
            Arc::clone(kept)
        } else {
            Arc::new(kept.renumbered(usable.generation, kept.schedule, kept.forced))
        };
        Some(Granted { snapshot, until: usable.until, watched: usable.on_probation })
    }

    fn flight(&self, id: FlightId) -> Option<Arc<Flight>> {
        let (_, flight) = self.flight.as_ref().filter(|(flight, _)| *flight == id)?;
        Some(Arc::clone(flight))
    }

    pub(super) fn take_flight(&mut self, id: FlightId) -> Option<(FlightId, Arc<Flight>)> {
        self.flight.take_if(|(flight, _)| *flight == id)
    }

    pub(super) fn reject_action(&self, answer: state::Answer, now: Now) -> RejectAction {
        let time = |mono: Duration| now.plus(mono.saturating_sub(now.mono)).system_time();
        let reason = match answer {
            state::Answer::Use(usable) => match self.granted(usable) {
                Some(granted) => return RejectAction::Retry(granted.snapshot),
                None => Reason::SameToken,
            },
            state::Answer::Wait { flight, .. } => match self.flight(flight) {
                Some(flight) => return RejectAction::Wait(flight),
                None => Reason::SameToken,
            },
            state::Answer::Refuse(Refusal::Cooldown { until }) => {
                Reason::Cooldown { until: ShownTime(time(until)) }
            }
            state::Answer::Refuse(Refusal::ReplayRejected) => Reason::ReplayRejected,
            state::Answer::Refuse(refusal @ (Refusal::Failed { .. } | Refusal::Budget { .. })) => {
                Reason::Failed(self.error(refusal, now))
            }
            state::Answer::Refuse(Refusal::SameToken) | state::Answer::None => Reason::SameToken,
        };
        RejectAction::GiveUp(reason)
    }

    pub(super) fn error(&self, refusal: Refusal, now: Now) -> TokenError {
        match refusal {
            Refusal::Budget { until } => {
                let wait = until.saturating_sub(now.mono);
                TokenError::new(
                    ErrorClass::Budget,
                    format!(
                        "the issuance budget is used up; the next token may be asked for in {wait:.0?}"
                    ),
                )
                .with_retry_at(now.plus(wait).system_time())
            }
            Refusal::Failed { until } => match (&self.remembered, until) {
                (Some(error), Some(until)) => error.remembered_until(until.system_time()),
                (Some(error), None) => error.clone(),
                (None, _) => interrupted("the last renewal failed"),
            },
            Refusal::SameToken | Refusal::Cooldown { .. } | Refusal::ReplayRejected => {
                interrupted("the token was rejected, and there is no other")
            }
        }
    }
}

fn uncacheable(response: TokenResponse, usable: Usable, t0: Now) -> Arc<IssuedToken> {
    let schedule = Schedule::uncacheable(t0);
    Arc::new(IssuedToken::new(response, usable.generation, schedule, false))
}

pub(crate) fn interrupted(message: &'static str) -> TokenError {
    TokenError::new(ErrorClass::Interrupted, message)
}
