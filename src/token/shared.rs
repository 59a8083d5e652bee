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

use std::{fmt, sync::Arc};

use tokio::task::AbortHandle;

use super::{
    core::{AfterUnlock, Answer, Core, End, RejectAction, interrupted},
    flight::{Completion, Flight, Outcome},
    keep_warm, renewal,
    settings::{Settings, Warmth},
    snapshot::Snapshot,
    source::{TokenResponse, TokenSource},
    state::{self, Call, Event, FlightId, Rejected, Sending, Staleness},
};
use crate::{
    clock::{Clock, Now},
    error::TokenError,
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

/// The tasks that end with the last handle.
#[derive(Debug, Default)]
struct Tasks {
    /// The one in flight, and perhaps one that has just ended: their order is not known.
    renewals: Vec<(FlightId, AbortHandle)>,
    timer: Option<AbortHandle>,
}

impl Shared {
    pub(crate) fn new(source: Arc<dyn TokenSource>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU64::new(1),
            core: Mutex::new(Core::new(&settings)),
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

    /// Passes `event` to the state. What cannot be done under the lock is left to
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
        (answer, after)
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
        let (answer, after) = self.step(&mut core, Event::Acquire, None, now);
        let answer = core.answer(answer, now);
        let epoch = self.epoch();
        drop(core);
        self.carry_out(after);
        self.revive_timer();
        (answer, epoch)
    }

    /// Takes note of a response that rejects a token, and returns what to do with the request.
    pub(crate) fn reject(self: &Arc<Self>, rejected: Rejected, now: Now) -> RejectAction {
        let mut core = self.locked(now);
        let (answer, after) = self.step(&mut core, Event::Rejected(rejected), None, now);
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
        let (answer, after) = self.step(&mut core, Event::Replace { call, staleness }, None, now);
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
        let (_, after) = self.step(&mut core, Event::Accepted { generation, sending }, None, now);
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
        let is_interrupted = end.is_interrupted;
        let mut core = lock(&self.core);
        let (event, response, failed) = core.landed(id, end);
        // The texts of tokens that are not kept go to their waiters alone.
        let copy = response.clone();
        let (answer, mut after) = self.step(&mut core, event, response, now);
        let outcome = core.outcome(answer, copy, failed, &mut after, now);
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
        let (answer, after) = self.step(&mut core, Event::TimerDue, None, now);
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
