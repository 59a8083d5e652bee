//! Detects whether reqwest may have followed a redirect. reqwest reports where a request ended, but
//! a redirect to the same URL ends where it began.
//!
//! To follow a redirect, reqwest wakes its own task by reference, with the waker it is polled with,
//! and returns `Pending`. A future that does so may have followed a redirect. This holds for every
//! redirect, body and version of HTTP. The lifetime of a body would say less: reqwest keeps nothing of
//! streams and empty bodies, 307 and 308 keep the body, and so does a connection that is still
//! sending it.
//!
//! Nothing else below wakes like this:
//!
//! - Tokio makes a task yield that has used up its cooperative budget, and does so by the same wake
//!   where a multi-thread runtime polls its main task. The client is polled without a budget.
//! - Channels and connections wake a clone that they kept, by value or from another task.
//!
//! A middleware that yields by waking itself in place is taken for a redirect, which costs a replay
//! but never repeats a request. A middleware that polls the client with a waker of its own, as
//! `FuturesUnordered` does, hides a redirect: it wakes the outer waker by value.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, ThreadId},
};

use tokio::task::unconstrained;

/// Records whether a future that it polls may have followed a redirect.
#[derive(Debug, Default)]
pub(super) struct Hops {
    watch: Option<(Arc<Watch>, Waker)>,
    followed: bool,
}

/// A waker that records whether the polling thread uses it.
#[derive(Debug)]
struct Watch(Mutex<State>);

#[derive(Debug)]
struct State {
    outer: Waker,
    polled_by: Option<ThreadId>,
    woken_within: bool,
}

impl Hops {
    /// Polls `future` once and records its wake-ups.
    pub(super) fn poll<F: Future>(
        &mut self,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let (watch, waker) = self.watch.get_or_insert_with(|| {
            let state = State { outer: cx.waker().clone(), polled_by: None, woken_within: false };
            let watch = Arc::new(Watch(Mutex::new(state)));
            let waker = Waker::from(Arc::clone(&watch));
            (watch, waker)
        });
        let former = watch.with(|state| {
            state.polled_by = Some(thread::current().id());
            state.woken_within = false;
            let changed = !state.outer.will_wake(cx.waker());
            changed.then(|| std::mem::replace(&mut state.outer, cx.waker().clone()))
        });
        // Dropped outside the lock: the last waker of a task drops the task.
        drop(former);
        let future = pin!(unconstrained(future));
        let polled = future.poll(&mut Context::from_waker(waker));
        let woken = watch.with(|state| {
            state.polled_by = None;
            state.woken_within
        });
        self.followed |= woken && polled.is_pending();
        polled
    }

    /// Returns `true` if the future may have followed a redirect.
    pub(super) fn followed(&self) -> bool {
        self.followed
    }
}

impl Watch {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wake for Watch {
    /// Called through a clone that was stored elsewhere: an HTTP/2 connection wakes the requests
    /// that wait for it, including the one that opened it.
    fn wake(self: Arc<Self>) {
        let outer = self.with(|state| state.outer.clone());
        outer.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let outer = self.with(|state| {
            state.woken_within |= state.polled_by == Some(thread::current().id());
            state.outer.clone()
        });
        outer.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls a future once that wakes itself, or is woken by another thread, and then may be ready.
    fn followed(wake: impl Fn(&Waker), ready: bool) -> bool {
        let mut hops = Hops::default();
        let future = std::pin::pin!(std::future::poll_fn(|cx| {
            wake(cx.waker());
            if ready { Poll::Ready(()) } else { Poll::Pending }
        }));
        let polled = hops.poll(future, &mut Context::from_waker(Waker::noop()));
        assert_eq!(polled.is_ready(), ready);
        hops.followed()
    }

    #[test]
    fn a_future_that_wakes_itself_may_have_followed_a_redirect() {
        assert!(followed(Waker::wake_by_ref, false));
        let by_a_clone = |waker: &Waker| {
            let clone = waker.clone();
            clone.wake();
        };
        assert!(!followed(by_a_clone, false), "it was waited for");
        assert!(!followed(Waker::wake_by_ref, true), "it has ended");
        assert!(!followed(|_| (), false));
        let elsewhere = |waker: &Waker| {
            let waker = waker.clone();
            thread::spawn(move || waker.wake()).join().unwrap();
        };
        assert!(!followed(elsewhere, false), "the answer has come meanwhile");
    }

    #[test]
    fn the_task_that_polls_last_is_woken() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let tasks = [0, 1].map(|_| Arc::new(Count(0.into())));
        let mut hops = Hops::default();
        let mut inner = None;
        for task in &tasks {
            let future = std::pin::pin!(std::future::poll_fn(|cx| {
                inner = Some(cx.waker().clone());
                Poll::<()>::Pending
            }));
            let waker = Waker::from(Arc::clone(task));
            assert!(hops.poll(future, &mut Context::from_waker(&waker)).is_pending());
        }
        inner.unwrap().wake();
        let woken = tasks.map(|task| task.0.load(std::sync::atomic::Ordering::Relaxed));
        assert_eq!(woken, [0, 1]);
    }
}
