//! [`ManualClock`]: the two clocks of a host, controlled by a test.
//!
//! The code that reads the clocks decides how they affect a token.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::clock::{Clock, Now, ReadClock};

/// The initial wall time, 2025-01-01T00:00:00Z, so that a test sees the same dates on every run.
const START: Duration = Duration::from_secs(1_735_689_600);

/// A monotonic and a wall clock controlled by a test. Clones show the same time.
///
/// Both follow tokio's clock: with `#[tokio::test(start_paused = true)]` (or `tokio::time::pause`)
/// they stand still until the runtime is idle or `tokio::time::advance` is called. In addition, the
/// wall clock can be stepped, and the host can be suspended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use tower_oauth2_client_credentials::testing::ManualClock;
///
/// let clock = ManualClock::new();
/// let start = clock.wall();
/// tokio::time::advance(Duration::from_secs(60)).await;
/// clock.step_wall_back(Duration::from_secs(3600));
/// assert_eq!(start.duration_since(clock.wall()).unwrap(), Duration::from_secs(3540));
/// # }
/// ```
#[derive(Clone)]
pub struct ManualClock {
    inner: Arc<Inner>,
}

struct Inner {
    created: Instant,
    epoch: Duration,
    shifts: Mutex<Shifts>,
}

/// The offsets of the two clocks from tokio's.
#[derive(Clone, Copy, Default)]
struct Shifts {
    suspended: Duration,
    forward: Duration,
    back: Duration,
}

impl ManualClock {
    /// Creates a clock whose wall clock starts at 2025-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::with_epoch(START)
    }

    /// Creates a clock whose wall clock starts at `wall`; a time before 1970 counts as 1970.
    #[must_use]
    pub fn starting_at(wall: SystemTime) -> Self {
        Self::with_epoch(wall.duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn with_epoch(epoch: Duration) -> Self {
        let inner = Inner { created: tokio_now(), epoch, shifts: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Steps the wall clock forward. No time passes.
    pub fn step_wall_forward(&self, by: Duration) {
        let mut shifts = self.shifts();
        shifts.forward = shifts.forward.saturating_add(by);
    }

    /// Steps the wall clock back, at most to 1970. No time passes.
    pub fn step_wall_back(&self, by: Duration) {
        let mut shifts = self.shifts();
        shifts.back = shifts.back.saturating_add(by);
    }

    /// Suspends the host: time passes on the wall clock, but not on the monotonic clock.
    pub fn suspend(&self, by: Duration) {
        let mut shifts = self.shifts();
        shifts.suspended = shifts.suspended.saturating_add(by);
    }

    /// Returns the time of the wall clock.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.now().system_time()
    }

    /// Returns the time that has actually passed since the clock was created, counting suspends but
    /// not steps. Clocks of other hosts, such as the authorization server's, follow this time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.mono().saturating_add(self.shifts().suspended)
    }

    /// Converts the clock into the type that the crate uses internally.
    #[allow(dead_code, reason = "called by builders that another feature may leave out")]
    pub(crate) fn to_clock(&self) -> Clock {
        Clock::Test(Arc::new(self.clone()))
    }

    fn mono(&self) -> Duration {
        tokio_now().saturating_duration_since(self.inner.created)
    }

    fn shifts(&self) -> MutexGuard<'_, Shifts> {
        self.inner.shifts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadClock for ManualClock {
    fn now(&self) -> Now {
        let Shifts { suspended, forward, back } = *self.shifts();
        let mono = self.mono();
        let wall = self.inner.epoch.saturating_add(mono).saturating_add(suspended);
        Now { mono, wall: wall.saturating_add(forward).saturating_sub(back) }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Now { mono, wall } = self.now();
        f.debug_struct("ManualClock").field("mono", &mono).field("wall", &wall).finish()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock that the ban points to, for tests")]
fn tokio_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn both_clocks_follow_tokio() {
        let clock = ManualClock::new();
        let start = clock.now();
        tokio::time::sleep(HOUR).await;
        assert_eq!(clock.now(), start.plus(HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspend_moves_the_wall_and_real_time_but_not_the_monotonic_clock() {
        let clock = ManualClock::new();
        let start = clock.now();
        clock.clone().suspend(HOUR);
        assert_eq!(clock.now(), Now { mono: start.mono, wall: start.wall + HOUR });
        assert_eq!(clock.elapsed(), HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_moves_the_wall_alone_and_takes_no_time() {
        let clock = ManualClock::new();
        let start = clock.now();
        clock.step_wall_forward(2 * HOUR);
        clock.step_wall_back(3 * HOUR);
        assert_eq!(clock.now(), Now { mono: start.mono, wall: start.wall - HOUR });
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }
}
