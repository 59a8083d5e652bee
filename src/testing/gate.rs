//! [`Gate`]: keeps requests in flight for as long as a test needs.

use tokio::sync::watch;

pub(crate) struct Gate {
    held: watch::Sender<Held>,
}

#[derive(Default)]
struct Held {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn open() -> Self {
        Self { held: watch::Sender::new(Held::default()) }
    }

    pub(crate) fn close(&self) {
        self.held.send_modify(|held| held.closed = true);
    }

    pub(crate) fn reopen(&self) {
        self.held.send_modify(|held| held.closed = false);
    }

    /// Waits until the gate is open.
    pub(crate) async fn pass(&self) {
        if !self.held.borrow().closed {
            return;
        }
        let _counted = Waiting::new(&self.held);
        // This fails only if the sender is dropped, but `self` owns it; the same applies below.
        let _ = self.held.subscribe().wait_for(|held| !held.closed).await;
    }

    /// Waits until at least `count` requests wait in [`pass`](Self::pass).
    pub(crate) async fn crowd(&self, count: usize) {
        let _ = self.held.subscribe().wait_for(|held| held.waiting >= count).await;
    }
}

/// Counts a request as waiting at the gate until it is dropped.
struct Waiting<'a>(&'a watch::Sender<Held>);

impl<'a> Waiting<'a> {
    fn new(held: &'a watch::Sender<Held>) -> Self {
        held.send_modify(|held| held.waiting += 1);
        Self(held)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| held.waiting -= 1);
    }
}
