//! Everything a cache knows, and every decision it takes: use the token, renew it, wait, refuse.
//!
//! All of it happens under one lock, with `now` given, and does no I/O: what is to be done comes
//! out as a value. `shared` holds the lock and does it. What follows from a rejection is in `reject`.

mod reject;

use std::{mem, sync::Arc, time::Duration};

pub(crate) use self::reject::{Rejection, Standstill};
use super::{
    budget::{Budget, Purpose},
    flight::{Flight, Outcome},
    random::Random,
    rejection::Rejections,
    schedule::{self, Schedule, Standing},
    snapshot::Snapshot,
    source::TokenResponse,
};
use crate::{
    clock::Now,
    error::{ErrorClass, TokenError},
};

/// A renewal ends at its deadline. One that has not, this much later, is not driven.
const OVERDUE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct State {
    current: Option<Arc<Snapshot>>,
    generations: u64,
    /// A token for one use that a rejection brought. It is on trial in the place of the current one,
    /// which is the one that was rejected.
    substitute: Option<u64>,
    aloft: Option<Aloft>,
    failure: Option<Failure>,
    /// Consecutive failed renewals of one class.
    failures: (ErrorClass, u32),
    rejections: Rejections,
    budget: Option<Budget>,
    issued: u64,
    last_error: Option<TokenError>,
    /// What is not needed any more, see [`take_spent`](Self::take_spent).
    spent: Vec<TokenError>,
    random: Random,
    default_lifetime: Duration,
    renewal_timeout: Duration,
}

/// The renewal in progress.
#[derive(Debug)]
struct Aloft {
    flight: Arc<Flight>,
    /// A rejection waits for it.
    forced: bool,
    /// The current token was called invalid: others wait for the renewal, too.
    blocking: bool,
    since: Duration,
}

/// The last renewal failed: until then there is no other.
#[derive(Debug)]
struct Failure {
    error: TokenError,
    /// By both clocks, as the error says it to the caller: a host that has slept need not wait.
    until: Now,
    credentials_version: u64,
}

/// What a caller gets who needs a token.
#[derive(Debug)]
pub(crate) enum Answer {
    Use(Hand),
    Wait(Arc<Flight>),
    Refuse(TokenError),
}

/// A token to be used, and for how long without asking again.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) until: Now,
    /// It is of interest whether requests with it are accepted.
    pub(crate) watched: bool,
}

/// Whether a renewal is in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewing {
    Yes,
    No,
}

/// A decision, and the renewal that it sets off.
#[derive(Debug)]
pub(crate) struct Decision<T> {
    pub(crate) answer: T,
    /// To be flown by whoever gets this, once the lock is released.
    pub(crate) launch: Option<Arc<Flight>>,
    /// What others hold is no longer what they would get now.
    pub(crate) changed: bool,
}

impl State {
    pub(crate) fn new(
        default_lifetime: Duration,
        renewal_timeout: Duration,
        budget: Option<Budget>,
        random: Random,
    ) -> Self {
        Self {
            current: None,
            generations: 0,
            substitute: None,
            aloft: None,
            failure: None,
            failures: (ErrorClass::Interrupted, 0),
            rejections: Rejections::new(),
            budget,
            issued: 0,
            last_error: None,
            spent: Vec::new(),
            random,
            default_lifetime,
            renewal_timeout,
        }
    }

