//! A failed renewal is remembered: when the next one may be made.

use std::time::Duration;

use super::{Answer, ErrorClass, State};
use crate::{cache::backoff::backoff, clock::Now, random::Random};

/// The end of a renewal that brought no token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Failed {
    pub(crate) class: ErrorClass,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the task was aborted or its runtime shut down, which says nothing about the source.
    pub(crate) is_interrupted: bool,
    pub(crate) credentials_version: u64,
}

/// The failure that is remembered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Failure {
    number: u64,
    class: ErrorClass,
    /// Measured by both clocks, as the error tells the caller, so that a host that was suspended
    /// need not wait.
    while_usable: Now,
    while_none: Now,
    credentials_version: u64,
}

/// Consecutive failed renewals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Streak {
    class: Option<ErrorClass>,
    /// The number of failures of this class.
    count: u32,
    /// The time of the first failure, of any class.
    since: Duration,
}

impl Streak {
    pub(super) fn is_failing(&self) -> bool {
        self.count > 0
    }
}

impl State {
    /// Returns the time of the next renewal while a failure is remembered.
    pub(super) fn failure_until(&self, now: Now) -> Option<Now> {
        let failure = self.failure.as_ref()?;
        let newest = self.usable_newest(now).filter(|newest| !newest.is_rejected);
        let is_served = newest.or(self.usable_former(now)).is_some();
        Some(if is_served { failure.while_usable } else { failure.while_none })
    }

    /// Returns the number of the failure that is remembered at `now`, with the version of the
    /// credentials that the server refused. A change of version ends the failure.
    pub(crate) fn stale_refusal(&self, now: Now) -> Option<(u64, u64)> {
        let until = self.failure_until(now)?;
        let failure = self.failure.as_ref().filter(|_| now.is_before(until))?;
        (failure.class == ErrorClass::Credentials)
            .then_some((failure.number, failure.credentials_version))
    }

    pub(super) fn credentials_version(&mut self, number: u64, version: u64) -> Answer {
        // A newer failure may have been recorded while the source was asked.
        let is_same = |failure: &&super::Failure| failure.number == number;
        if self.failure.as_ref().filter(is_same).is_some_and(|f| f.credentials_version != version) {
            self.forget_failure();
        }
        Answer::None
    }

    pub(super) fn forget_failure(&mut self) {
        self.failure = None;
        self.streak = Streak::default();
    }

    pub(super) fn remember(
        &mut self,
        failed: Failed,
        random: &mut Random,
        now: Now,
    ) -> Option<Now> {
        if failed.is_interrupted {
            self.failure = None;
            return None;
        }
        let streak = &mut self.streak;
        if streak.count == 0 {
            streak.since = now.mono;
        }
        streak.count = if streak.class == Some(failed.class) { streak.count } else { 0 };
        streak.class = Some(failed.class);
        streak.count = streak.count.saturating_add(1);
        let unserved = match self.newest {
            Some(newest) => now.since(newest.schedule.expires_at()),
            None => now.mono.saturating_sub(streak.since),
        };
        let delay = backoff(failed.class, failed.retry_after, streak.count, unserved, random);
        self.failures += 1;
        let failure = Failure {
            number: self.failures,
            class: failed.class,
            while_usable: now.plus(delay.while_usable),
            while_none: now.plus(delay.while_none),
            credentials_version: failed.credentials_version,
        };
        self.failure = Some(failure);
        self.failure_until(now)
    }

    /// Returns the time at which the timer of a cache that is kept warm should check again: the
    /// soft point, or the time of the next attempt. No caller waits for it, so polling is slow in a
    /// long outage.
    pub(crate) fn due(&self) -> Option<Now> {
        let due = self.newest?.schedule.soft_at();
        Some(match &self.failure {
            Some(failure) if failure.class != ErrorClass::Credentials => {
                due.max(failure.while_usable)
            }
            _ => due,
        })
    }
}
