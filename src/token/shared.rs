//! What all handles of a cache share: the state behind its lock, the source, the clock, and the
//! number by which a handle's own copy of the token knows that it is out of date.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::task::AbortHandle;

use super::{
    budget::Budget,
    flight::{Flight, Landed, Landing, Outcome},
    random::Random,
    rejection::{Sending, Staleness},
    renewal,
    schedule::{ATTEMPT_TIMEOUT, DEFAULT_LIFETIME, RENEWAL_TIMEOUT, Standing},
    snapshot::Snapshot,
    source::{TokenResponse, TokenSource},
    state::{Answer, Decision, Hand, Rejection, Renewing, Standstill, State},
};
use crate::{
    clock::{Clock, Now},
    error::{ErrorClass, TokenError},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        lock,
    },
    telemetry,
};

pub(crate) struct Shared {
    /// Changes whenever a handle's own copy may be out of date. Written under the lock of `state`.
    epoch: AtomicU64,
    state: Mutex<State>,
    pub(crate) source: Arc<dyn TokenSource>,
    pub(crate) clock: Clock,
    tasks: Mutex<Tasks>,
    pub(crate) settings: Settings,
}

/// The tasks that end with the last handle.
#[derive(Debug, Default)]
struct Tasks {
    /// The one in progress, and perhaps one that has just ended: which of two callers gets here
    /// first is not said.
    renewals: Vec<AbortHandle>,
    timer: Option<AbortHandle>,
}

/// How a cache is set up.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    pub(crate) default_lifetime: Duration,
    pub(crate) budget: Option<(u32, Duration)>,
    pub(crate) warmth: Warmth,
    pub(crate) seed: Option<u64>,
    /// For one attempt of a renewal.
    pub(crate) attempt_timeout: Duration,
    /// For a renewal in all.
    pub(crate) renewal_timeout: Duration,
    /// Which client it is, for errors that the source has not said it in.
    pub(crate) client: Option<Arc<str>>,
}

/// What sets off a renewal in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// A request. An idle client uses up no quota.
    OnDemand,
    /// A timer, too, once there has been a token.
    Kept,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            default_lifetime: DEFAULT_LIFETIME,
            budget: None,
            warmth: Warmth::OnDemand,
            seed: None,
            attempt_timeout: ATTEMPT_TIMEOUT,
            renewal_timeout: RENEWAL_TIMEOUT,
            client: None,
        }
    }
}

impl Shared {
    pub(crate) fn new(source: Arc<dyn TokenSource>, settings: Settings) -> Arc<Self> {
        let random = settings.seed.map_or_else(Random::new, Random::seeded);
        let budget = settings.budget.map(|(tokens, per)| Budget::new(tokens, per));
        Arc::new(Self {
            epoch: AtomicU64::new(1),
            state: Mutex::new(State::new(
                settings.default_lifetime,
                settings.renewal_timeout,
                budget,
                random,
            )),
            source,
            clock: settings.clock.clone(),
            tasks: Mutex::default(),
            settings,
        })
    }

    /// Changes when a copy of the token that was made before may be out of date.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A token, or what to wait for. With the epoch in which the answer was right.
    pub(crate) fn acquire(self: &Arc<Self>, now: Now) -> (Answer, u64) {
        self.make_way(now);
        let mut state = lock(&self.state);
        let decision = state.acquire(now);
        let epoch = self.epoch_after(&decision);
        drop(state);
        let answer = match self.carry_out(decision) {
            Answer::Refuse(error) => Answer::Refuse(self.of_client(error)),
            answer => answer,
        };
        (answer, epoch)
    }

    /// The request with the token of generation `rejected` was rejected.
    pub(crate) fn reject(
        self: &Arc<Self>,
        rejected: u64,
        staleness: Staleness,
        sending: Sending,
        now: Now,
    ) -> Rejection {
        self.make_way(now);
        let mut state = lock(&self.state);
        let decision = state.reject(rejected, staleness, sending, now);
        self.epoch_after(&decision);
        drop(state);
        let rejection = self.carry_out(decision);
        telemetry::rejected(rejected, staleness, sending, &rejection);
        rejection
    }

