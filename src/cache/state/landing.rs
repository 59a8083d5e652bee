//! A renewal has ended: which tokens are kept, and in which phase.

use super::{
    Answer, Failed, FlightId, InFlight, Phase, Refusal, State, Token, Trigger, Usable, Which,
};
use crate::{
    clock::Now,
    random::Random,
    token::{
        schedule::{Age, Schedule},
        source::Lifetime,
    },
};

/// The end of a renewal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Landed {
    pub(crate) flight: FlightId,
    pub(crate) result: Result<Issued, Failed>,
    /// The number of issued tokens that could not be used.
    pub(crate) wasted: u32,
    /// The seed of the jitter.
    pub(crate) seed: u64,
}

/// A token as it was issued.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Issued {
    pub(crate) lifetime: Lifetime,
    /// The time just before it was requested.
    pub(crate) t0: Now,
    pub(crate) same_as: Option<SameAs>,
}

/// The token with the same text, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SameAs {
    Newest,
    Former,
}

impl State {
    pub(super) fn landed(&mut self, landed: Landed, now: Now) -> Answer {
        self.issued += u64::from(landed.wasted) + u64::from(landed.result.is_ok());
        // A renewal that was given up may end later. Nothing depends on it any more.
        let Some(flight) = self.in_flight.take_if(|flight| flight.id == landed.flight) else {
            return Answer::None;
        };
        let mut random = Random::seeded(landed.seed);
        match landed.result {
            Ok(issued) => Answer::Use(self.publish(issued, flight, &mut random, now)),
            Err(failed) => {
                Answer::Refuse(Refusal::Failed { until: self.remember(failed, &mut random, now) })
            }
        }
    }

    /// Starts with a token that was issued earlier, and has `lifetime` left from `now` on.
    pub(crate) fn adopt(&mut self, lifetime: Lifetime, seed: u64, now: Now) {
        let limits = self.limits.lifetimes;
        let schedule = Schedule::new(now, lifetime, limits, &mut Random::seeded(seed));
        if !schedule.is_uncacheable() {
            self.succeed(schedule, false, now);
        }
    }

    fn publish(
        &mut self,
        issued: Issued,
        flight: InFlight,
        random: &mut Random,
        now: Now,
    ) -> Usable {
        self.forget_failure();
        self.budget.iter_mut().for_each(super::Budget::succeeded);
        let forced = flight.trigger == Trigger::Forced;
        let Issued { lifetime, t0, same_as } = issued;
        let schedule = Schedule::new(t0, lifetime, self.limits.lifetimes, random);
        if schedule.is_uncacheable() {
            return self.publish_uncacheable(schedule, forced, now);
        }
        let which = match (same_as, self.newest, self.former) {
            (Some(SameAs::Newest), Some(newest), _) => {
                self.newest = Some(Token { schedule: again(schedule, &newest, forced), ..newest });
                if forced {
                    self.breaker.ineffective(now.mono);
                }
                Which::Newest
            }
            (Some(SameAs::Former), _, Some(former)) => {
                self.phase = if former.is_rejected { Phase::Alone } else { Phase::Proven };
                let schedule = again(schedule, &former, forced);
                self.newest = Some(Token { schedule, forced, ..former });
                self.former = None;
                self.breaker.published(forced, now.mono);
                Which::Newest
            }
            _ => {
                self.succeed(schedule, forced, now);
                Which::Newest
            }
        };
        self.landed_as(which, schedule, now)
    }

    /// Makes a token with a new text the newest.
    fn succeed(&mut self, schedule: Schedule, forced: bool, now: Now) {
        let proven = self.newest.filter(|newest| {
            self.phase == Phase::Proven && !newest.is_rejected && newest.schedule.is_usable(now)
        });
        // A token that was never accepted does not replace the former one.
        let former = match self.phase {
            Phase::Proven => proven,
            _ => self.usable_former(now),
        };
        self.former = former.filter(|_| !forced);
        self.phase = if self.former.is_some() { Phase::Trial } else { Phase::Alone };
        self.generations += 1;
        self.uncacheable_from = None;
        let generation = self.generations;
        self.newest = Some(Token {
            generation,
            schedule,
            forced,
            last_probe: generation,
            is_rejected: false,
        });
        self.breaker.published(forced, now.mono);
    }

    /// Publishes a token that serves only its waiters.
    fn publish_uncacheable(&mut self, schedule: Schedule, forced: bool, now: Now) -> Usable {
        self.generations += 1;
        self.uncacheable_from.get_or_insert(self.generations);
        match self.newest.filter(|newest| !forced && newest.schedule.is_usable(now)) {
            // Until it expires, the server has nothing better to issue.
            Some(newest) => {
                self.newest = Some(Token { schedule: newest.schedule.to_the_end(), ..newest });
            }
            // The token was rejected or has expired, and no other can be kept.
            None => (self.newest, self.former, self.phase) = (None, None, Phase::Alone),
        }
        self.landed_as(Which::Uncacheable, schedule, now)
    }

    fn landed_as(&self, which: Which, schedule: Schedule, now: Now) -> Usable {
        let generation = match (which, self.newest) {
            (Which::Newest, Some(newest)) => newest.generation,
            _ => self.generations,
        };
        let until = if schedule.age(now) == Age::Expired { now } else { schedule.expires_at() };
        Usable { which, generation, until, on_probation: self.is_on_probation() }
    }
}

/// Returns the schedule of a token that the server has issued again.
fn again(schedule: Schedule, former: &Token, forced: bool) -> Schedule {
    // If the expiry is the same, asking repeatedly would return the same token.
    if schedule.ends_with(&former.schedule) {
        schedule.again(&former.schedule, forced)
    } else {
        schedule
    }
}
