//! The renewal: it asks the source, retries where that helps, and ends at its deadline. It runs on
//! its own task, unless its first poll completes it. No caller can cancel it. Its flight is also
//! completed by a panic, an abort or the shutdown of its runtime.

use std::{
    future::{Future, poll_fn},
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{self, Sleep},
};

use super::{
    backoff::{Next, next_attempt},
    core::{End, interrupted},
    driver::Driver,
    flight::{Completion, Flight},
    state::Launch,
};
use crate::{
    clock::{Clock, Now},
    error::{ErrorClass, TokenError},
    random::Random,
    telemetry,
    token::source::{Attempt, BoxFuture, Lifetime, TokenResponse, TokenSource},
};

/// The most attempts that one renewal has in flight at once.
const MAX_ASKED: usize = 3;

/// Returns `true` if a renewal can be started here.
pub(crate) fn in_runtime() -> bool {
    Handle::try_current().is_ok()
}

/// The way in which a renewal starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The source is asked on a task.
    OnTask,
    /// The source is asked and polled once in place, since a source that is ready immediately needs
    /// no task. Otherwise the renewal continues on a task. For callers that are being polled and
    /// wait for the renewal.
    InPlace,
}

/// Runs the renewal, on its own task unless it ends in place. Must not be called under a lock: the
/// source may call into the cache, and a runtime that is shutting down drops the task immediately.
pub(crate) fn launch(
    driver: &Arc<Driver>,
    launch: Launch,
    flight: Arc<Flight>,
    random: Random,
    start: Start,
) {
    let guard = RenewalGuard {
        driver: Arc::downgrade(driver),
        launch,
        flight,
        version: 0,
        counts: AttemptCounts::default(),
        has_ended: false,
        in_source: false,
        since: driver.clock.now(),
        span: telemetry::RenewalSpan::new(),
    };
    #[cfg(all(oauth2_loom, test))]
    {
        drop((random, start));
        super::model::run(driver, guard);
    }
    #[cfg(not(all(oauth2_loom, test)))]
    run(driver, guard, random, start);
}

#[cfg_attr(
    all(oauth2_loom, test),
    allow(dead_code, reason = "the model has threads in place of tasks")
)]
fn run(driver: &Arc<Driver>, guard: RenewalGuard, random: Random, start: Start) {
    let Ok(runtime) = Handle::try_current() else {
        driver.attempt_failed(guard.launch.reserved, true);
        let error = interrupted("a token must be asked for, and there is no Tokio runtime");
        guard.abandon(error);
        return;
    };
    #[cfg(not(all(oauth2_loom, test)))]
    if crate::timer::after(Duration::ZERO).is_none() {
        driver.attempt_failed(guard.launch.reserved, true);
        let error = interrupted("the Tokio runtime has no timer: build it with `enable_time`");
        guard.abandon(error);
        return;
    }
    let timeouts = Timeouts {
        attempt: driver.settings.attempt_timeout,
        renewal: driver.settings.renewal_timeout,
    };
    let flight = guard.launch.flight;
    let source = Arc::clone(&driver.source);
    let clock = driver.clock.clone();
    let span = guard.span.clone();
    let renewal = telemetry::within(span, guard.run(source, clock, random, timeouts));
    let task = match start {
        Start::OnTask => runtime.spawn(renewal),
        Start::InPlace => match poll_in_place(renewal) {
            Some(renewal) => runtime.spawn(renewal),
            None => return,
        },
    };
    driver.renewal_runs(flight, task.abort_handle());
}

/// Polls `renewal` once, and returns it unless it has ended.
///
/// The waker does nothing, because the task polls the renewal again in any case. A panic is caught,
/// as Tokio does for a task; `renewal` then drops its guard, which completes the flight.
fn poll_in_place<F: Future<Output = ()>>(renewal: F) -> Option<Pin<Box<F>>> {
    let mut renewal = Box::pin(renewal);
    let mut cx = Context::from_waker(Waker::noop());
    // A renewal that has panicked is not polled again.
    match panic::catch_unwind(AssertUnwindSafe(|| renewal.as_mut().poll(&mut cx))) {
        Ok(Poll::Pending) => Some(renewal),
        Ok(Poll::Ready(())) | Err(_) => None,
    }
}