    /// The request with the token of `generation` was accepted, and that is of interest.
    #[cold]
    pub(crate) fn accept(&self, generation: u64, sending: Sending) {
        let mut state = lock(&self.state);
        if state.accept(generation, sending) {
            self.next_epoch();
        }
    }

    /// Forgets and ends what stands in the way for no good reason any more.
    fn make_way(&self, now: Now) {
        let mut state = lock(&self.state);
        let overdue = state.take_overdue(now);
        let refused = state.refused_credentials(now);
        drop(state);
        if let Some(flight) = overdue {
            let error = interrupted("the renewal's runtime no longer drives it");
            flight.land(Err(error), None);
        }
        if let Some(version) = refused
            && self.source.credentials_version() != version
        {
            let mut state = lock(&self.state);
            state.forget_failure();
            let spent = state.take_spent();
            drop(state);
            drop(spent);
        }
    }

    fn epoch_after<T>(&self, decision: &Decision<T>) -> u64 {
        if decision.changed { self.next_epoch() } else { self.epoch() }
    }

    /// Under the lock of `state`.
    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Release) + 1
    }

    /// Starts the renewal that a decision asks for, on a task of its own.
    fn carry_out<T>(self: &Arc<Self>, decision: Decision<T>) -> T {
        if let Some(flight) = decision.launch {
            renewal::launch(self, flight);
        }
        decision.answer
    }

    /// The renewal has ended: publishes what it brought and tells everyone who waits.
    pub(crate) fn finish(
        self: &Arc<Self>,
        flight: &Arc<Flight>,
        result: Result<(TokenResponse, Now), TokenError>,
        credentials_version: u64,
        wasted: u32,
    ) -> Outcome {
        let result = result.map_err(|error| self.of_client(error));
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let outcome = state.finish(flight, result, credentials_version, wasted, now);
        let epoch = outcome.as_ref().map(|_| self.next_epoch());
        let alone_in = epoch.filter(|_| state.usable(now).is_none());
        let spent = state.take_spent();
        drop(state);
        let outcome = outcome.unwrap_or_else(|| Err(interrupted("the renewal came too late")));
        if self.settings.warmth == Warmth::Kept {
            renewal::keep_warm(self, &outcome);
        }
        flight.land(outcome.clone(), alone_in);
        // Last: also if that panics, everyone has been told.
        drop(spent);
        outcome
    }

    fn of_client(&self, error: TokenError) -> TokenError {
        match &self.settings.client {
            Some(client) => error.or_client(|| Arc::clone(client)),
            None => error,
        }
    }

    /// Starts a renewal if one is due and nothing speaks against it.
    pub(crate) fn renew_in_background(self: &Arc<Self>, now: Now) -> Renewing {
        self.make_way(now);
        let decision = lock(&self.state).renew_ahead(now);
        self.carry_out(decision)
    }

    pub(crate) fn seed(&self) -> Random {
        lock(&self.state).seed()
    }

    /// The token that is at hand, whether or not it may still go out.
    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        lock(&self.state).current().cloned()
    }

    /// The token that may go out at `now`.
    pub(crate) fn usable(&self, now: Now) -> Option<Arc<Snapshot>> {
        lock(&self.state).usable(now).cloned()
    }

    /// May the token go out, now?
    pub(crate) fn may_go_out(&self, snapshot: &Snapshot) -> bool {
        snapshot.is_usable(self.clock.soon()) || snapshot.is_usable(self.clock.now())
    }

    /// There is a token that need not be renewed at `now`.
    pub(crate) fn is_fresh(&self, now: Now) -> bool {
        self.current().is_some_and(|current| current.schedule.standing(now) == Standing::Fresh)
    }

    pub(crate) fn issued(&self) -> u64 {
        lock(&self.state).issued()
    }

    pub(crate) fn last_error(&self) -> Option<TokenError> {
        lock(&self.state).last_error().cloned()
    }

    /// When the timer should look again.
    pub(crate) fn due(&self, now: Now) -> Option<Now> {
        lock(&self.state).due(now)
    }

    pub(crate) fn renewal_runs(&self, task: AbortHandle) {
        let mut tasks = lock(&self.tasks);
        tasks.renewals.retain(|task| !task.is_finished());
        tasks.renewals.push(task);
    }

    pub(crate) fn timer_runs(&self, task: AbortHandle) {
        let former = lock(&self.tasks).timer.replace(task);
        if let Some(former) = former {
            former.abort();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let tasks = lock(&self.tasks);
        for task in tasks.renewals.iter().chain(&tasks.timer) {
            task.abort();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("token", &self.current())
            .field("issued", &self.issued())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

pub(crate) fn interrupted(message: &'static str) -> TokenError {
    TokenError::new(ErrorClass::Interrupted, message)
}

/// Waits until there is a token that may go out.
#[derive(Debug)]
pub(crate) struct Acquiring {
    landing: Option<Landing>,
}

impl Acquiring {
    pub(crate) fn new() -> Self {
        Self { landing: None }
    }

    pub(crate) fn waiting_for(flight: &Arc<Flight>) -> Self {
        Self { landing: Some(flight.join()) }
    }

    pub(crate) fn poll(
        &mut self,
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<Snapshot>, TokenError>> {
        loop {
            let Some(landing) = &mut self.landing else {
                match shared.acquire(shared.clock.now()).0 {
                    Answer::Use(Hand { snapshot, .. }) => return Poll::Ready(Ok(snapshot)),
                    Answer::Refuse(error) => return Poll::Ready(Err(error)),
                    Answer::Wait(flight) => self.landing = Some(flight.join()),
                }
                continue;
            };
            let Landed { outcome, alone_in } = ready!(Pin::new(landing).poll(cx));
            self.landing = None;
            match outcome {
                Ok(snapshot) if shared.may_go_out(&snapshot) => return Poll::Ready(Ok(snapshot)),
                // Polled long after the flight landed, the token may be of no use any more.
                Ok(_) => {}
                Err(error) if alone_in == Some(shared.epoch()) => return Poll::Ready(Err(error)),
                Err(error) => {
                    return Poll::Ready(shared.usable(shared.clock.now()).ok_or(error));
                }
            }
        }
    }
}

/// Waits for the token that replaces a rejected one.
#[derive(Debug)]
pub(crate) struct Replacing {
    /// Also keeps alive what is waited for.
    shared: Arc<Shared>,
    landing: Landing,
    rejected: u64,
}

impl Replacing {
    pub(crate) fn new(shared: &Arc<Shared>, flight: &Arc<Flight>, rejected: u64) -> Self {
        Self { shared: Arc::clone(shared), landing: flight.join(), rejected }
    }
}

impl Future for Replacing {
    type Output = Result<Arc<Snapshot>, Standstill>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        Poll::Ready(match ready!(Pin::new(&mut this.landing).poll(cx)).outcome {
            Ok(snapshot) if snapshot.first_seen > this.rejected => Ok(snapshot),
            Ok(_) => Err(Standstill::SameToken),
            // What is at hand may be newer, too, if not the newest: it is worth a try.
            Err(error) => (this.shared.usable(this.shared.clock.now()))
                .filter(|snapshot| snapshot.first_seen > this.rejected)
                .ok_or(Standstill::Failed(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Attempt, source_fn};

    fn a_cache() -> Arc<Shared> {
        let source = Arc::new(source_fn(|attempt| async move {
            if attempt.number() > 0 {
                std::future::pending::<()>().await;
            }
            TokenResponse::bearer("t")
        }));
        Shared::new(source, Settings::default())
    }

    /// Pins the renewal that is under way for ever, because its task was aborted.
    #[tokio::test(start_paused = true)]
    async fn an_aborted_task_is_an_error_once_and_the_next_call_starts_afresh() {
        let shared = a_cache();
        for _ in 0..3 {
            let mut waiting = Acquiring::new();
            let caller = {
                let shared = Arc::clone(&shared);
                tokio::spawn(std::future::poll_fn(move |cx| waiting.poll(&shared, cx)))
            };
            tokio::task::yield_now().await;
            let task = lock(&shared.tasks).renewals.pop().unwrap();
            assert!(!task.is_finished(), "a task of its own, and a new one");
            task.abort();
            let error = caller.await.unwrap().unwrap_err();
            assert_eq!(error.class(), ErrorClass::Interrupted);
        }
    }

    /// Pins the one path whose 401s make the copies of all others out of date, at any rate of calls.
    #[tokio::test(start_paused = true)]
    async fn in_the_cooldown_a_401_changes_nothing_for_others() {
        let source = source_fn(|attempt: Attempt| async move {
            TokenResponse::bearer(format!("t{}", attempt.number()))
        });
        let shared = Shared::new(Arc::new(source), Settings::default());
        let token = |shared: &Arc<Shared>| {
            let (shared, mut acquiring) = (Arc::clone(shared), Acquiring::new());
            std::future::poll_fn(move |cx| acquiring.poll(&shared, cx))
        };
        let first = token(&shared).await.unwrap();
        let reject = |sending| {
            let now = shared.clock.now();
            shared.reject(shared.current().unwrap().generation, Staleness::Unclear, sending, now)
        };
        assert!(matches!(reject(Sending::First), Rejection::Wait(_)));
        while shared.current().unwrap().generation == first.generation {
            tokio::task::yield_now().await;
        }
        let watched = |shared: &Arc<Shared>| match shared.acquire(shared.clock.now()).0 {
            Answer::Use(hand) => hand.watched,
            other => panic!("{other:?}"),
        };
        assert!(matches!(reject(Sending::Replay), Rejection::Stand(_)));
        assert!(watched(&shared));
        let epoch = shared.epoch();
        for sending in [Sending::First, Sending::Replay, Sending::First] {
            assert!(matches!(reject(sending), Rejection::Stand(_)));
        }
        assert_eq!(shared.epoch(), epoch);
        shared.accept(shared.current().unwrap().generation, Sending::First);
        assert_ne!(shared.epoch(), epoch, "nobody need watch any more");
        assert!(!watched(&shared));
    }

    /// Pins the renewal that outlives its cache, because the handle of an earlier task, stored too
    /// late, has taken the place of its own.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_ended_does_not_take_the_place_of_the_next() {
        let shared = a_cache();
        let launched = |shared: &Arc<Shared>| match shared.acquire(shared.clock.now()).0 {
            Answer::Wait(flight) => (flight, lock(&shared.tasks).renewals.pop().unwrap()),
            other => panic!("{other:?}"),
        };
        let (first, its_task) = launched(&shared);
        its_task.abort();
        tokio::task::yield_now().await;
        let (second, task) = launched(&shared);
        assert!(!Arc::ptr_eq(&first, &second));
        shared.renewal_runs(task.clone());
        shared.renewal_runs(its_task);
        drop(shared);
        tokio::task::yield_now().await;
        assert!(task.is_finished());
    }

    /// Pins the caller that waits for ever for a renewal that was given up, because its runtime is
    /// alive but drives nothing.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_renewal_that_is_overdue_is_told() {
        let shared = a_cache();
        let now = shared.clock.now();
        let wait = |now| match shared.acquire(now).0 {
            Answer::Wait(flight) => flight,
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

    /// Pins the handle of every task there ever was, each of which keeps its task's memory.
    #[tokio::test(start_paused = true)]
    async fn tasks_that_have_ended_are_forgotten() {
        let source =
            source_fn(|_| async { Ok(TokenResponse::bearer("t")?.expires_in(Duration::ZERO)) });
        let shared = Shared::new(Arc::new(source), Settings::default());
        for _ in 0..100 {
            let mut waiting = Acquiring::new();
            std::future::poll_fn(|cx| waiting.poll(&shared, cx)).await.unwrap();
        }
        assert!(lock(&shared.tasks).renewals.len() <= 2);
    }

    /// Pins the request that goes round in circles, and never out: by the coarse clocks, a token that
    /// lives for less than a second has no time left from the beginning.
    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn a_token_of_less_than_a_second_may_go_out() {
        let source = source_fn(|_| async {
            Ok(TokenResponse::bearer("t")?.expires_in(Duration::from_millis(900)))
        });
        let clock = crate::testing::ManualClock::new().to_clock();
        let shared = Shared::new(Arc::new(source), Settings { clock, ..Settings::default() });
        let mut waiting = Acquiring::new();
        let snapshot = std::future::poll_fn(|cx| waiting.poll(&shared, cx)).await.unwrap();
        assert!(shared.may_go_out(&snapshot));
    }
}
