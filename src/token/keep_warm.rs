//! The timer of a cache that is kept warm. It sets off one renewal and ends; the end of that
//! renewal starts the next timer.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time};

use super::{
    flight::Outcome,
    shared::{Renewing, Shared},
};

/// The longest sleep of the timer: after each it looks at both clocks.
const MAX_TIMER_SLEEP: Duration = Duration::from_secs(30);

/// The shortest pause of the timer between two renewals: a source that panics every time, or tokens
/// that live for milliseconds, must not keep it spinning.
const MIN_TIMER_INTERVAL: Duration = Duration::from_secs(1);

/// Renews without a request to set it off, from now on. The last renewal ended with `outcome`.
pub(crate) fn start(shared: &Arc<Shared>, outcome: &Outcome) {
    // A failure that is not remembered leaves nothing to wait for: without a pause, a source that
    // is interrupted each time would be asked again and again.
    let pause = match outcome {
        Err(error) if error.retry_at().is_none() => MAX_TIMER_SLEEP,
        _ => MIN_TIMER_INTERVAL,
    };
    run(shared, pause);
}

/// Starts the timer again on the caller's runtime: the runtime of the former timer is gone.
pub(crate) fn revive(shared: &Arc<Shared>) {
    run(shared, Duration::ZERO);
}

fn run(shared: &Arc<Shared>, pause: Duration) {
    let Ok(runtime) = Handle::try_current() else { return };
    let guard = TimerGuard { shared: Arc::downgrade(shared), has_ended: false };
    let clock = shared.clock.clone();
    let timer = async move {
        time::sleep(pause).await;
        loop {
            let now = clock.now();
            let due = guard.shared.upgrade().and_then(|shared| Some((shared.due()?, shared)));
            let Some((due, shared)) = due else { break };
            let mut sleep = due.mono.saturating_sub(now.mono);
            if !now.is_before(due) {
                if let Renewing::Yes = shared.renew_in_background(now) {
                    break;
                }
                // The budget or a refusal of the credentials holds it back.
                sleep = MAX_TIMER_SLEEP;
            }
            drop(shared);
            time::sleep(sleep.min(MAX_TIMER_SLEEP)).await;
        }
        guard.end();
    };
    shared.timer_runs(runtime.spawn(timer).abort_handle());
}

/// Notices when the timer's runtime is shut down, so that the next caller starts another.
struct TimerGuard {
    shared: Weak<Shared>,
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
            && let Some(shared) = self.shared.upgrade()
        {
            shared.timer_is_lost();
        }
    }
}