#[derive(Clone, Copy, Debug)]
struct Timeouts {
    attempt: Duration,
    renewal: Duration,
}

/// Guard that completes the flight even if its task panics, is aborted, or loses its runtime.
#[derive(Debug)]
pub(crate) struct RenewalGuard {
    /// Weak, so that a renewal does not keep its cache alive.
    driver: Weak<Driver>,
    launch: Launch,
    flight: Arc<Flight>,
    version: u64,
    counts: AttemptCounts,
    has_ended: bool,
    /// Whether the source's code is running, so that a panic is the source's.
    in_source: bool,
    since: Now,
    span: telemetry::RenewalSpan,
}

/// The counters of a renewal.
#[derive(Clone, Copy, Debug, Default)]
struct AttemptCounts {
    /// The number of attempts.
    attempts: u32,
    /// The number of issued tokens that could not be used.
    wasted: u32,
}

impl RenewalGuard {
    async fn run(
        mut self,
        source: Arc<dyn TokenSource>,
        clock: Clock,
        random: Random,
        timeouts: Timeouts,
    ) {
        // Read before the first attempt, so that a change during the attempt is noticed.
        self.in_source = true;
        self.version = source.credentials_version();
        self.in_source = false;
        let result = self.renew(&*source, &clock, random, timeouts).await;
        self.finish(result);
    }

    pub(crate) fn finish(mut self, result: Result<(TokenResponse, Now), TokenError>) {
        self.end(result, false);
    }

    /// Ends a renewal that could not be started.
    fn abandon(mut self, error: TokenError) {
        self.end(Err(error), true);
    }

    fn end(&mut self, result: Result<(TokenResponse, Now), TokenError>, is_interrupted: bool) {
        self.has_ended = true;
        let end = End {
            result,
            credentials_version: self.version,
            wasted: self.counts.wasted,
            is_interrupted,
        };
        match self.driver.upgrade() {
            Some(driver) => {
                let outcome = driver.finish(self.launch.flight, &self.flight, end);
                let took = driver.clock.now().since(self.since);
                let (trigger, attempts) = (self.launch.trigger, self.counts.attempts);
                telemetry::renewed(&self.span, trigger, &outcome, attempts, took);
            }
            None => self.flight.complete(Completion {
                outcome: Err(interrupted("the token's cache is gone")),
                no_token_in_epoch: None,
                is_interrupted,
            }),
        }
    }

