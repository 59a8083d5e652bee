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
    /// The time since some moment before the first reading. It never goes back, and stands still in
    /// suspend.
    pub(crate) mono: Duration,
    /// The time since the Unix epoch, which may step either way.
    pub(crate) wall: Duration,
}

impl Now {
    /// Returns the wall clock as a [`SystemTime`].
    pub(crate) fn system_time(self) -> SystemTime {
        system_time(self.wall)
    }

    /// Returns the reading with both clocks moved forward by `by`.
    pub(crate) fn plus(self, by: Duration) -> Self {
        Self { mono: self.mono.saturating_add(by), wall: self.wall.saturating_add(by) }
    }

    /// Returns the time since `earlier`, by the clock that shows more. A wall clock that stepped
    /// back changes nothing; one that stepped forward, or a suspended host, counts.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let mono = self.mono.saturating_sub(earlier.mono);
        let wall = self.wall.saturating_sub(earlier.wall);
        mono.max(wall)
    }

    /// Returns the later of two times, by each clock.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { mono: self.mono.max(other.mono), wall: self.wall.max(other.wall) }
    }

    /// Returns the earlier of two times, by each clock.
    pub(crate) fn min(self, other: Self) -> Self {
        Self { mono: self.mono.min(other.mono), wall: self.wall.min(other.wall) }
    }

    fn second(self) -> Second {
        // Readings before 1970 are zero, and cannot be moved.
        if self.wall.is_zero() {
            return Second::UNKNOWN;
        }
        Second(i64::try_from(self.wall.as_secs()).unwrap_or(i64::MAX))
    }

    /// Returns `true` if neither clock has reached `deadline`.
    pub(crate) fn is_before(self, deadline: Self) -> bool {
        self.mono < deadline.mono && self.wall < deadline.wall
    }
}

/// A future [`Now`], and the time for which it need not be compared exactly.
///
/// Reading an exact clock costs more than the rest of the hot path. So both exact clocks are read at
/// most once in a second of the wall clock: until the coarse wall clock shows another second, that
/// reading decides.
///
/// One coarse clock is enough for that. While the wall clock runs on, the seconds that it shows
/// never return, not even on a host that was suspended. If it is set back after the last reading,
/// into the second of that reading and by the time that has passed since, an expired token can be
/// sent within that second. The API then responds 401, which renews the token. The monotonic coarse
/// clock would rule that out, at a cost of 21 instructions per request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    now: Now,
    /// A second that lies entirely before the deadline, or [`Second::NONE`].
    valid_second: Second,
}

/// A second of the wall clock, counted from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Second(i64);

impl Second {
    /// A second that no clock shows.
    const NONE: Self = Self(i64::MIN);

    /// A second that is not known to end.
    const UNKNOWN: Self = Self(i64::MIN + 1);
}

/// The time before the deadline within which the exact clocks are read each time: the rest of a
/// second, and another by which a coarse clock may be late.
const CLOSE: Duration = Duration::from_secs(2);

/// An upper bound for the delay of a coarse clock, which stands still while a hypervisor holds up
/// the processor that updates it.
const LATE: Duration = Duration::from_secs(1);

impl Deadline {
    pub(crate) fn new(now: Now) -> Self {
        Self { now, valid_second: Second::NONE }
    }

    /// Returns a deadline that has passed.
    pub(crate) fn past() -> Self {
        Self::new(Now::default())
    }

    /// Returns `true` if the deadline had passed, or was so close when the exact clocks were last
    /// read that they have to be read each time.
    pub(crate) fn is_close(&self) -> bool {
        self.valid_second == Second::NONE
    }
}

/// The source of the time: the system, or a test.
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

    /// Returns the reading of the coarse clocks, which may be late but is never early.
    fn coarse(&self) -> Now {
        self.now()
    }
}

impl Clock {
    pub(crate) fn now(&self) -> Now {
        match self {
            Self::System => system_now(),
            Self::Test(clock) => clock.now(),
        }
    }

    /// Returns a time that is not earlier than now, and later by at most about a second: from the
    /// coarse clocks, where the system has them.
    pub(crate) fn upper_bound(&self) -> Now {
        match self {
            Self::System => system_soon(),
            Self::Test(clock) => clock.coarse().plus(LATE),
        }
    }

    #[inline(always)]
    fn second(&self) -> Second {
        match self {
            Self::System => system_second(),
            Self::Test(clock) => second_of_test(&**clock),
        }
    }

    /// Returns `true` if neither clock has reached `deadline`, by the coarse clock (but see
    /// [`Deadline`]). `false` means that [`is_before`](Self::is_before) must be asked.
    #[inline(always)]
    pub(crate) fn is_before_fast(&self, deadline: &Deadline) -> bool {
        deadline.valid_second == self.second()
    }

