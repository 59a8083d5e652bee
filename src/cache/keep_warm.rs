//! The timer of a cache that is kept warm. It starts one renewal and ends; the end of that renewal
//! starts the next timer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time};

use super::{
    driver::{Driver, Renewing},
    flight::Outcome,
};

/// The longest sleep of the timer, which checks both clocks after each one.
const MAX_TIMER_SLEEP: Duration = Duration::from_secs(30);

/// The shortest pause of the timer between two renewals: a source that panics every time, or tokens
/// that live for milliseconds, must not keep it spinning.
const MIN_TIMER_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the timer, after a renewal that ended with `outcome`.
pub(crate) fn start(driver: &Arc<Driver>, outcome: &Outcome) {
    // A failure that is not remembered sets no time for the next attempt. Without a pause, a source
    // that is interrupted each time would be called in a loop.
    let pause = match outcome {
        Err(error) if error.retry_at().is_none() => MAX_TIMER_SLEEP,
        _ => MIN_TIMER_INTERVAL,
    };
    run(driver, pause);
}

/// Starts the timer again on the caller's runtime: the runtime of the former timer is gone.
pub(crate) fn revive(driver: &Arc<Driver>) {
    run(driver, Duration::ZERO);
}

fn run(driver: &Arc<Driver>, pause: Duration) {
    let Ok(runtime) = Handle::try_current() else { return };
    // Loom has no runtime with a timer.
    #[cfg(not(all(oauth2_loom, test)))]
    if crate::timer::after(Duration::ZERO).is_none() {
        return;
    }
    let guard = TimerGuard { driver: Arc::downgrade(driver), has_ended: false };
    let clock = driver.clock.clone();
    let timer = async move {
        time::sleep(pause).await;
        loop {
            let now = clock.now();
            let due = guard.driver.upgrade().and_then(|driver| Some((driver.due()?, driver)));
            let Some((due, driver)) = due else { break };
            let mut sleep = due.mono.saturating_sub(now.mono);
            if !now.is_before(due) {
                if let Renewing::Yes = driver.renew_in_background(now) {
                    break;
                }
                // The budget or a remembered failure delays it.
                sleep = MAX_TIMER_SLEEP;
            }
            drop(driver);
            time::sleep(sleep.min(MAX_TIMER_SLEEP)).await;
        }
        guard.end();
    };
    driver.timer_runs(runtime.spawn(timer).abort_handle());
}

/// Notices when the timer's runtime is shut down, so that the next caller starts another.
struct TimerGuard {
    driver: Weak<Driver>,
    has_ended: bool,
}

impl TimerGuard {
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for TimerGuard {
    fn drop(&mut self) {
        if !self.has_ended
            && let Some(driver) = self.driver.upgrade()
        {
            driver.timer_is_lost();
        }
    }
}
