//! The renewal itself: a task of its own that asks the source, again where that helps, and ends at
//! its deadline. No caller can cancel it; whatever ends it early is an outcome, too.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time};

use super::{
    flight::Flight,
    random::Random,
    schedule::{Next, next_attempt},
    shared::{Renewing, Shared, interrupted},
    source::{Attempt, TokenResponse, TokenSource},
};
use crate::{
    clock::{Clock, Now},
    error::{ErrorClass, TokenError},
    telemetry,
};

/// The longest nap of the timer: after each it looks at both clocks.
const NAP: Duration = Duration::from_secs(30);

/// The least pause of the timer between two renewals: a source that panics every time, or tokens
/// that live for milliseconds, must not keep it spinning.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a renewal can be started here.
pub(crate) fn in_runtime() -> bool {
    Handle::try_current().is_ok()
}

/// Flies `flight` on a task of its own. Not under a lock: a runtime that is shutting down drops
/// the task on the spot.
pub(crate) fn launch(shared: &Arc<Shared>, flight: Arc<Flight>) {
    let pilot = Pilot {
        shared: Arc::downgrade(shared),
        flight,
        version: 0,
        landed: false,
        since: shared.clock.now(),
        attempts: 0,
        span: telemetry::RenewalSpan::new(),
    };
    #[cfg(all(oauth2_loom, test))]
    return super::model::fly(shared, pilot);
    #[cfg(not(all(oauth2_loom, test)))]
    spawn(shared, pilot);
}

#[cfg_attr(
    all(oauth2_loom, test),
    allow(dead_code, reason = "the model has threads in place of tasks")
)]
fn spawn(shared: &Arc<Shared>, pilot: Pilot) {
    let Ok(runtime) = Handle::try_current() else {
        pilot.finish(Err(interrupted("a token must be asked for, and there is no Tokio runtime")));
        return;
    };
    let timeouts = Timeouts {
        attempt: shared.settings.attempt_timeout,
        renewal: shared.settings.renewal_timeout,
    };
    let source = Arc::clone(&shared.source);
    let clock = shared.clock.clone();
    let random = shared.seed();
    let span = pilot.span.clone();
    let task = runtime.spawn(telemetry::within(span, pilot.fly(source, clock, random, timeouts)));
    shared.renewal_runs(task.abort_handle());
}

#[derive(Clone, Copy, Debug)]
struct Timeouts {
    attempt: Duration,
    renewal: Duration,
}

/// Sees to it that the flight lands: also when its task panics, is aborted, or loses its runtime.
#[derive(Debug)]
pub(crate) struct Pilot {
    /// Weak: a renewal keeps no cache alive.
    shared: Weak<Shared>,
    flight: Arc<Flight>,
    version: u64,
    landed: bool,
    since: Now,
    /// How often the source was asked.
    attempts: u32,
    span: telemetry::RenewalSpan,
}

impl Pilot {
    async fn fly(
        mut self,
        source: Arc<dyn TokenSource>,
        clock: Clock,
        mut random: Random,
        timeouts: Timeouts,
    ) {
        // Before the first attempt: a change during it must be noticed.
        self.version = source.credentials_version();
        let result = renew(&*source, &clock, &mut random, timeouts, &mut self.attempts).await;
        self.finish(result);
    }

    pub(crate) fn finish(mut self, result: Result<(TokenResponse, Now), TokenError>) {
        self.land(result);
    }

    fn land(&mut self, result: Result<(TokenResponse, Now), TokenError>) {
        self.landed = true;
        match self.shared.upgrade() {
            Some(shared) => {
                let outcome = shared.finish(&self.flight, result, self.version);
                let took = shared.clock.now().since(self.since);
                telemetry::renewed(&self.span, &outcome, self.attempts, took);
            }
            None => self.flight.land(Err(interrupted("the token's cache is gone"))),
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        if !self.landed {
            self.land(Err(interrupted(
                "the renewal was cut short: its task panicked or was aborted, or its runtime was shut down",
            )));
        }
    }
}

/// Asks `source` until it answers, gives a reason to stop, or time is up. With a token comes the
/// moment before it was asked for.
async fn renew(
    source: &dyn TokenSource,
    clock: &Clock,
    random: &mut Random,
    timeouts: Timeouts,
    attempts: &mut u32,
) -> Result<(TokenResponse, Now), TokenError> {
    let mut last = None;
    let asking = async {
        let mut attempt = Attempt::first();
        loop {
            *attempts = attempt.number();
            let t0 = clock.now();
            let answer = time::timeout(timeouts.attempt, source.fetch(attempt)).await;
            let error = match answer {
                Ok(Ok(response)) => return Ok((response, t0)),
                Ok(Err(error)) => same_credentials(last.take(), error),
                Err(_) => timed_out("the token endpoint did not answer within", timeouts.attempt),
            };
            telemetry::attempt_failed(attempt.number(), &error);
            let next = next_attempt(&error, attempt.number(), random);
            attempt = attempt.after(&error);
            let Next::Retry(delay) = next else {
                return Err(error);
            };
            last = Some(error);
            time::sleep(delay).await;
        }
    };
    match time::timeout(timeouts.renewal, asking).await {
        Ok(result) => result,
        Err(_) => {
            let error = timed_out("no attempt to get a token succeeded within", timeouts.renewal);
            Err(match last {
                Some(last) => error.with_source(last),
                None => error,
            })
        }
    }
}

/// The source had no other credentials to try: what the server said of them stands.
fn same_credentials(former: Option<TokenError>, error: TokenError) -> TokenError {
    match former {
        Some(former)
            if former.fingerprint().is_some() && former.fingerprint() == error.fingerprint() =>
        {
            former
        }
        _ => error,
    }
}

fn timed_out(what: &str, limit: Duration) -> TokenError {
    TokenError::new(ErrorClass::Transient, format!("{what} {limit:?}"))
}

/// Renews without a request to set it off, from now on. The timer sets off one renewal and ends;
/// the end of that renewal starts the next timer.
pub(crate) fn keep_warm(shared: &Arc<Shared>) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    let weak = Arc::downgrade(shared);
    let clock = shared.clock.clone();
    let timer = async move {
        time::sleep(PAUSE).await;
        loop {
            let now = clock.now();
            let Some(shared) = weak.upgrade() else { return };
            let Some(due) = shared.due(now) else { return };
            let mut nap = due.mono.saturating_sub(now.mono);
            if !now.is_before(due) {
                if let Renewing::Yes = shared.renew_in_background(now) {
                    return;
                }
                // The budget keeps it back.
                nap = NAP;
            }
            drop(shared);
            time::sleep(nap.min(NAP)).await;
        }
    };
    shared.timer_runs(runtime.spawn(timer).abort_handle());
}