    /// Returns whether neither clock has reached `deadline`, by the exact clocks. If so,
    /// [`is_before_fast`](Self::is_before_fast) is enough for the rest of this second, unless the
    /// deadline is close.
    #[cold]
    pub(crate) fn is_before(&self, deadline: &mut Deadline) -> bool {
        // Read first, since it must not be later than the exact clocks.
        let second = self.second();
        let now = self.now();
        let is_close = !now.plus(CLOSE).is_before(deadline.now);
        let is_unknown = is_close || second == Second::UNKNOWN;
        deadline.valid_second = if is_unknown { Second::NONE } else { second };
        now.is_before(deadline.now)
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

#[cold]
fn second_of_test(clock: &dyn ReadClock) -> Second {
    clock.coarse().second()
}

/// Returns the origin of the monotonic readings.
#[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
fn base() -> Instant {
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BASE
}

fn system_soon() -> Now {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::time::ClockId;
        let time = |clock| read(clock).and_then(|time| Duration::try_from(time).ok());
        /// The origin by the clock that the standard library reads here, or slightly earlier.
        static ORIGIN: LazyLock<Option<Duration>> = LazyLock::new(|| {
            let mono = read(ClockId::Monotonic)?;
            let since = system_now().mono;
            Duration::try_from(mono).ok()?.checked_sub(since)
        });
        let mono = time(ClockId::MonotonicCoarse);
        let wall = time(ClockId::RealtimeCoarse);
        if let (Some(mono), Some(wall), Some(origin)) = (mono, wall, *ORIGIN) {
            return Now { mono: mono.saturating_sub(origin), wall }.plus(LATE);
        }
    }
    system_now()
}

/// Reads a clock of the kernel. Returns `None` if the kernel does not have it, or denies access.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn read(clock: rustix::time::ClockId) -> Option<rustix::time::Timespec> {
    // The infallible function of rustix panics if the kernel refuses.
    rustix::time::clock_gettime_dynamic(rustix::time::DynamicClockId::Known(clock)).ok()
}

