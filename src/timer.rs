//! Timers for code that may run outside of a runtime, or in a runtime without a timer.

use std::{
    cell::Cell,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id},
    time::{Sleep, sleep},
};

thread_local! {
    /// The last runtime without a timer that this thread was in.
    static WITHOUT: Cell<Option<Id>> = const { Cell::new(None) };
}

/// Returns a timer of the current runtime, or `None` if there is no runtime or it has no timer.
///
/// Tokio panics if the runtime was built without `enable_time`, and has no way to ask. The panic is
/// caught, and its message is printed once per thread and such runtime. It cannot be caught in a
/// program that is built with `panic = "abort"`.
pub(crate) fn after(duration: Duration) -> Option<Sleep> {
    let runtime = Handle::try_current().ok()?.id();
    if WITHOUT.get() == Some(runtime) {
        return None;
    }
    // Tokio panics before it changes anything.
    let timer = panic::catch_unwind(|| sleep(duration)).ok();
    if timer.is_none() {
        WITHOUT.set(Some(runtime));
    }
    timer
}

/// Polls `timer`. It is ready as well if its runtime has been dropped, where Tokio panics.
pub(crate) fn poll(timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    panic::catch_unwind(AssertUnwindSafe(|| timer.poll(cx))).unwrap_or(Poll::Ready(()))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_runtime_without_a_timer_is_found_out_once() {
        let without = Builder::new_current_thread().build().unwrap();
        let with = Builder::new_current_thread().enable_time().build().unwrap();
        let timer = || after(Duration::ZERO);
        assert!(timer().is_none(), "no runtime");
        assert_eq!(WITHOUT.get(), None);
        for _ in 0..2 {
            assert!(without.block_on(async { timer() }).is_none());
            assert_eq!(WITHOUT.get(), Some(without.handle().id()));
            assert!(with.block_on(async { timer() }).is_some());
        }
        let another = Builder::new_current_thread().build().unwrap();
        assert!(another.block_on(async { timer() }).is_none());
        assert_eq!(WITHOUT.get(), Some(another.handle().id()));
    }

    #[test]
    fn a_timer_whose_runtime_was_dropped_is_over() {
        let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
        let its_own = runtime();
        let entered = its_own.enter();
        let mut timer = Box::pin(sleep(Duration::from_secs(3600)));
        drop(entered);
        let mut look = || poll(timer.as_mut(), &mut Context::from_waker(Waker::noop()));
        assert!(its_own.block_on(async { look() }).is_pending());
        drop(its_own);
        assert!(runtime().block_on(async { look() }).is_ready());
        assert!(look().is_ready(), "outside of a runtime");
    }
}
