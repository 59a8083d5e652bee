//! The times at which a token is used, renewed and given up, as arithmetic. Every function takes
//! what it needs, including `now`; nothing here reads a clock or takes a lock.
//!
//! ```text
//! t0 ──────────────────────────── soft ───────────── hard ────── expiry
//!  └ before the token request      │  use, and renew   │  wait for  └ never used again
//!                                  └ in the background └ the renewal
//! ```

use std::time::Duration;

use super::source::Lifetime;
use crate::{clock::Now, random::Random};

/// The default timeouts of a whole renewal, and of one attempt.
pub(crate) const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The default lifetime of a token whose lifetime is unknown.
pub(crate) const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// The default cap of announced lifetimes: 30 days.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

const MAX_MARGIN: Duration = Duration::from_secs(30);
const MAX_WINDOW: Duration = Duration::from_secs(300);
const MAX_JITTER: Duration = Duration::from_secs(60);

/// The limits of the lifetimes that sources announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LifetimeLimits {
    /// The lifetime if none is announced.
    pub(crate) default: Duration,
    /// The cap of announced lifetimes.
    pub(crate) max: Duration,
}

impl Default for LifetimeLimits {
    fn default() -> Self {
        Self { default: DEFAULT_LIFETIME, max: MAX_LIFETIME }
    }
}

/// The points of a token's life, counted from just before the token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) t0: Now,
    /// The point from which it is renewed in the background.
    soft: Duration,
    /// The point from which callers wait for a newer one.
    hard: Duration,
    /// The point from which it is never used.
    expiry: Duration,
}

/// The stage of a token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    Soft,
    /// Inside its margin: usable if no newer one is available.
    Hard,
    Expired,
}

impl Schedule {
    pub(crate) fn new(
        t0: Now,
        lifetime: Lifetime,
        limits: LifetimeLimits,
        random: &mut Random,
    ) -> Self {
        let lifetime = match lifetime {
            Lifetime::Of(lifetime) => lifetime.min(limits.max),
            Lifetime::Unknown => limits.default,
            Lifetime::OneUse => Duration::ZERO,
            Lifetime::Never => {
                let never = Duration::MAX;
                return Self { t0, soft: never, hard: never, expiry: never };
            }
        };
        let margin = (lifetime / 4).min(MAX_MARGIN);
        let window = (lifetime / 5).min(MAX_WINDOW);
        let jitter = random.up_to((window / 2).min(MAX_JITTER));
        let hard = lifetime - margin;
        Self { t0, soft: hard.saturating_sub(window + jitter), hard, expiry: lifetime }
    }

    /// Returns the schedule of a token that was issued again with the same end. `former` was its
    /// schedule.
    ///
    /// Many servers issue a newer token from some time before the end. So the server is asked once
    /// more in the background, at the point where callers would have begun to wait; if it returns
    /// the same token again, at the end. A renewal that a rejection forced can happen at any time,
    /// and does not count as that last try.
    pub(crate) fn again(self, former: &Self, forced: bool) -> Self {
        let has_margin = former.hard < former.expiry;
        let is_to_the_end = former.soft == former.expiry;
        if has_margin || (forced && !is_to_the_end) {
            Self { soft: self.hard, hard: self.expiry, ..self }
        } else {
            self.to_the_end()
        }
    }

    /// Returns the schedule of a token that is used until its end, because the server issues no
    /// newer one.
    pub(crate) fn to_the_end(self) -> Self {
        Self { soft: self.expiry, hard: self.expiry, ..self }
    }

    /// Returns the schedule of a token without a lifetime, which was requested at `t0`.
    pub(crate) fn uncacheable(t0: Now) -> Self {
        let none = Duration::ZERO;
        Self { t0, soft: none, hard: none, expiry: none }
    }

    /// Returns `true` if the token serves only its waiters.
    pub(crate) fn is_uncacheable(&self) -> bool {
        self.expiry.is_zero()
    }

