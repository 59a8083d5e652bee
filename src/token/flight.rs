//! One renewal in progress: those who wait for it, and its outcome, which all of them share.
//!
//! A flight knows nothing of how it is flown. It lands exactly once; who joins later finds the
//! outcome at once. A waiter that is alive but not polled holds nobody up.

use std::{
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
};

use super::snapshot::Snapshot;
use crate::{
    error::TokenError,
    sync::{Mutex, Once, lock},
};

/// What a renewal ends with, for everybody.
pub(crate) type Outcome = Result<Arc<Snapshot>, TokenError>;

pub(crate) struct Flight {
    /// Set before anyone is woken: thousands may then read it at once.
    landed: Once<Landed>,
    /// Until it has landed.
    waiters: Mutex<Option<Waiters>>,
}

/// How a flight has ended.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    pub(crate) outcome: Outcome,
    /// The epoch in which this outcome is all there is: no other token is at hand that may go out.
    pub(crate) alone_in: Option<u64>,
}

/// Wakers by place; the places of waiters who left are used again.
#[derive(Default)]
struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { landed: Once::new(), waiters: Mutex::new(Some(Waiters::default())) })
    }

    /// Ends the flight and wakes everyone. The first outcome stands.
    pub(crate) fn land(&self, outcome: Outcome, alone_in: Option<u64>) {
        let mut waiters = lock(&self.waiters);
        let Some(woken) = waiters.take() else { return };
        // Under the lock: who finds that nobody waits any more finds the outcome.
        self.landed.set(Landed { outcome, alone_in });
        drop(waiters);
        // Outside the lock: a waker may run its task, and the task may ask for the outcome.
        wake_all(woken.places.into_iter().flatten());
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

/// Nobody is woken later: so all are, also if one of the wakers panics, which then goes on.
fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut panicked = None;
    for waker in wakers {
        // What a waker leaves behind when it panics is nothing that this crate looks at.
        let woken = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        panicked = panicked.or(woken.err());
    }
    // A second panic at once would end the process.
    if let Some(panic) = panicked.filter(|_| !thread::panicking()) {
        panic::resume_unwind(panic);
    }
}

/// A future of how a flight ends.
#[derive(Debug)]
pub(crate) struct Landing {
    flight: Arc<Flight>,
    place: Option<usize>,
}

impl Future for Landing {
    type Output = Landed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let this = self.get_mut();
        if let Some(landed) = this.flight.landed.get() {
            this.place = None;
            return Poll::Ready(landed);
        }
        let mut guard = lock(&this.flight.waiters);
        let Some(waiters) = &mut *guard else {
            drop(guard);
            this.place = None;
            // Landed in between.
            return this.flight.landed.get().map_or(Poll::Pending, Poll::Ready);
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
        drop(guard);
        drop(former);
        Poll::Pending
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = lock(&self.flight.waiters).as_mut().and_then(|waiters| {
            waiters.free.push(place);
            waiters.places.get_mut(place).and_then(Option::take)
        });
        // Outside the lock, as above.
        drop(waker);
    }
}

#[cfg(test)]
#[cfg(not(oauth2_loom))]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::token::shared::interrupted;

    #[derive(Debug)]
    struct Sleeper;

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {}
    }

    /// Pins the memory that every caller who loses patience would leave behind until the renewal
    /// ends: a place, and the waker, which keeps the caller's task.
    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let flight = Flight::new();
        let sleeper = Arc::new(Sleeper);
        let waker = Waker::from(Arc::clone(&sleeper));
        let mut cx = Context::from_waker(&waker);
        let mut stays = flight.join();
        assert!(Pin::new(&mut stays).poll(&mut cx).is_pending());
        let held = Arc::strong_count(&sleeper);
        for _ in 0..100 {
            let mut leaves = flight.join();
            assert!(Pin::new(&mut leaves).poll(&mut cx).is_pending());
            assert_eq!(Arc::strong_count(&sleeper), held + 1);
            drop(leaves);
            assert_eq!(Arc::strong_count(&sleeper), held, "the waker is gone");
        }
        assert_eq!(
            lock(&flight.waiters).as_ref().unwrap().places.len(),
            2,
            "places are used again"
        );
        flight.land(Err(interrupted("on purpose")), None);
        assert!(Pin::new(&mut stays).poll(&mut cx).is_ready());
    }
}
