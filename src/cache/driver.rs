//! The driver of the state machine: everything that the handles of a cache share.
//!
//! [`Driver`] owns the lock, the source, the clock and the tasks; [`Core`], under the lock, owns
//! the state and the objects that its numbers stand for. The driver gathers the facts of an event,
//! passes it to [`State::on`], and carries out the effects. No rule is decided here.
//!
//! # Locks
//!
//! | lock | guards |
//! |---|---|
//! | `Driver::core` | the state, the texts of the tokens, the last error and the renewal in flight |
//! | `Driver::tasks` | the tasks that end with the last handle |
//! | `Flight::waiters` | the wakers of one renewal |
//! | `service::Handle::template` | the inner service, to be cloned |
//! | `service::Handle::latest` | the copy of the token that clones of a service share |
//!
//! No lock is held across an await or while another is taken, and no user code runs under one,
//! except for the clone of the inner service and of a waker.

use std::{fmt, sync::Arc, time::Duration};

use tokio::task::AbortHandle;

use super::{
    core::{AfterUnlock, Answer, Core, End, RejectAction, interrupted},
    flight::{Completion, Flight, Outcome},
    keep_warm,
    renewal::{self, Start},
    replacement::NotReplaced,
    settings::Settings,
    state::{self, Call, Event, FlightId, Rejected, Sending, Which},
};
use crate::{
    clock::{Clock, Now},
    error::TokenError,
    policy::challenge::Evidence,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        lock,
    },
    telemetry,
    token::issued::IssuedToken,
    token::source::{TokenResponse, TokenSource},
};

pub(crate) struct Driver {
    /// Changes whenever a handle's cached copy may be outdated. Written under the lock of `core`.
    epoch: AtomicU64,
    core: Mutex<Core>,
    /// Whether the acceptance of a first sending would change nothing. Written under the lock of
    /// `core`.
    knows_acceptance: AtomicBool,
    pub(crate) source: Arc<dyn TokenSource>,
    pub(crate) clock: Clock,
    tasks: Mutex<Tasks>,
    pub(crate) settings: Settings,
}

/// The tasks that end with the last handle.
#[derive(Debug, Default)]
struct Tasks {
    /// The task in flight, and possibly one that has just ended; either may be reported first.
    renewals: Vec<(FlightId, AbortHandle)>,
    timer: Option<AbortHandle>,
}

