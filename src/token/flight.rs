//! One renewal in progress: those who wait for it, and its outcome, which all of them share.
//!
//! A flight knows nothing of how it is flown. It lands exactly once; who joins later finds the
//! outcome at once. A waiter that is alive but not polled holds nobody up.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::snapshot::Snapshot;
use crate::{
    error::TokenError,
    sync::{Mutex, lock},
};

/// What a renewal ends with, for everybody.
pub(crate) type Outcome = Result<Arc<Snapshot>, TokenError>;

pub(crate) struct Flight {
    state: Mutex<State>,
}

enum State {
    InTheAir(Waiters),
    Landed(Outcome),
}

/// Wakers by place; the places of waiters who left are used again.
#[derive(Default)]
struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::InTheAir(Waiters::default())) })
    }

    /// Ends the flight and wakes everyone. The first outcome stands.
    pub(crate) fn land(&self, outcome: Outcome) {
        let waiters = {
            let mut state = lock(&self.state);
            match &mut *state {
                State::Landed(_) => return,
                State::InTheAir(waiters) => {
                    let waiters = mem::take(waiters);
                    *state = State::Landed(outcome);
                    waiters
                }
            }
        };
        // Outside the lock: a waker may run its task, and the task may ask for the outcome.
        waiters.places.into_iter().flatten().for_each(Waker::wake);
    }

    /// Waits for the outcome.
    pub(crate) fn join(self: &Arc<Self>) -> Landing {
        Landing { flight: Arc::clone(self), place: None }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

/// A future of a flight's outcome.
#[derive(Debug)]
pub(crate) struct Landing {
    flight: Arc<Flight>,
    place: Option<usize>,
}

impl Future for Landing {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        let mut state = lock(&this.flight.state);
        let waiters = match &mut *state {
            State::Landed(outcome) => return Poll::Ready(outcome.clone()),
            State::InTheAir(waiters) => waiters,
        };
        let place = *this.place.get_or_insert_with(|| {
            waiters.free.pop().unwrap_or_else(|| {
                waiters.places.push(None);
                waiters.places.len() - 1
            })
        });
        let slot = waiters.places.get_mut(place);
        let former = match slot {
            Some(Some(waker)) if waker.will_wake(cx.waker()) => None,
            Some(slot) => slot.replace(cx.waker().clone()),
            None => None,
        };
        // Outside the lock: dropping the last waker of a task drops the task, and with it perhaps
        // another landing of this flight.
        drop(state);
        drop(former);
        Poll::Pending
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = match &mut *lock(&self.flight.state) {
            State::Landed(_) => None,
            State::InTheAir(waiters) => {
                waiters.free.push(place);
                waiters.places.get_mut(place).and_then(Option::take)
            }
        };
        // Outside the lock, as above.
        drop(waker);
    }
}