/// Reads both clocks, the wall clock last, so that a suspend of the host in between is visible.
#[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
fn system_now() -> Now {
    let base = base();
    Now {
        mono: Instant::now().saturating_duration_since(base),
        wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

/// Returns the second of the wall clock, from the coarse clock where the system has one: it is late
/// by a tick (1 to 10 ms), and costs a tenth.
///
/// Inlined: with one clock that saves 4 instructions of each request. (With two, a call was cheaper.)
#[allow(clippy::disallowed_methods, reason = "this file reads the clocks")]
#[inline]
fn system_second() -> Second {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(wall) = read(rustix::time::ClockId::RealtimeCoarse) {
        return Second(wall.tv_sec);
    }
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall, ..Now::default() }.second()
}

/// Converts a time since the Unix epoch to a [`SystemTime`].
fn system_time(since_epoch: Duration) -> SystemTime {
    let far = Duration::from_secs(10_000 * 365 * 24 * 3600);
    UNIX_EPOCH.checked_add(since_epoch.min(far)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
        let is_before = |deadline| {
            let mut deadline = Deadline::new(deadline);
            let is_before = clock.is_before(&mut deadline);
            assert!(is_before || !clock.is_before_fast(&deadline), "at a glance, too");
            is_before
        };
        assert!(is_before(now.plus(Duration::from_secs(3600))));
        assert!(is_before(now.plus(Duration::MAX)));
        assert!(!is_before(now));
        assert!(!is_before(Now::default()));
        let suspended = Now { mono: now.mono + Duration::from_secs(60), wall: now.wall };
        assert!(!is_before(suspended), "the wall clock has reached it");
        let set_back = Now { mono: now.mono, wall: now.wall + Duration::from_secs(60) };
        assert!(!is_before(set_back), "the monotonic clock has reached it");
    }

    /// Clocks that the test sets, in milliseconds, and by how much the coarse ones are late.
    #[derive(Default)]
    struct Hands(Mutex<(u64, u64, u64)>);

    impl ReadClock for Hands {
        fn now(&self) -> Now {
            let (mono, wall, _) = *self.0.lock().unwrap();
            Now { mono: Duration::from_millis(mono), wall: Duration::from_millis(wall) }
        }

        fn coarse(&self) -> Now {
            let late = Duration::from_millis(self.0.lock().unwrap().2);
            let Now { mono, wall } = self.now();
            Now { mono: mono.saturating_sub(late), wall: wall.saturating_sub(late) }
        }
    }

    /// A token is never used past the deadline, and never refused before it, whatever the clocks do
    /// between two calls. The exception is a wall clock that was set back since the exact clocks
    /// were last read.
    #[test]
    fn a_fast_check_is_wrong_only_if_the_wall_clock_was_set_back() {
        let mut random = 1_u64;
        let mut chance = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut fast = 0;
        for _ in 0..2_000 {
            let hands = Arc::new(Hands::default());
            let clock = Clock::Test(Arc::clone(&hands) as Arc<dyn ReadClock>);
            let deadline = Now {
                mono: Duration::from_millis(chance(20_000)),
                wall: Duration::from_millis(100_000 + chance(20_000)),
            };
            let mut own = Deadline::new(deadline);
            let (mut mono, mut wall) = (0, 100_000);
            let mut was_set_back = false;
            for _ in 0..400 {
                let passed = chance(150);
                mono += passed;
                wall += passed;
                match chance(100) {
                    // The host was suspended.
                    0 => wall += chance(5_000),
                    1 => {
                        wall -= chance(5_000);
                        was_set_back = true;
                    }
                    2 => {
                        wall -= chance(500);
                        was_set_back = true;
                    }
                    3 => {
                        // Idle.
                        let passed = chance(10_000);
                        mono += passed;
                        wall += passed;
                    }
                    _ => {}
                }
                // A coarse clock is late by less than a second, and never early.
                *hands.0.lock().unwrap() = (mono, wall, chance(1_000));
                let exact = clock.now().is_before(deadline);
                if clock.is_before_fast(&own) {
                    assert!(exact || was_set_back, "at {mono}, {wall}: {own:?}");
                    fast += 1;
                } else {
                    was_set_back = false;
                    assert_eq!(clock.is_before(&mut own), exact, "at {mono}, {wall}: {own:?}");
                }
            }
        }
        assert!(fast > 50_000, "the fast check is mostly enough, not {fast} times");
    }

    /// Checks the bound of that exception: it takes the very second of the last exact reading, and
    /// ends with it.
    #[test]
    fn a_wall_clock_set_back_is_believed_within_one_second_only() {
        let hands = Arc::new(Hands(Mutex::new((10_000, 1_000_300, 0))));
        let clock = Clock::Test(Arc::clone(&hands) as Arc<dyn ReadClock>);
        let mut deadline = Deadline::new(at(20, 1_010));
        assert!(clock.is_before(&mut deadline));
        // Idle until both have reached the deadline, and set back by nearly that long.
        for (wall, is_believed) in
            [(999_999, false), (1_000_000, true), (1_000_999, true), (1_001_000, false)]
        {
            *hands.0.lock().unwrap() = (25_000, wall, 0);
            assert_eq!(clock.is_before_fast(&deadline), is_believed, "{wall}");
        }
        assert!(!clock.is_before(&mut deadline), "the monotonic clock tells");
        *hands.0.lock().unwrap() = (25_000, 1_000_500, 0);
        assert!(!clock.is_before_fast(&deadline), "from then on, always");
    }

    /// Prevents a token that is used forever on a host whose clock has not been set since 1970.
    #[test]
    fn a_wall_clock_before_1970_is_not_believed_to_stand_in_one_second() {
        let hands = Arc::new(Hands(Mutex::new((10_000, 0, 0))));
        let clock = Clock::Test(Arc::clone(&hands) as Arc<dyn ReadClock>);
        let mut deadline = Deadline::new(at(20, 1_010));
        assert!(clock.is_before(&mut deadline));
        *hands.0.lock().unwrap() = (25_000, 0, 0);
        assert!(!clock.is_before_fast(&deadline));
        assert!(!clock.is_before(&mut deadline), "the monotonic clock tells");
    }

    #[test]
    fn soon_is_soon() {
        for _ in 0..1_000 {
            let before = system_now();
            let soon = system_soon();
            let after = system_now().plus(Duration::from_secs(10));
            assert!(before.mono <= soon.mono && soon.mono <= after.mono, "{before:?} {soon:?}");
            assert!(before.wall <= soon.wall && soon.wall <= after.wall, "{before:?} {soon:?}");
        }
    }

    /// The coarse clock and the exact clock are the same.
    #[test]
    fn the_coarse_clock_goes_with_the_exact_one() {
        let before = system_now().second();
        let Second(wall) = system_second();
        let after = system_now().second();
        assert!(before.0 - 1 <= wall && wall <= after.0, "{before:?}, {wall}, {after:?}");
    }

    #[test]
    fn a_deadline_is_reached_by_either_clock() {
        let deadline = at(100, 1100);
        assert!(at(99, 1099).is_before(deadline));
        assert!(!at(100, 1099).is_before(deadline));
        assert!(!at(99, 1100).is_before(deadline));
    }

    /// Prevents reading the second after the time: a host that is suspended between the two would
    /// record a second that was never checked.
    #[test]
    fn a_host_that_sleeps_between_two_readings_is_found_out() {
        /// Shows the first time once, and then the second.
        struct Asleep(Mutex<Option<Now>>, Now);

        impl ReadClock for Asleep {
            fn now(&self) -> Now {
                self.0.lock().unwrap().take().unwrap_or(self.1)
            }
        }

        let clock = Clock::Test(Arc::new(Asleep(Mutex::new(Some(at(10, 1010))), at(10, 8210))));
        let mut deadline = Deadline::new(at(100, 1100));
        let _by_what_was_read_first = clock.is_before(&mut deadline);
        assert!(!clock.is_before_fast(&deadline), "the deadline has passed");
    }
}