    /// Asks `source` until it returns a token or a final error, or time is up. A token comes with
    /// the time just before it was requested.
    ///
    /// A slow attempt is joined by another and not cut off; the first result counts. So a dead
    /// connection delays the renewal by one attempt's timeout, and a server that takes longer than
    /// that still serves. A request that was lost with a reused connection is sent again
    /// immediately, as part of the same attempt. The issuance budget counts it, because the server
    /// may have read the lost one.
    async fn renew(
        &mut self,
        source: &dyn TokenSource,
        clock: &Clock,
        mut random: Random,
        timeouts: Timeouts,
    ) -> Result<(TokenResponse, Now), TokenError> {
        let start = clock.now();
        let mut deadline = Box::pin(time::sleep(timeouts.renewal));
        let mut asked = Vec::with_capacity(1);
        let mut next = Some((Attempt::new(self.launch.trigger), self.launch.reserved));
        let mut retry = None;
        let mut timer = None;
        let mut last: Option<TokenError> = None;
        let mut has_resent = false;
        loop {
            if let Some((attempt, reserved)) = next.take() {
                // A request that is sent again has the number of an older attempt.
                let number = attempt.number().max(self.counts.attempts);
                self.counts.attempts = number;
                self.in_source = true;
                let (t0, future) = (clock.now(), source.fetch(attempt));
                self.in_source = false;
                asked.push(Asked { attempt, reserved, t0, future });
                retry = Some(attempt.numbered(number).beside());
                retry = retry.filter(|_| asked.len() < MAX_ASKED);
                timer = retry.is_some().then(|| Box::pin(time::sleep(timeouts.attempt)));
            }
            let in_source = &mut self.in_source;
            let (attempt, reserved, t0, answer) =
                match step(&mut asked, &mut timer, &mut deadline, in_source).await {
                    Step::Answered(Answered { attempt, reserved, t0, answer }) => {
                        (attempt, reserved, t0, answer)
                    }
                    Step::Due => {
                        timer = None;
                        match (retry.take(), self.reserve(false)) {
                            (Some(attempt), Ok(reserved)) => next = Some((attempt, reserved)),
                            (_, Err(error)) if asked.is_empty() => {
                                return Err(last.unwrap_or(error));
                            }
                            _ => {}
                        }
                        continue;
                    }
                    Step::Late => {
                        let error = timed_out(timeouts.renewal);
                        return Err(match last {
                            // The server's own delay is more useful to the caller.
                            Some(last) if last.retry_after().is_some() => last,
                            Some(last) => error.with_source(last),
                            None => error,
                        });
                    }
                };
            let error = match answer {
                Ok(response) if !has_expired(&response, clock.now().since(t0)) => {
                    return Ok((response, t0));
                }
                Ok(_) => {
                    self.counts.wasted += 1;
                    self.attempt_failed(reserved, false);
                    TokenError::new(
                        ErrorClass::Transient,
                        "the token had expired when it arrived: the answer took longer than it lives",
                    )
                }
                Err(error) => {
                    if error.is_unanswered()
                        && !has_resent
                        && let Ok(reserved) = self.reserve(true)
                    {
                        has_resent = true;
                        next = Some((attempt, reserved));
                        (retry, timer, last) = (None, None, Some(error));
                        continue;
                    }
                    self.counts.wasted += u32::from(was_issued(&error));
                    self.attempt_failed(reserved, !may_have_issued(&error));
                    same_credentials(last.take(), error)
                }
            };
            telemetry::attempt_failed(attempt.number(), &error);
            let number = attempt.number().max(self.counts.attempts);
            match next_attempt(&error, number, self.launch.attempts, &mut random) {
                Next::Retry(delay) if fits(delay, start, clock.now(), timeouts.renewal) => {
                    retry = Some(attempt.numbered(number).after(&error));
                    timer = Some(Box::pin(time::sleep(delay)));
                }
                // Other attempts are in flight, and this failure says nothing about them.
                _ if !asked.is_empty() && error.class() == ErrorClass::Transient => {
                    (retry, timer) = (None, None);
                }
                // A response of the server ends the renewal, however many attempts are still in
                // flight. So does a wait that does not fit.
                _ => return Err(error),
            }
            last = Some(error);
        }
    }

    /// Reserves budget for an attempt after the first, or for a request that is sent again.
    fn reserve(&self, is_resend: bool) -> Result<Duration, TokenError> {
        match self.driver.upgrade() {
            Some(driver) => driver.attempt_starts(self.launch.flight, is_resend),
            None => Ok(Duration::ZERO),
        }
    }

    fn attempt_failed(&self, reserved: Duration, is_free: bool) {
        if let Some(driver) = self.driver.upgrade() {
            driver.attempt_failed(reserved, is_free);
        }
    }
}

impl Drop for RenewalGuard {
    fn drop(&mut self) {
        if !self.has_ended {
            let error = interrupted(
                "the renewal was cut short: its task panicked or was aborted, or its runtime was shut down",
            );
            // A panic of the source is a failure of the source; any other end says nothing about
            // it.
            let is_interrupted = !self.in_source;
            self.end(Err(error), is_interrupted);
        }
    }
}

/// An attempt in flight.
struct Asked<'a> {
    attempt: Attempt,
    /// The time at which budget was reserved for the attempt.
    reserved: Duration,
    /// The time just before the source was asked.
    t0: Now,
    future: BoxFuture<'a, Result<TokenResponse, TokenError>>,
}