impl Driver {
    pub(crate) fn new(source: Arc<dyn TokenSource>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU64::new(1),
            core: Mutex::new(Core::new(&settings)),
            knows_acceptance: AtomicBool::new(false),
            source,
            clock: settings.clock.clone(),
            tasks: Mutex::default(),
            settings,
        })
    }

    /// Returns the epoch: a number that changes when copies of the token made earlier may be
    /// outdated.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Passes `event` to the state. Effects that must wait until the lock is released are left to
    /// [`carry_out`](Self::carry_out).
    fn step(
        &self,
        core: &mut Core,
        event: Event,
        response: Option<TokenResponse>,
        now: Now,
    ) -> (state::Answer, AfterUnlock) {
        let (answer, epoch_changed, after) = core.step(event, response, now);
        if epoch_changed {
            self.next_epoch();
        }
        let knows_acceptance = core.state.knows_acceptance();
        // Many threads read it at the same time, so it is written only when it changes.
        if self.knows_acceptance.load(Ordering::Relaxed) != knows_acceptance {
            self.knows_acceptance.store(knows_acceptance, Ordering::Release);
        }
        (answer, after)
    }

    fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Runs the effects that must not run under the lock.
    fn carry_out(self: &Arc<Self>, after: AfterUnlock) {
        self.carry_out_and(after, Start::OnTask);
    }

    /// Runs the effects that must not run under the lock, and starts a renewal as `start` says.
    fn carry_out_and(self: &Arc<Self>, after: AfterUnlock, start: Start) {
        let AfterUnlock { given_up, launch, spent } = after;
        if let Some((id, _)) = &given_up {
            self.abort(*id);
        }
        if let Some((launch, flight, random)) = launch {
            renewal::launch(self, launch, flight, random, start);
        }
        // After the launch, which a waker that panics must not prevent.
        if let Some((_, flight)) = given_up {
            flight.complete(Completion {
                outcome: Err(interrupted("the renewal's runtime no longer drives it")),
                no_token_in_epoch: None,
                is_interrupted: true,
            });
        }
        // Last, so that everything else is done even if a `Drop` panics.
        drop(spent);
    }

    /// Locks the core. While a refusal of the credentials is remembered, the source is asked first
    /// whether they have changed since, without the lock.
    fn locked(&self, now: Now) -> MutexGuard<'_, Core> {
        let core = lock(&self.core);
        let Some((failure, refused)) = core.state.stale_refusal(now) else { return core };
        drop(core);
        let version = self.source.credentials_version();
        let mut core = lock(&self.core);
        if version != refused {
            // Ends this failure, and not a newer one.
            let effects = core.state.on(Event::CredentialsVersion { failure, version }, now);
            if effects.epoch_changed {
                self.next_epoch();
            }
        }
        core
    }

    /// Returns a token or the renewal to wait for, and the epoch in which the answer was given.
    pub(crate) fn acquire(self: &Arc<Self>, now: Now) -> (Answer, u64) {
        self.acquire_and(now, Start::OnTask)
    }

    /// Returns the same as [`acquire`](Self::acquire), but starts a renewal that the caller waits
    /// for in the way that `start` says.
    pub(crate) fn acquire_and(self: &Arc<Self>, now: Now, start: Start) -> (Answer, u64) {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Acquire, None, now);
        let answer = match core.answer(answer, now) {
            Answer::Refuse(error) => Answer::Refuse(self.of_client(error)),
            answer => answer,
        };
        let epoch = self.epoch();
        drop(core);
        // A caller that has a token does not wait for the source.
        let start = if matches!(answer, Answer::Wait(_)) { start } else { Start::OnTask };
        self.carry_out_and(after, start);
        self.revive_timer();
        (answer, epoch)
    }

    /// Records a response that rejects a token, and returns how to handle the request.
    pub(crate) fn reject(self: &Arc<Self>, rejected: Rejected, now: Now) -> RejectAction {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Rejected(rejected), None, now);
        let action = core.reject_action(answer, now);
        let is_new = core.told.is_new(rejected.generation, &action);
        drop(core);
        self.carry_out(after);
        let Rejected { generation, evidence, call, .. } = rejected;
        telemetry::rejected(generation, evidence, call.sending(), &action, is_new);
        action
    }

    /// Reports a request that is not sent again, although its rejected token may be replaced.
    pub(crate) fn stands(&self, generation: u64, why: &NotReplaced) {
        let is_new = lock(&self.core).told.is_new_end(generation, why);
        telemetry::stands(generation, why, is_new);
    }

    /// Returns how to handle a rejected `call` after the renewal that it waited for has ended.
    pub(crate) fn replace(
        self: &Arc<Self>,
        call: Call,
        evidence: Evidence,
        now: Now,
    ) -> RejectAction {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Replace { call, evidence }, None, now);
        let action = core.reject_action(answer, now);
        drop(core);
        self.carry_out(after);
        action
    }

    /// Returns a usable token that `call` was not rejected with.
    pub(crate) fn untried(&self, call: &Call, now: Now) -> Option<Arc<IssuedToken>> {
        let core = lock(&self.core);
        core.state.untried(call, now).and_then(|which| core.kept(which)).cloned()
    }

    /// Records a response that accepts a token on probation.
    #[cold]
    pub(crate) fn accept(self: &Arc<Self>, generation: u64, sending: Sending) {
        // Every waiter of one renewal reports the acceptance: the first report is enough.
        if sending == Sending::First && self.knows_acceptance.load(Ordering::Acquire) {
            return;
        }
        let now = self.clock.now();
        let mut core = lock(&self.core);
        let (_, after) = self.step(&mut core, Event::Accepted { generation, sending }, None, now);
        drop(core);
        self.carry_out(after);
    }

    /// Reserves budget for another attempt of the renewal `flight`, and returns the time of the
    /// reservation. With `is_resend`, the attempt replaces one that was lost with its connection.
    pub(crate) fn attempt_starts(
        &self,
        flight: FlightId,
        is_resend: bool,
    ) -> Result<Duration, TokenError> {
        let now = self.clock.now();
        let mut core = lock(&self.core);
        match core.state.on(Event::AttemptStarts { flight, is_resend }, now).answer {
            state::Answer::Refuse(refusal) => Err(core.error(refusal, now)),
            _ => Ok(now.mono),
        }
    }

    /// Records an attempt that failed. `is_free` means that the server cannot have issued a token.
    pub(crate) fn attempt_failed(&self, reserved: Duration, is_free: bool) {
        let now = self.clock.now();
        lock(&self.core).state.on(Event::AttemptFailed { reserved, is_free }, now);
    }

    /// Publishes the result of a renewal that has ended, and completes its flight.
    pub(crate) fn finish(self: &Arc<Self>, id: FlightId, flight: &Flight, mut end: End) -> Outcome {
        end.result = end.result.map_err(|error| self.of_client(error));
        let now = self.clock.now();
        let is_interrupted = end.is_interrupted;
        let mut core = lock(&self.core);
        let (event, response, failed) = core.landed(id, end);
        // A token that is not kept is passed to the waiters only.
        let copy = response.clone();
        let (answer, mut after) = self.step(&mut core, event, response, now);
        let outcome = core.outcome(answer, copy, failed, &mut after, now);
        let is_current = core.take_flight(id).is_some();
        let epoch = self.epoch();
        let has_token = core.state.usable(now).is_some();
        drop(core);
        // A renewal that was given up leaves the timer to its successor.
        if self.settings.keep_warm && is_current {
            keep_warm::start(self, &outcome);
        }
        flight.complete(Completion {
            outcome: outcome.clone(),
            no_token_in_epoch: (!has_token).then_some(epoch),
            is_interrupted,
        });
        self.carry_out(after);
        outcome
    }

    fn of_client(&self, error: TokenError) -> TokenError {
        match &self.settings.client {
            Some(client) => error.or_client(|| Arc::clone(client)),
            None => error,
        }
    }

    /// Starts a renewal if one is due and allowed.
    pub(crate) fn renew_in_background(self: &Arc<Self>, now: Now) -> Renewing {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::TimerDue, None, now);
        drop(core);
        self.carry_out(after);
        if matches!(answer, state::Answer::Wait { .. }) { Renewing::Yes } else { Renewing::No }
    }

    /// Returns the newest token, whether or not it is usable.
    pub(crate) fn current(&self) -> Option<Arc<IssuedToken>> {
        lock(&self.core).newest.clone()
    }

    /// Returns the tokens that are kept: the newest and the former one.
    pub(crate) fn kept(&self) -> [Option<Arc<IssuedToken>>; 2] {
        let core = lock(&self.core);
        [Which::Newest, Which::Former].map(|which| core.kept(which).cloned())
    }

    /// Returns the token that is usable at `now`.
    pub(crate) fn usable(&self, now: Now) -> Option<Arc<IssuedToken>> {
        let core = lock(&self.core);
        core.state.usable(now).and_then(|which| core.kept(which)).cloned()
    }

    /// Returns `true` if the token is usable now.
    pub(crate) fn may_go_out(&self, token: &IssuedToken) -> bool {
        token.is_usable(self.clock.upper_bound()) || token.is_usable(self.clock.now())
    }

    /// Returns `true` if the token is known to be rejected, or is no longer kept.
    pub(crate) fn is_rejected(&self, token: &IssuedToken) -> bool {
        lock(&self.core).state.is_rejected(token.generation)
    }

    /// Returns `true` if there is a token that need not be renewed at `now`.
    pub(crate) fn is_fresh(&self, now: Now) -> bool {
        lock(&self.core).state.newest().is_some_and(|newest| newest.schedule.is_before_soft(now))
    }

    pub(crate) fn issued(&self) -> u64 {
        lock(&self.core).state.issued()
    }

    pub(crate) fn last_error(&self) -> Option<TokenError> {
        lock(&self.core).last_error.clone()
    }

    /// Returns the time at which the timer should look again.
    pub(crate) fn due(&self) -> Option<Now> {
        lock(&self.core).state.due()
    }

    pub(crate) fn renewal_runs(&self, flight: FlightId, task: AbortHandle) {
        let mut tasks = lock(&self.tasks);
        tasks.renewals.retain(|(_, task)| !task.is_finished());
        tasks.renewals.push((flight, task));
    }

    fn abort(&self, flight: FlightId) {
        let mut aborted = Vec::new();
        lock(&self.tasks).renewals.retain(|(id, task)| {
            if *id == flight {
                aborted.push(task.clone());
            }
            *id != flight
        });
        // Outside the lock: it may drop the task, and with it the source's future.
        aborted.iter().for_each(AbortHandle::abort);
    }

    pub(crate) fn timer_runs(&self, task: AbortHandle) {
        let former = lock(&self.tasks).timer.replace(task);
        if let Some(former) = former {
            former.abort();
        }
    }

    /// Records that the timer's runtime has shut down: the next caller starts another timer on its
    /// own.
    pub(crate) fn timer_is_lost(&self) {
        let core = lock(&self.core);
        self.next_epoch();
        drop(core);
    }

    fn revive_timer(self: &Arc<Self>) {
        if self.settings.keep_warm
            && lock(&self.tasks).timer.as_ref().is_some_and(AbortHandle::is_finished)
        {
            keep_warm::revive(self);
        }
    }
}

