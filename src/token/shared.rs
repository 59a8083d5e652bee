//! The driver of the state machine: everything that the handles of a cache share.
//!
//! [`Shared`] owns the lock, the texts of the tokens, the flight, the source, the clock and the
//! tasks. It gathers the facts of an event, passes it to [`State::on`], and carries out the
//! effects. No rule is decided here.
//!
//! # Locks
//!
//! | lock | guards |
//! |---|---|
//! | `Shared::core` | the state, and what lies beside it |
//! | `Shared::tasks` | the tasks that end with the last handle |
//! | `Flight::waiters` | the wakers of one renewal |
//! | `service::Handle::template` | the inner service, to be cloned |
//! | `service::Handle::recent` | the copy of the token that clones of a service share |
//!
//! No lock is held across an await or while another is taken, and no user code runs under one,
//! except for the clone of the inner service and of a waker.

use std::{
    fmt, mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::task::AbortHandle;

use super::{
    budget::Budget,
    flight::{Completion, Flight, Outcome},
    keep_warm,
    random::Random,
    renewal,
    schedule::{ATTEMPT_TIMEOUT, DEFAULT_LIFETIME, RENEWAL_TIMEOUT, Schedule},
    snapshot::Snapshot,
    source::{TokenResponse, TokenSource},
    state::{
        self, Call, Effects, Event, Failed, FlightId, Issued, Landed, Launch, Limits, Refusal,
        Rejected, SameAs, Sending, Staleness, State, Usable, Which,
    },
};
use crate::{
    clock::{Clock, Now},
    error::{ErrorClass, TokenError},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
        lock,
    },
    telemetry,
};

pub(crate) struct Shared {
    /// Changes whenever what a handle cached may be out of date. Written under the lock of `core`.
    epoch: AtomicU64,
    core: Mutex<Core>,
    pub(crate) source: Arc<dyn TokenSource>,
    pub(crate) clock: Clock,
    tasks: Mutex<Tasks>,
    pub(crate) settings: Settings,
}

/// The state, and the handles that its numbers stand for.
struct Core {
    state: State,
    newest: Option<Arc<Snapshot>>,
    former: Option<Arc<Snapshot>>,
    flight: Option<(FlightId, Arc<Flight>)>,
    /// The error of the failure that the state remembers.
    remembered: Option<TokenError>,
    last_error: Option<TokenError>,
    /// Errors to be dropped once the lock is released: a source's own error may be in one, and its
    /// drop may ask the cache.
    spent: Vec<TokenError>,
    random: Random,
    told: telemetry::Told,
}

/// The tasks that end with the last handle.
#[derive(Debug, Default)]
struct Tasks {
    /// The one in flight, and perhaps one that has just ended: their order is not known.
    renewals: Vec<(FlightId, AbortHandle)>,
    timer: Option<AbortHandle>,
}

/// The settings of a cache.
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
        }
    }
}

/// The answer to a caller that needs a token.
#[derive(Debug)]
pub(crate) enum Answer {
    Use(Hand),
    Wait(Waiting),
    Refuse(TokenError),
}

/// A token to be used, and for how long without asking again.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) until: Now,
    /// It is of interest whether requests with it are accepted.
    pub(crate) watched: bool,
}

/// A renewal to wait for.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) flight: Arc<Flight>,
    /// There is a usable token: ask again then.
    pub(crate) until: Option<Duration>,
}

/// The answer to a caller whose token was rejected.
#[derive(Debug)]
pub(crate) enum RejectAction {
    /// Send the request again with this token.
    Retry(Arc<Snapshot>),
    /// Wait for the renewal, and ask again.
    Wait(Arc<Flight>),
    /// The response goes to the caller.
    GiveUp(Reason),
}

/// The reason why a rejected request is not sent again.
#[derive(Clone, Debug)]
pub(crate) enum Reason {
    /// The server has no other token than the rejected one.
    SameToken,
    /// Forced renewals have not helped lately; the next may be forced then.
    Cooldown { until: SystemTime },
    /// The newer token was rejected as well.
    ReplayRejected,
    /// The renewal failed, or is not tried again yet.
    Failed(TokenError),
}

impl Shared {
    pub(crate) fn new(source: Arc<dyn TokenSource>, settings: Settings) -> Arc<Self> {
        let limits = Limits {
            default_lifetime: settings.default_lifetime,
            renewal_timeout: settings.renewal_timeout,
        };
        let budget = settings.budget.map(|(tokens, per)| Budget::new(tokens, per));
        let core = Core {
            state: State::new(limits, budget),
            newest: None,
            former: None,
            flight: None,
            remembered: None,
            last_error: None,
            spent: Vec::new(),
            random: settings.seed.map_or_else(Random::new, Random::seeded),
            told: telemetry::Told::default(),
        };
        Arc::new(Self {
            epoch: AtomicU64::new(1),
            core: Mutex::new(core),
            source,
            clock: settings.clock.clone(),
            tasks: Mutex::default(),
            settings,
        })
    }

