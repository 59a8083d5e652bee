//! The renewal itself: a task of its own that asks the source, again where that helps, and ends at
//! its deadline. No caller can cancel it; whatever ends it early is an outcome, too.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{runtime::Handle, time};

use super::{
    flight::{Flight, Outcome},
    random::Random,
    schedule::{Next, next_attempt},
    shared::{Shared, interrupted},
    source::{Attempt, Lifetime, TokenResponse, TokenSource},
    state::Renewing,
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
        tally: Tally::default(),
        landed: false,
        since: shared.clock.now(),
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
    tally: Tally,
    landed: bool,
    since: Now,
    span: telemetry::RenewalSpan,
}

/// What a renewal has come to, whatever ends it.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// How often the source was asked.
    attempts: u32,
    /// Tokens that it was given and that are of no use.
    wasted: u32,
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
        let result = renew(&*source, &clock, &mut random, timeouts, &mut self.tally).await;
        self.finish(result);
    }

    pub(crate) fn finish(mut self, result: Result<(TokenResponse, Now), TokenError>) {
        self.land(result);
    }

    fn land(&mut self, result: Result<(TokenResponse, Now), TokenError>) {
        self.landed = true;
        match self.shared.upgrade() {
            Some(shared) => {
                let outcome = shared.finish(&self.flight, result, self.version, self.tally.wasted);
                let took = shared.clock.now().since(self.since);
                telemetry::renewed(&self.span, &outcome, self.tally.attempts, took);
            }
            None => self.flight.land(Err(interrupted("the token's cache is gone")), None),
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
    tally: &mut Tally,
) -> Result<(TokenResponse, Now), TokenError> {
    let mut last = None;
    let asking = async {
        let mut attempt = Attempt::first();
        loop {
            tally.attempts = attempt.number();
            let t0 = clock.now();
            let answer = time::timeout(timeouts.attempt, source.fetch(attempt)).await;
            let error = match answer {
                Ok(Ok(response)) if !has_expired(&response, clock.now().since(t0)) => {
                    return Ok((response, t0));
                }
                Ok(Ok(_)) => {
                    tally.wasted += 1;
                    TokenError::new(
                        ErrorClass::Transient,
                        "the token had expired when it arrived: the answer took longer than it lives",
                    )
                }
                Ok(Err(error)) => {
                    if was_issued(&error) {
                        tally.wasted += 1;
                    }
                    same_credentials(last.take(), error)
                }
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

/// Nobody could use it; who waits would ask for the next one, and so on. (A host that was suspended
/// meanwhile gets another at the next attempt.)
fn has_expired(response: &TokenResponse, age: Duration) -> bool {
    matches!(response.lifetime(), Lifetime::Of(lifetime) if !lifetime.is_zero() && lifetime <= age)
}

/// The answer could not be understood, but the server will have counted it.
fn was_issued(error: &TokenError) -> bool {
    error.class() == ErrorClass::Malformed
        && error.status().is_some_and(|status| status.is_success())
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
/// the end of that renewal, with `outcome`, starts the next timer.
pub(crate) fn keep_warm(shared: &Arc<Shared>, outcome: &Outcome) {
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    let weak = Arc::downgrade(shared);
    let clock = shared.clock.clone();
    // A failure that is not remembered leaves nothing to wait for: without a pause, a source that
    // panics would be asked again and again.
    let pause = match outcome {
        Err(error) if error.retry_at().is_none() => NAP,
        _ => PAUSE,
    };
    let timer = async move {
        time::sleep(pause).await;
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
