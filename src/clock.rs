//! The two clocks: a token is fresh only while both the monotonic and the wall clock say so.
//!
//! This is the only file that reads the time. Everything else takes a [`Now`].

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since some moment before the first reading; never goes back, stands still in suspend.
    pub(crate) mono: Duration,
    /// Since the Unix epoch; may step either way.
    pub(crate) wall: Duration,
}

impl Now {
    /// The wall clock as the standard library has it.
    pub(crate) fn system_time(self) -> SystemTime {
        let far = Duration::from_secs(10_000 * 365 * 24 * 3600);
        UNIX_EPOCH.checked_add(self.wall.min(far)).unwrap_or(UNIX_EPOCH)
    }

    /// Both clocks moved on by `by`.
    pub(crate) fn plus(self, by: Duration) -> Self {
        Self { mono: self.mono.saturating_add(by), wall: self.wall.saturating_add(by) }
    }

    /// How long ago `earlier` was, by the clock that says longer. A wall clock that stepped back
    /// changes nothing; one that stepped forward, or a suspended host, counts.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let mono = self.mono.saturating_sub(earlier.mono);
        let wall = self.wall.saturating_sub(earlier.wall);
        mono.max(wall)
    }

    /// Neither clock has reached `deadline`.
    pub(crate) fn is_before(self, deadline: Self) -> bool {
        self.mono < deadline.mono && self.wall < deadline.wall
    }
}

/// A [`Now`] to come, in a form that is cheap to hold the clocks against: without arithmetic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    now: Now,
    system: Option<(Instant, SystemTime)>,
}

impl Deadline {
    /// Long past.
    pub(crate) fn past() -> Self {
        Self { now: Now::default(), system: None }
    }
}

/// Where the time comes from: the system, or a test.
#[derive(Clone, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    #[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "only tests move the clock"))]
    Test(Arc<dyn ReadClock>),
}

/// A clock that a test moves.
pub(crate) trait ReadClock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

impl Clock {
    pub(crate) fn now(&self) -> Now {
        match self {
            Self::System => system_now(),
            Self::Test(clock) => clock.now(),
        }
    }

    /// `now` as a deadline.
    pub(crate) fn deadline(&self, now: Now) -> Deadline {
        // Longer than any program runs, and no overflow.
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        let mono = base().checked_add(now.mono.min(century));
        Deadline { now, system: mono.map(|mono| (mono, now.system_time())) }
    }

    /// Neither clock has reached `deadline`.
    #[inline]
    #[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
    pub(crate) fn is_before(&self, deadline: &Deadline) -> bool {
        match (self, &deadline.system) {
            (Self::System, Some((mono, wall))) => {
                Instant::now() < *mono && SystemTime::now() < *wall
            }
            _ => self.now().is_before(deadline.now),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Test(_) => "Test",
        })
    }
}

/// The origin of the monotonic readings.
#[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
fn base() -> Instant {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BASE
}

#[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
fn system_now() -> Now {
    let base = base();
    Now {
        mono: Instant::now().saturating_duration_since(base),
        wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64, wall: u64) -> Now {
        Now { mono: Duration::from_secs(mono), wall: Duration::from_secs(wall) }
    }

    #[test]
    fn the_clock_that_says_longer_counts() {
        assert_eq!(at(10, 1010).since(at(0, 1000)), Duration::from_secs(10));
        assert_eq!(at(10, 8200).since(at(0, 1000)), Duration::from_secs(7200), "suspended");
        assert_eq!(at(10, 0).since(at(0, 1000)), Duration::from_secs(10), "stepped back");
    }

    #[test]
    fn a_deadline_of_the_system_clocks_is_as_good_as_its_readings() {
        let clock = Clock::System;
        let now = clock.now();
        assert!(clock.is_before(&clock.deadline(now.plus(Duration::from_secs(3600)))));
        assert!(clock.is_before(&clock.deadline(now.plus(Duration::MAX))));
        assert!(!clock.is_before(&clock.deadline(now)));
        assert!(!clock.is_before(&Deadline::past()));
        let suspended = Now { mono: now.mono + Duration::from_secs(60), wall: now.wall };
        assert!(!clock.is_before(&clock.deadline(suspended)), "the wall clock has reached it");
    }

    #[test]
    fn a_deadline_is_reached_by_either_clock() {
        let deadline = at(100, 1100);
        assert!(at(99, 1099).is_before(deadline));
        assert!(!at(100, 1099).is_before(deadline));
        assert!(!at(99, 1100).is_before(deadline));
    }
}