/// An attempt that has ended.
struct Answered {
    attempt: Attempt,
    reserved: Duration,
    t0: Now,
    answer: Result<TokenResponse, TokenError>,
}

/// The next event in a renewal.
enum Step {
    Answered(Answered),
    /// The timer has fired: another attempt is due.
    Due,
    /// The renewal's time is up.
    Late,
}

/// Waits for the next event. Results come first: after the process was frozen, all timers are due,
/// and a result that has arrived still counts.
async fn step(
    asked: &mut Vec<Asked<'_>>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: &mut Pin<Box<Sleep>>,
    in_source: &mut bool,
) -> Step {
    poll_fn(|cx: &mut Context<'_>| {
        for index in 0..asked.len() {
            let Some(one) = asked.get_mut(index) else { break };
            // Remains set if the source panics.
            *in_source = true;
            let polled = one.future.as_mut().poll(cx);
            *in_source = false;
            if let Poll::Ready(answer) = polled {
                let Asked { attempt, reserved, t0, .. } = asked.remove(index);
                let answered = Answered { attempt, reserved, t0, answer };
                return Poll::Ready(Step::Answered(answered));
            }
        }
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Step::Late);
        }
        match timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Step::Due),
            None => Poll::Pending,
        }
    })
    .await
}

/// Returns `true` if a wait of `delay` from `now` ends before the renewal's deadline.
fn fits(delay: Duration, start: Now, now: Now, limit: Duration) -> bool {
    now.mono.saturating_sub(start.mono).saturating_add(delay) < limit
}

/// Returns `true` if the token has expired on arrival. No waiter could use it, and each would
/// request the next one. (A host that was suspended meanwhile gets another at the next attempt.)
fn has_expired(response: &TokenResponse, age: Duration) -> bool {
    matches!(response.lifetime(), Lifetime::Of(lifetime) if !lifetime.is_zero() && lifetime <= age)
}

/// Returns `true` if the response was a success that could not be understood: the server will have
/// counted it.
fn was_issued(error: &TokenError) -> bool {
    error.class() == ErrorClass::Malformed
        && error.status().is_some_and(|status| status.is_success())
}

/// Returns `true` if the server may have issued a token although none arrived: it responded with a
/// success or failed while it processed the request, or the connection broke after the request was
/// sent.
fn may_have_issued(error: &TokenError) -> bool {
    error.may_have_issued()
        || error
            .status()
            .is_some_and(|status| status.is_success() || matches!(status.as_u16(), 500 | 502 | 504))
}

/// Returns the error of a source that had no other credentials to try: the earlier refusal, if any.
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

fn timed_out(limit: Duration) -> TokenError {
    TokenError::new(
        ErrorClass::Transient,
        format!("no attempt to get a token succeeded within {limit:?}"),
    )
    .with_unknown_outcome()
}

#[cfg(all(test, not(oauth2_loom)))]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use tokio::time::sleep;

    use crate::{ErrorClass, TokenCache, TokenError, TokenResponse, source_fn};

    /// Fails if a request that is sent again makes the count of attempts begin again.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_sent_again_late_brings_no_more_attempts() {
        let numbers = std::sync::Arc::new(Mutex::new(Vec::new()));
        let source = {
            let numbers = std::sync::Arc::clone(&numbers);
            source_fn(move |attempt| {
                let mut numbers = numbers.lock().unwrap();
                let is_first = numbers.is_empty();
                numbers.push(attempt.number());
                async move {
                    let error = TokenError::new(ErrorClass::Transient, "down");
                    match attempt.number() {
                        1 if is_first => {
                            sleep(Duration::from_secs(12)).await;
                            Err(error.with_unanswered_request())
                        }
                        2 => std::future::pending::<Result<TokenResponse, _>>().await,
                        _ => Err(error),
                    }
                }
            })
        };
        TokenCache::builder_from(source).build().unwrap().token().await.unwrap_err();
        assert_eq!(*numbers.lock().unwrap(), [1, 2, 1, 3]);
    }
}