/// Whether a renewal is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewing {
    Yes,
    No,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let tasks = lock(&self.tasks);
        for task in tasks.renewals.iter().map(|(_, task)| task).chain(&tasks.timer) {
            task.abort();
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("token", &self.current())
            .field("issued", &self.issued())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
        time::Duration,
    };

    use super::*;
    use crate::{
        cache::{Acquiring, Granted},
        clock::ReadClock,
        error::ErrorClass,
        token::{Attempt, source_fn},
    };

    fn a_cache() -> Arc<Driver> {
        let source = Arc::new(source_fn(|attempt| async move {
            if attempt.number() > 0 {
                std::future::pending::<()>().await;
            }
            TokenResponse::bearer("t")
        }));
        Driver::new(source, Settings::default())
    }

    /// Prevents a renewal that stays in flight forever because its task was aborted.
    #[tokio::test(start_paused = true)]
    async fn an_aborted_renewal_is_launched_once_more_and_then_an_error() {
        let driver = a_cache();
        for _ in 0..3 {
            let mut waiting = Acquiring::new();
            let caller = {
                let driver = Arc::clone(&driver);
                tokio::spawn(std::future::poll_fn(move |cx| waiting.poll(&driver, cx)))
            };
            for _ in 0..2 {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                let (_, task) = lock(&driver.tasks).renewals.pop().unwrap();
                assert!(!task.is_finished(), "a task of its own, and a new one");
                task.abort();
            }
            let error = caller.await.unwrap().unwrap_err();
            assert_eq!(error.class(), ErrorClass::Interrupted);
        }
    }

    /// Prevents one path's 401s from invalidating all cached copies at any rate of calls.
    #[tokio::test(start_paused = true)]
    async fn in_the_cooldown_a_401_changes_nothing_for_others() {
        let issued = AtomicU64::new(0);
        let source = source_fn(move |_: Attempt| {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            async move { TokenResponse::bearer(format!("t{number}")) }
        });
        let driver = Driver::new(Arc::new(source), Settings::default());
        let token = |driver: &Arc<Driver>| {
            let (driver, mut acquiring) = (Arc::clone(driver), Acquiring::new());
            std::future::poll_fn(move |cx| acquiring.poll(&driver, cx))
        };
        let first = token(&driver).await.unwrap();
        let reject = |sending| {
            let current = driver.current().unwrap();
            let call = match sending {
                Sending::First => Call::default(),
                Sending::Replay => Call::of_replay(&current),
            };
            let (generation, evidence) = (current.generation, Evidence::Weak);
            let rejected = Rejected { generation, evidence, call, is_replayable: true };
            driver.reject(rejected, driver.clock.now())
        };
        assert!(matches!(reject(Sending::First), RejectAction::Wait(_)));
        while driver.current().unwrap().generation == first.generation {
            tokio::task::yield_now().await;
        }
        let watched = |driver: &Arc<Driver>| match driver.acquire(driver.clock.now()).0 {
            Answer::Use(Granted { watched, .. }) => watched,
            other => panic!("{other:?}"),
        };
        assert!(matches!(reject(Sending::Replay), RejectAction::GiveUp(_)));
        assert!(watched(&driver));
        let epoch = driver.epoch();
        for sending in [Sending::First, Sending::Replay, Sending::First] {
            assert!(matches!(reject(sending), RejectAction::GiveUp(_)));
        }
        assert_eq!(driver.epoch(), epoch);
        driver.accept(driver.current().unwrap().generation, Sending::First);
        assert_ne!(driver.epoch(), epoch, "nobody need watch any more");
        assert!(!watched(&driver));
    }

    /// Prevents contention for the lock by thousands of waiters of the same token.
    #[tokio::test(start_paused = true)]
    async fn an_acceptance_that_is_known_is_not_reported_again() {
        #[derive(Default)]
        struct Counting(AtomicU64);

        impl ReadClock for Counting {
            fn now(&self) -> Now {
                self.0.fetch_add(1, Ordering::Relaxed);
                Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_000) }
            }
        }

        let counting = Arc::new(Counting::default());
        let clock = Clock::Test(Arc::clone(&counting) as Arc<dyn ReadClock>);
        let source = source_fn(|_: Attempt| async { TokenResponse::bearer("t") });
        let driver = Driver::new(Arc::new(source), Settings { clock, ..Settings::default() });
        let mut acquiring = Acquiring::new();
        let token = std::future::poll_fn(|cx| acquiring.poll(&driver, cx)).await.unwrap();
        let is_reported = |sending| {
            let before = counting.0.load(Ordering::Relaxed);
            driver.accept(token.generation, sending);
            counting.0.load(Ordering::Relaxed) > before
        };
        assert!(is_reported(Sending::First));
        assert!(!is_reported(Sending::First));
        assert!(is_reported(Sending::Replay), "it shows that a renewal was a cure");
        let (generation, evidence, call) = (token.generation, Evidence::Strong, Call::default());
        let rejected = Rejected { generation, evidence, call, is_replayable: true };
        assert!(matches!(driver.reject(rejected, driver.clock.now()), RejectAction::Wait(_)));
        assert!(is_reported(Sending::First), "it is rejected, and accepted after all");
        assert!(!is_reported(Sending::First));
    }

    /// Prevents a renewal that outlives its cache because the handle of an earlier task, stored too
    /// late, has replaced its own.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_ended_does_not_take_the_place_of_the_next() {
        let driver = a_cache();
        let launched = |driver: &Arc<Driver>| match driver.acquire(driver.clock.now()).0 {
            Answer::Wait(waiting) => (waiting.flight, lock(&driver.tasks).renewals.pop().unwrap()),
            other => panic!("{other:?}"),
        };
        let (first, its_task) = launched(&driver);
        its_task.1.abort();
        tokio::task::yield_now().await;
        let (second, task) = launched(&driver);
        assert!(!Arc::ptr_eq(&first, &second));
        let (id, task) = task;
        driver.renewal_runs(id, task.clone());
        driver.renewal_runs(its_task.0, its_task.1);
        drop(driver);
        tokio::task::yield_now().await;
        assert!(task.is_finished());
    }

    /// Prevents a caller from waiting forever for a renewal that was given up because its runtime
    /// is alive but not driven.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_renewal_that_is_overdue_is_told() {
        let driver = a_cache();
        let now = driver.clock.now();
        let wait = |now| match driver.acquire(now).0 {
            Answer::Wait(waiting) => waiting.flight,
            other => panic!("{other:?}"),
        };
        let first = wait(now);
        assert!(Arc::ptr_eq(&first, &wait(now.plus(Duration::from_secs(35)))), "in time");
        let mut waiting = first.join();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut waiting).poll(&mut cx).is_pending());
        let second = wait(now.plus(Duration::from_secs(36)));
        assert!(!Arc::ptr_eq(&first, &second));
        let Poll::Ready(landed) = Pin::new(&mut waiting).poll(&mut cx) else {
            panic!("nobody was told");
        };
        assert_eq!(landed.outcome.unwrap_err().class(), ErrorClass::Interrupted);
    }

    /// Prevents an ever-growing list of task handles, each of which keeps its task's memory.
    #[tokio::test(start_paused = true)]
    async fn tasks_that_have_ended_are_forgotten() {
        let source =
            source_fn(|_| async { Ok(TokenResponse::bearer("t")?.expires_in(Duration::ZERO)) });
        let driver = Driver::new(Arc::new(source), Settings::default());
        for _ in 0..100 {
            let mut waiting = Acquiring::new();
            std::future::poll_fn(|cx| waiting.poll(&driver, cx)).await.unwrap();
        }
        assert!(lock(&driver.tasks).renewals.len() <= 2);
    }

    /// Prevents a request from looping forever: by the coarse clocks, a token that lives for less
    /// than a second is expired from the beginning.
    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn a_token_of_less_than_a_second_may_go_out() {
        let source = source_fn(|_| async {
            Ok(TokenResponse::bearer("t")?.expires_in(Duration::from_millis(900)))
        });
        let clock = crate::testing::ManualClock::new().to_clock();
        let driver = Driver::new(Arc::new(source), Settings { clock, ..Settings::default() });
        let mut waiting = Acquiring::new();
        let token = std::future::poll_fn(|cx| waiting.poll(&driver, cx)).await.unwrap();
        assert!(driver.may_go_out(&token));
    }
}