    /// Randomness for a renewal.
    pub(crate) fn seed(&mut self) -> Random {
        Random::seeded(self.random.next())
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    pub(crate) fn current(&self) -> Option<&Arc<Snapshot>> {
        self.current.as_ref()
    }

    /// The current token, if it may go out.
    pub(crate) fn usable(&self, now: Now) -> Option<&Arc<Snapshot>> {
        self.current.as_ref().filter(|current| current.is_usable(now))
    }

    /// The failure that is remembered at `now`, and the version of the credentials it is about.
    pub(crate) fn refused_credentials(&self, now: Now) -> Option<u64> {
        let failure = self.failure.as_ref().filter(|failure| now.is_before(failure.until))?;
        (failure.error.class() == ErrorClass::Credentials).then_some(failure.credentials_version)
    }

    pub(crate) fn forget_failure(&mut self) {
        self.set_failure(None);
        self.failures.1 = 0;
    }

    /// Errors to be dropped once the lock is released: a source's own error may be in one, and its
    /// drop may ask the cache.
    pub(crate) fn take_spent(&mut self) -> Vec<TokenError> {
        mem::take(&mut self.spent)
    }

    fn set_failure(&mut self, failure: Option<Failure>) {
        let former = mem::replace(&mut self.failure, failure);
        self.spent.extend(former.map(|former| former.error));
    }

    fn set_last_error(&mut self, error: Option<TokenError>) {
        let former = mem::replace(&mut self.last_error, error);
        self.spent.extend(former);
    }

    /// When a timer should look again: at the soft point, or when the next attempt is allowed.
    pub(crate) fn due(&self, now: Now) -> Option<Now> {
        let due = self.current.as_ref()?.schedule.soft_at();
        Some(match &self.failure {
            Some(Failure { until, .. }) if now.is_before(*until) => {
                Now { mono: due.mono.max(until.mono), wall: due.wall.max(until.wall) }
            }
            _ => due,
        })
    }

    /// A timer wants the token renewed. Nobody waits, whatever has become of the token.
    pub(crate) fn renew_ahead(&mut self, now: Now) -> Decision<Renewing> {
        let is_fresh = |current: &Arc<Snapshot>| current.schedule.standing(now) == Standing::Fresh;
        if self.aloft.is_none() && self.current.as_ref().is_none_or(is_fresh) {
            return Renewing::No.into();
        }
        match self.renewal(Purpose::Convenience, now) {
            Ok((_, launch)) => Decision::from(Renewing::Yes).and(launch),
            Err(_) => Renewing::No.into(),
        }
    }

    /// A caller needs a token.
    pub(crate) fn acquire(&mut self, now: Now) -> Decision<Answer> {
        let Some(current) = self.current.clone() else {
            return self.acquire_new(now, None);
        };
        let blocked = self.aloft.as_ref().is_some_and(|aloft| aloft.blocking);
        match current.schedule.standing(now) {
            Standing::Fresh if !blocked => {
                let until = current.schedule.soft_at();
                self.hand_out(current, until).into()
            }
            Standing::Soft if !blocked => {
                let hard = current.schedule.hard_at();
                match self.renewal(Purpose::Convenience, now) {
                    Ok((_, launch)) => Decision::from(self.hand_out(current, hard)).and(launch),
                    Err((_, retry)) => self.hand_out(current, retry.before(hard)).into(),
                }
            }
            Standing::Fresh | Standing::Soft | Standing::Margin => {
                self.acquire_new(now, Some(current))
            }
            Standing::Expired => self.acquire_new(now, None),
        }
    }

    /// A caller waits for a newer token, or does with `spare` if there is none to be had.
    fn acquire_new(&mut self, now: Now, spare: Option<Arc<Snapshot>>) -> Decision<Answer> {
        let purpose = if spare.is_some() { Purpose::Convenience } else { Purpose::Needed };
        match (self.renewal(purpose, now), spare) {
            (Ok((flight, launch)), _) => Decision::from(Answer::Wait(flight)).and(launch),
            (Err((_, retry)), Some(spare)) => {
                let until = retry.before(spare.schedule.expires_at());
                self.hand_out(spare, until).into()
            }
            (Err((error, _)), None) => Answer::Refuse(error).into(),
        }
    }

    fn hand_out(&self, snapshot: Arc<Snapshot>, until: Now) -> Answer {
        Answer::Use(Hand { snapshot, until, watched: self.rejections.is_watching() })
    }

    /// The renewal in progress, or a new one if nothing speaks against it.
    #[allow(clippy::type_complexity, reason = "the flight, and the same again if it is new")]
    fn renewal(
        &mut self,
        purpose: Purpose,
        now: Now,
    ) -> Result<(Arc<Flight>, Option<Arc<Flight>>), (TokenError, Retry)> {
        if let Some(aloft) = &self.aloft {
            return Ok((Arc::clone(&aloft.flight), None));
        }
        if let Some(failure) = self.failure.as_ref().filter(|failure| now.is_before(failure.until))
        {
            return Err((failure.error.clone(), Retry(failure.until)));
        }
        if let Some(budget) = &mut self.budget
            && let Err(next) = budget.check(purpose, now.mono)
        {
            let wait = next.saturating_sub(now.mono);
            let error = TokenError::new(
                ErrorClass::Budget,
                format!(
                    "the issuance budget is used up; the next token may be asked for in {wait:.0?}"
                ),
            )
            .with_retry_at(now.plus(wait).system_time());
            // By the monotonic clock alone: a wall clock that is set must not cost tokens.
            return Err((error, Retry(Now { mono: next, wall: Duration::MAX })));
        }
        let flight = Flight::new();
        self.aloft = Some(Aloft {
            flight: Arc::clone(&flight),
            forced: false,
            blocking: false,
            since: now.mono,
        });
        Ok((Arc::clone(&flight), Some(flight)))
    }

    /// The renewal has ended. What comes back is for everybody who waits for it.
    /// `wasted` tokens were issued to it that are of no use.
    ///
    /// `None`: the flight was not the one in progress, and nothing has changed.
    pub(crate) fn finish(
        &mut self,
        flight: &Arc<Flight>,
        result: Result<(TokenResponse, Now), TokenError>,
        credentials_version: u64,
        wasted: u32,
        now: Now,
    ) -> Option<Outcome> {
        (0..wasted).for_each(|_| self.count(now));
        let Some(aloft) = self.aloft.take_if(|aloft| Arc::ptr_eq(&aloft.flight, flight)) else {
            self.spent.extend(result.err());
            return None;
        };
        Some(match result {
            Ok((response, t0)) => Ok(self.publish(response, t0, aloft.forced, now)),
            Err(error) => Err(self.remember(error, credentials_version, now)),
        })
    }

    fn publish(
        &mut self,
        response: TokenResponse,
        t0: Now,
        forced: bool,
        now: Now,
    ) -> Arc<Snapshot> {
        self.count(now);
        self.forget_failure();
        self.set_last_error(None);
        self.generations += 1;
        let schedule =
            Schedule::new(t0, response.lifetime(), self.default_lifetime, &mut self.random);
        let snapshot = Arc::new(Snapshot::new(
            response,
            schedule,
            self.generations,
            forced,
            self.current.as_deref(),
        ));
        if schedule.is_for_once() {
            // The server has nothing to give that could be kept: until the end of the token at hand
            // it need not be asked again.
            self.current = self
                .current
                .take()
                .filter(|current| current.is_usable(now))
                .map(|current| Arc::new(current.to_the_end()));
        } else {
            self.current = Some(Arc::clone(&snapshot));
        }
        let substitutes = forced && schedule.is_for_once() && self.current.is_some();
        self.substitute = substitutes.then_some(snapshot.generation);
        if substitutes || !schedule.is_for_once() {
            self.rejections.published(forced, now.mono);
            if forced && snapshot.first_seen != snapshot.generation {
                self.rejections.same_token(now.mono);
            }
        }
        snapshot
    }

    fn remember(&mut self, error: TokenError, credentials_version: u64, now: Now) -> TokenError {
        let failures = if self.failures.0 == error.class() { self.failures.1 } else { 0 };
        self.failures = (error.class(), failures.saturating_add(1));
        let Some(delay) = schedule::backoff(&error, self.failures.1, &mut self.random) else {
            self.set_failure(None);
            self.set_last_error(Some(error.clone()));
            return error;
        };
        let until = now.plus(delay);
        let error = error.with_retry_at(until.system_time());
        self.set_last_error(Some(error.clone()));
        self.set_failure(Some(Failure { error: error.clone(), until, credentials_version }));
        error
    }

    fn count(&mut self, now: Now) {
        self.issued += 1;
        if let Some(budget) = &mut self.budget {
            budget.spend(now.mono);
        }
    }

    /// Why there was no token the last time one was asked for.
    pub(crate) fn last_error(&self) -> Option<&TokenError> {
        self.last_error.as_ref()
    }

    /// The renewal in progress, if it should have ended long ago: its runtime is alive, but nobody
    /// drives it. Who waits for it must be told.
    pub(crate) fn take_overdue(&mut self, now: Now) -> Option<Arc<Flight>> {
        let limit = self.renewal_timeout.saturating_add(OVERDUE);
        let overdue = |aloft: &mut Aloft| now.mono.saturating_sub(aloft.since) > limit;
        self.aloft.take_if(overdue).map(|aloft| aloft.flight)
    }
}

/// When a renewal may be tried again: when either clock has come so far.
#[derive(Debug)]
struct Retry(Now);

impl Retry {
    /// This moment or `deadline`, whichever comes first.
    fn before(&self, deadline: Now) -> Now {
        Now { mono: deadline.mono.min(self.0.mono), wall: deadline.wall.min(self.0.wall) }
    }
}

impl<T> From<T> for Decision<T> {
    fn from(answer: T) -> Self {
        Self { answer, launch: None, changed: false }
    }
}

impl<T> Decision<T> {
    fn and(self, launch: Option<Arc<Flight>>) -> Self {
        Self { launch, ..self }
    }
}