    pub(crate) fn age(&self, now: Now) -> Age {
        let age = now.since(self.t0);
        if age < self.soft {
            Age::Fresh
        } else if age < self.hard {
            Age::Soft
        } else if age < self.expiry {
            Age::Hard
        } else {
            Age::Expired
        }
    }

    /// Returns `true` if the token is usable at `now`.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.age(now) != Age::Expired
    }

    pub(crate) fn is_before_soft(&self, now: Now) -> bool {
        self.age(now) == Age::Fresh
    }

    pub(crate) fn is_before_hard(&self, now: Now) -> bool {
        matches!(self.age(now), Age::Fresh | Age::Soft)
    }

    /// Returns the time for which the token remains usable.
    pub(crate) fn left(&self, now: Now) -> Duration {
        self.expiry.saturating_sub(now.since(self.t0))
    }

    pub(crate) fn soft_at(&self) -> Now {
        self.t0.plus(self.soft)
    }

    pub(crate) fn hard_at(&self) -> Now {
        self.t0.plus(self.hard)
    }

    pub(crate) fn expires_at(&self) -> Now {
        self.t0.plus(self.expiry)
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.expiry
    }

    /// Returns `true` if the two tokens expire at the same time, within the tolerance for rounding
    /// to seconds and a slow response.
    pub(crate) fn ends_with(&self, other: &Self) -> bool {
        let slack = (other.expiry / 20).min(Duration::from_secs(5));
        self.expires_at().mono <= other.expires_at().mono.saturating_add(slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Now = Now { mono: Duration::from_secs(77), wall: Duration::from_secs(1_700_000_000) };

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn of(lifetime: f64, seed: u64) -> Schedule {
        let lifetime = Lifetime::Of(secs(lifetime));
        Schedule::new(T0, lifetime, LifetimeLimits::default(), &mut Random::seeded(seed))
    }

    #[test]
    fn the_soft_and_hard_points_follow_from_the_lifetime() {
        for (lifetime, soft, hard) in [
            (3600.0, 3210.0..=3270.0, 3570.0),
            (300.0, 180.0..=210.0, 270.0),
            (60.0, 27.0..=33.0, 45.0),
            (10.0, 4.5..=5.5, 7.5),
        ] {
            for seed in 0..200 {
                let schedule = of(lifetime, seed);
                assert!(soft.contains(&schedule.soft.as_secs_f64()), "{lifetime}: {schedule:?}");
                assert_eq!(schedule.hard, secs(hard), "{lifetime}");
                assert_eq!(schedule.expiry, secs(lifetime), "{lifetime}");
            }
        }
    }

    /// For all lifetimes, clocks and jitters: soft < hard <= true expiry, margins by formula, no
    /// overflow, never negative.
    #[test]
    fn the_order_of_the_points_holds_for_every_lifetime() {
        let mut random = Random::seeded(1);
        for round in 0..200_000_u64 {
            let bits = random.next() >> (round % 64);
            let lifetime = Duration::new(bits, (random.next() % 1_000_000_000) as u32);
            let t0 = Now {
                mono: Duration::from_nanos(random.next()),
                wall: Duration::from_nanos(random.next()),
            };
            let max = Duration::from_secs(1 + (random.next() >> (round % 61)));
            let limits = LifetimeLimits { max, ..LifetimeLimits::default() };
            let schedule = Schedule::new(t0, Lifetime::Of(lifetime), limits, &mut random);
            let lifetime = lifetime.min(max);
            assert!(schedule.soft < schedule.hard, "{schedule:?}");
            assert!(schedule.hard <= schedule.expiry, "{schedule:?}");
            assert_eq!(schedule.expiry, lifetime);
            assert_eq!(schedule.expiry - schedule.hard, (lifetime / 4).min(secs(30.0)));
            let early = schedule.hard - schedule.soft;
            let window = (lifetime / 5).min(secs(300.0));
            assert!(early >= window && early <= window + (window / 2).min(secs(60.0)));
            assert_eq!(schedule.age(t0), Age::Fresh);
            assert_eq!(schedule.age(schedule.soft_at()), Age::Soft);
            assert_eq!(schedule.age(schedule.hard_at()), Age::Hard);
            assert_eq!(schedule.age(schedule.expires_at()), Age::Expired);
        }
    }

    #[test]
    fn zero_serves_once_and_absurd_lifetimes_are_clamped() {
        let mut random = Random::seeded(1);
        let limits = LifetimeLimits::default();
        for once in [Lifetime::Of(Duration::ZERO), Lifetime::OneUse] {
            let zero = Schedule::new(T0, once, limits, &mut random);
            assert!(zero.is_uncacheable());
            assert_eq!(zero.age(T0), Age::Expired);
        }
        let huge = Schedule::new(T0, Lifetime::Of(Duration::MAX), limits, &mut random);
        assert_eq!(huge.lifetime(), Duration::from_secs(30 * 86_400));
        let unknown = Schedule::new(T0, Lifetime::Unknown, limits, &mut random);
        assert_eq!(unknown.lifetime(), Duration::from_secs(300));
        // The user's own setting is not capped.
        let limits = LifetimeLimits { default: Duration::MAX, max: secs(60.0) };
        let chosen = Schedule::new(T0, Lifetime::Unknown, limits, &mut random);
        assert_eq!(chosen.lifetime(), Duration::MAX);
        assert_eq!(chosen.age(T0.plus(MAX_LIFETIME)), Age::Fresh);
        let capped = Schedule::new(T0, Lifetime::Of(Duration::MAX), limits, &mut random);
        assert_eq!(capped.lifetime(), secs(60.0));
        let never = Schedule::new(T0, Lifetime::Never, limits, &mut random);
        assert_eq!(never.age(T0.plus(MAX_LIFETIME * 100)), Age::Fresh);
    }

    #[test]
    fn a_token_that_comes_again_is_asked_for_once_more_and_then_used_to_its_end() {
        let points = |s: Schedule| (s.soft.as_secs(), s.hard.as_secs(), s.expiry.as_secs());
        let first = of(3600.0, 1);
        let second = of(400.0, 1).again(&first, false);
        assert_eq!(points(second), (370, 400, 400));
        assert_eq!(points(of(300.0, 1).again(&second, true)), (270, 300, 300), "forced");
        let third = of(30.0, 1).again(&second, false);
        assert_eq!(points(third), (30, 30, 30));
        for forced in [true, false] {
            assert_eq!(points(of(10.0, 1).again(&third, forced)), (10, 10, 10));
        }
    }

    #[test]
    fn a_suspended_host_ages_a_token_and_a_clock_set_back_does_not_renew_it() {
        let token = of(3600.0, 1);
        let slept = Now { mono: T0.mono + secs(5.0), wall: T0.wall + secs(7200.0) };
        assert_eq!(token.age(slept), Age::Expired);
        let back = Now { mono: T0.mono + secs(5.0), wall: T0.wall - secs(7200.0) };
        assert_eq!(token.age(back), Age::Fresh);
        let back_for_long = Now { mono: T0.mono + secs(3600.0), wall: T0.wall };
        assert_eq!(token.age(back_for_long), Age::Expired);
    }

    /// A server that issues a token again announces the rest of its lifetime, in whole seconds; one
    /// that has prolonged it announces more.
    #[test]
    fn two_tokens_end_together_within_the_tolerance_of_rounding() {
        let later = |secs_later: f64, lifetime: f64| {
            let lifetime = Lifetime::Of(secs(lifetime));
            let t0 = T0.plus(secs(secs_later));
            Schedule::new(t0, lifetime, LifetimeLimits::default(), &mut Random::seeded(1))
        };
        let hour = of(3600.0, 1);
        assert!(later(3280.0, 320.0).ends_with(&hour));
        assert!(later(3280.5, 320.0).ends_with(&hour), "rounded up");
        assert!(later(3283.0, 320.0).ends_with(&hour), "and the answer was slow");
        assert!(!later(3280.0, 330.0).ends_with(&hour), "prolonged");
        assert!(!later(5.0, 10.0).ends_with(&of(10.0, 1)), "of a short life, half is much");
    }
}