    /// Returns a number that changes when a copy of the token that was made before may be out of
    /// date.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Passes `event` to the state. Whatever the effects make necessary under the lock is done;
    /// the rest is for [`carry_out`](Self::carry_out).
    fn step(&self, core: &mut Core, event: Event, now: Now) -> (state::Answer, AfterUnlock) {
        self.step_with(core, event, None, now)
    }

    fn step_with(
        &self,
        core: &mut Core,
        event: Event,
        response: Option<TokenResponse>,
        now: Now,
    ) -> (state::Answer, AfterUnlock) {
        let Effects { answer, launch, give_up, epoch_changed } = core.state.on(event, now);
        core.store(response);
        if epoch_changed {
            self.next_epoch();
        }
        let given_up = give_up.and_then(|id| core.take_flight(id));
        let launch = launch.map(|launch| {
            let flight = Flight::new();
            core.flight = Some((launch.flight, Arc::clone(&flight)));
            (launch, flight, core.random.split())
        });
        (answer, AfterUnlock { given_up, launch, spent: mem::take(&mut core.spent) })
    }

    fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Does what must not be done under the lock.
    fn carry_out(self: &Arc<Self>, after: AfterUnlock) {
        let AfterUnlock { given_up, launch, spent } = after;
        if let Some((id, flight)) = given_up {
            self.abort(id);
            flight.complete(Completion {
                outcome: Err(interrupted("the renewal's runtime no longer drives it")),
                no_token_in_epoch: None,
                is_interrupted: true,
            });
        }
        if let Some((launch, flight, random)) = launch {
            renewal::launch(self, launch, flight, random);
        }
        // Last: also if that panics, everything else is done.
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
            // Ends that failure, not one that has come meanwhile.
            core.state.on(Event::CredentialsVersion { failure, version }, now);
        }
        core
    }

    /// Returns a token, or what to wait for, and the epoch in which the answer was right.
    pub(crate) fn acquire(self: &Arc<Self>, now: Now) -> (Answer, u64) {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Acquire, now);
        let answer = match answer {
            state::Answer::Use(usable) => match core.hand(usable) {
                Some(hand) => Answer::Use(hand),
                None => Answer::Refuse(interrupted("the token is gone")),
            },
            state::Answer::Wait { flight, until } => match core.flight(flight) {
                Some(flight) => Answer::Wait(Waiting { flight, until }),
                None => Answer::Refuse(interrupted("the renewal is gone")),
            },
            state::Answer::Refuse(refusal) => Answer::Refuse(core.error(refusal, now)),
            state::Answer::None => Answer::Refuse(interrupted("there is no answer")),
        };
        let epoch = self.epoch();
        drop(core);
        self.carry_out(after);
        self.revive_timer();
        (answer, epoch)
    }

    /// Takes note of a response that rejects a token, and returns what to do with the request.
    pub(crate) fn reject(self: &Arc<Self>, rejected: Rejected, now: Now) -> RejectAction {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Rejected(rejected), now);
        let action = core.reject_action(answer, now);
        let is_new = core.told.is_new(rejected.generation, &action);
        drop(core);
        self.carry_out(after);
        let Rejected { generation, staleness, call, .. } = rejected;
        telemetry::rejected(generation, staleness, call.sending(), &action, is_new);
        action
    }

    /// The renewal that a rejected `call` waited for has ended: returns what to do now.
    pub(crate) fn replace(
        self: &Arc<Self>,
        call: Call,
        staleness: Staleness,
        now: Now,
    ) -> RejectAction {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Replace { call, staleness }, now);
        let action = core.reject_action(answer, now);
        drop(core);
        self.carry_out(after);
        action
    }

    /// Returns a usable token that `call` was not rejected with.
    pub(crate) fn untried(&self, call: &Call, now: Now) -> Option<Arc<Snapshot>> {
        let core = lock(&self.core);
        core.state.untried(call, now).and_then(|which| core.kept(which)).cloned()
    }

    /// Takes note of a response that accepts a token on probation.
    #[cold]
    pub(crate) fn accept(self: &Arc<Self>, generation: u64, sending: Sending) {
        let now = self.clock.now();
        let mut core = lock(&self.core);
        let (_, after) = self.step(&mut core, Event::Accepted { generation, sending }, now);
        drop(core);
        self.carry_out(after);
    }

    /// Reserves budget for another attempt of the renewal `flight`.
    pub(crate) fn attempt_starts(&self, flight: FlightId) -> Result<(), TokenError> {
        let now = self.clock.now();
        let mut core = lock(&self.core);
        match core.state.on(Event::AttemptStarts(flight), now).answer {
            state::Answer::Refuse(refusal) => Err(core.error(refusal, now)),
            _ => Ok(()),
        }
    }

    /// Takes note of an attempt that failed. `is_free`: no token can have been issued to it.
    pub(crate) fn attempt_failed(&self, is_free: bool) {
        let now = self.clock.now();
        lock(&self.core).state.on(Event::AttemptFailed { is_free }, now);
    }

    /// The renewal has ended: publishes what it brought and completes its flight.
    pub(crate) fn finish(self: &Arc<Self>, id: FlightId, flight: &Flight, end: End) -> Outcome {
        let now = self.clock.now();
        let End { result, credentials_version, wasted, is_interrupted } = end;
        let mut core = lock(&self.core);
        let mut error = None;
        let (result, response) = match result {
            Ok((response, t0)) => {
                let same_as = core.same_as(&response);
                (Ok(Issued { lifetime: response.lifetime(), t0, same_as }), Some(response))
            }
            Err(failed) => {
                let (class, retry_after) = (failed.class(), failed.retry_after());
                error = Some(failed);
                (Err(Failed { class, retry_after, is_interrupted, credentials_version }), None)
            }
        };
        let seed = core.random.next();
        let lifetime = response.clone();
        let event = Event::Landed(Landed { flight: id, result, wasted, seed });
        let (answer, mut after) = self.step_with(&mut core, event, response, now);
        let outcome = match (answer, error) {
            (state::Answer::Use(usable), _) => {
                let last = core.last_error.take().into_iter().chain(core.remembered.take());
                after.spent.extend(last);
                match (usable.which, lifetime) {
                    (Which::Uncacheable, Some(response)) => Ok(uncacheable(response, usable, now)),
                    _ => core.kept(usable.which).cloned().ok_or_else(|| interrupted("no token")),
                }
            }
            (state::Answer::Refuse(Refusal::Failed { until }), Some(error)) => {
                let error = match until {
                    Some(until) => error.with_retry_at(until.system_time()),
                    None => error,
                };
                after.spent.extend(core.last_error.replace(error.clone()));
                after.spent.extend(core.remembered.replace(error.clone()));
                Err(error)
            }
            (_, error) => {
                after.spent.extend(error);
                Err(interrupted("the renewal came too late"))
            }
        };
        core.take_flight(id);
        let epoch = self.epoch();
        let has_token = core.state.usable(now).is_some();
        drop(core);
        if self.settings.warmth == Warmth::Kept {
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

    /// Starts a renewal if one is due and nothing speaks against it.
    pub(crate) fn renew_in_background(self: &Arc<Self>, now: Now) -> Renewing {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::TimerDue, now);
        drop(core);
        self.carry_out(after);
        if matches!(answer, state::Answer::Wait { .. }) { Renewing::Yes } else { Renewing::No }
    }

    /// Returns the newest token, whether or not it may still go out.
    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        lock(&self.core).newest.clone()
    }

    /// Returns the token that may go out at `now`.
    pub(crate) fn usable(&self, now: Now) -> Option<Arc<Snapshot>> {
        let core = lock(&self.core);
        core.state.usable(now).and_then(|which| core.kept(which)).cloned()
    }

    /// Returns `true` if the token may go out now.
    pub(crate) fn may_go_out(&self, snapshot: &Snapshot) -> bool {
        snapshot.is_usable(self.clock.soon()) || snapshot.is_usable(self.clock.now())
    }

    /// Returns `true` if the token is known to be rejected, or is kept no more.
    pub(crate) fn is_rejected(&self, snapshot: &Snapshot) -> bool {
        lock(&self.core).state.is_rejected(snapshot.generation)
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

    /// The timer's runtime is gone: the next caller starts another on its own.
    pub(crate) fn timer_is_lost(&self) {
        let core = lock(&self.core);
        self.next_epoch();
        drop(core);
    }

    fn revive_timer(self: &Arc<Self>) {
        if self.settings.warmth == Warmth::Kept
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

/// The end of a renewal, as its task tells it.
#[derive(Debug)]
pub(crate) struct End {
    /// The token and the moment before it was asked for, or why there is none.
    pub(crate) result: Result<(TokenResponse, Now), TokenError>,
    pub(crate) credentials_version: u64,
    /// Tokens that were issued to it and are of no use.
    pub(crate) wasted: u32,
    /// Its task was aborted or its runtime is gone.
    pub(crate) is_interrupted: bool,
}

/// Effects that have to wait until the lock is released.
struct AfterUnlock {
    given_up: Option<(FlightId, Arc<Flight>)>,
    launch: Option<(Launch, Arc<Flight>, Random)>,
    spent: Vec<TokenError>,
}

impl Core {
    /// Keeps the tokens that the state has, and no others. One of them may be new.
    fn store(&mut self, response: Option<TokenResponse>) {
        let known = [self.newest.take(), self.former.take()];
        let mut response = response;
        let mut find = |token: state::Token| {
            let state::Token { generation, schedule, forced, .. } = token;
            let snapshot = known.iter().flatten().find(|known| known.generation == generation);
            match snapshot {
                Some(known) if known.schedule == schedule => Some(Arc::clone(known)),
                Some(known) => Some(Arc::new(known.renumbered(generation, schedule, forced))),
                None => response
                    .take()
                    .map(|new| Arc::new(Snapshot::new(new, generation, schedule, forced))),
            }
        };
        let newest = self.state.newest().and_then(&mut find);
        let former = self.state.former().and_then(&mut find);
        (self.newest, self.former) = (newest, former);
    }

    fn kept(&self, which: Which) -> Option<&Arc<Snapshot>> {
        match which {
            Which::Newest => self.newest.as_ref(),
            Which::Former => self.former.as_ref(),
            Which::Uncacheable => None,
        }
    }

    fn same_as(&self, response: &TokenResponse) -> Option<SameAs> {
        let is_same = |known: &Option<Arc<Snapshot>>| {
            known.as_ref().is_some_and(|known| response.has_header(&known.header))
        };
        if is_same(&self.newest) {
            Some(SameAs::Newest)
        } else {
            is_same(&self.former).then_some(SameAs::Former)
        }
    }

    fn hand(&self, usable: Usable) -> Option<Hand> {
        let kept = self.kept(usable.which)?;
        let snapshot = if kept.generation == usable.generation {
            Arc::clone(kept)
        } else {
            Arc::new(kept.renumbered(usable.generation, kept.schedule, kept.forced))
        };
        Some(Hand { snapshot, until: usable.until, watched: usable.on_probation })
    }

    fn flight(&self, id: FlightId) -> Option<Arc<Flight>> {
        let (_, flight) = self.flight.as_ref().filter(|(flight, _)| *flight == id)?;
        Some(Arc::clone(flight))
    }

    fn take_flight(&mut self, id: FlightId) -> Option<(FlightId, Arc<Flight>)> {
        self.flight.take_if(|(flight, _)| *flight == id)
    }

    fn reject_action(&self, answer: state::Answer, now: Now) -> RejectAction {
        let time = |mono: Duration| now.plus(mono.saturating_sub(now.mono)).system_time();
        let reason = match answer {
            state::Answer::Use(usable) => match self.hand(usable) {
                Some(hand) => return RejectAction::Retry(hand.snapshot),
                None => Reason::SameToken,
            },
            state::Answer::Wait { flight, .. } => match self.flight(flight) {
                Some(flight) => return RejectAction::Wait(flight),
                None => Reason::SameToken,
            },
            state::Answer::Refuse(Refusal::Cooldown { until }) => {
                Reason::Cooldown { until: time(until) }
            }
            state::Answer::Refuse(Refusal::ReplayRejected) => Reason::ReplayRejected,
            state::Answer::Refuse(refusal @ (Refusal::Failed { .. } | Refusal::Budget { .. })) => {
                Reason::Failed(self.error(refusal, now))
            }
            state::Answer::Refuse(Refusal::SameToken) | state::Answer::None => Reason::SameToken,
        };
        RejectAction::GiveUp(reason)
    }

    fn error(&self, refusal: Refusal, now: Now) -> TokenError {
        match refusal {
            Refusal::Budget { until } => {
                let wait = until.saturating_sub(now.mono);
                TokenError::new(
                    ErrorClass::Budget,
                    format!(
                        "the issuance budget is used up; the next token may be asked for in {wait:.0?}"
                    ),
                )
                .with_retry_at(now.plus(wait).system_time())
            }
            Refusal::Failed { until } => match (&self.remembered, until) {
                (Some(error), Some(until)) => error.with_retry_at(until.system_time()),
                (Some(error), None) => error.clone(),
                (None, _) => interrupted("the last renewal failed"),
            },
            Refusal::SameToken | Refusal::Cooldown { .. } | Refusal::ReplayRejected => {
                interrupted("the token was rejected, and there is no other")
            }
        }
    }
}

fn uncacheable(response: TokenResponse, usable: Usable, t0: Now) -> Arc<Snapshot> {
    let schedule = Schedule::uncacheable(t0);
    Arc::new(Snapshot::new(response, usable.generation, schedule, false))
}

impl Drop for Shared {
    fn drop(&mut self) {
        let tasks = lock(&self.tasks);
        for task in tasks.renewals.iter().map(|(_, task)| task).chain(&tasks.timer) {
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
