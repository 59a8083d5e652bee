//! One renewal in flight: its waiters, and its outcome, which all of them share. The pattern is
//! known as single flight (<https://pkg.go.dev/golang.org/x/sync/singleflight>).
//!
//! A [`Flight`] does not know how the token is fetched. It completes exactly once; a waiter that
//! joins later gets the outcome immediately. A waiter that is alive but not polled blocks nobody.

use std::{
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
};

use crate::token::issued::IssuedToken;
use crate::{
    error::TokenError,
    sync::{Mutex, Once, lock},
};

/// The outcome of a renewal, shared by every waiter.
pub(crate) type Outcome = Result<Arc<IssuedToken>, TokenError>;

pub(crate) struct Flight {
    /// Set before the first wake-up, so that many waiters can read it at the same time.
    completion: Once<Completion>,
    /// `None` once the flight is complete.
    waiters: Mutex<Option<Waiters>>,
}

/// The end of a flight.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    pub(crate) outcome: Outcome,
    /// The epoch in which there is no other usable token.
    pub(crate) no_token_in_epoch: Option<u64>,
    /// Whether the renewal ended early for a reason that says nothing about the source. Another may
    /// be launched immediately.
    pub(crate) is_interrupted: bool,
}

/// Wakers by place. The place of a dropped waiter is reused.
#[derive(Default)]
struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Flight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { completion: Once::new(), waiters: Mutex::new(Some(Waiters::default())) })
    }

    /// Completes the flight and wakes every waiter. A second completion is ignored.
    pub(crate) fn complete(&self, completion: Completion) {
        let mut waiters = lock(&self.waiters);
        let Some(woken) = waiters.take() else { return };
        // Under the lock: a waiter that finds no list of waiters must find the outcome instead.
        self.completion.set(completion);
        drop(waiters);
        // Outside the lock: a waker may run its task, and the task may ask for the outcome.
        wake_all(woken.places.into_iter().flatten());
    }

    /// Returns a future that resolves to the completion.
    pub(crate) fn join(self: &Arc<Self>) -> Waiter {
        Waiter { flight: Arc::clone(self), place: None }
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

/// Wakes every waiter even if a waker panics, since a waiter that is skipped here would never wake.
/// The first panic resumes afterwards.
fn wake_all(wakers: impl Iterator<Item = Waker>) {
    let mut panicked = None;
    for waker in wakers {
        // A waker that panics leaves no state behind that this crate reads.
        let woken = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        panicked = panicked.or(woken.err());
    }
    // A second panic during unwinding would abort the process.
    if let Some(panic) = panicked.filter(|_| !thread::panicking()) {
        panic::resume_unwind(panic);
    }
}

/// The future of a flight's completion.
#[derive(Debug)]
pub(crate) struct Waiter {
    flight: Arc<Flight>,
    place: Option<usize>,
}

impl Future for Waiter {
    type Output = Completion;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let this = self.get_mut();
        if let Some(completion) = this.flight.completion.get() {
            this.place = None;
            return Poll::Ready(completion);
        }
        let mut guard = lock(&this.flight.waiters);
        let Some(waiters) = &mut *guard else {
            drop(guard);
            this.place = None;
            // The flight was completed in between.
            return this.flight.completion.get().map_or(Poll::Pending, Poll::Ready);
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

impl Drop for Waiter {
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
    use crate::cache::core::interrupted;

    #[derive(Debug)]
    struct Sleeper;

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {}
    }

    /// Prevents a leak until the renewal ends: dropped waiters must leave neither a place nor a
    /// waker, which keeps the caller's task.
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
        flight.complete(Completion {
            outcome: Err(interrupted("on purpose")),
            no_token_in_epoch: None,
            is_interrupted: false,
        });
        assert!(Pin::new(&mut stays).poll(&mut cx).is_ready());
    }
}
