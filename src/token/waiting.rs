//! The futures of callers that wait for a renewal: [`Acquiring`] for a token, [`Replacing`] for
//! another than the rejected one. They only observe: none of them can cancel or restart a renewal.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Sleep;

use super::{
    core::{Answer, Hand, Reason, RejectAction, Waiting},
    flight::{Completion, Flight, Waiter},
    renewal::in_runtime,
    shared::Shared,
    snapshot::Snapshot,
    state::{Call, Staleness},
};
use crate::{error::TokenError, timer};

/// Waits until there is a token that may go out.
#[derive(Debug)]
pub(crate) struct Acquiring {
    waiter: Option<Waiter>,
    /// Runs out when a caller with a usable token has waited long enough.
    timer: Option<Pin<Box<Sleep>>>,
    /// A renewal that was cut short is replaced once.
    has_relaunched: bool,
}

impl Acquiring {
    pub(crate) fn new() -> Self {
        Self { waiter: None, timer: None, has_relaunched: false }
    }

    pub(crate) fn waiting_for(waiting: &Waiting, shared: &Shared) -> Self {
        let mut this = Self::new();
        this.wait(waiting, shared);
        this
    }

    fn wait(&mut self, waiting: &Waiting, shared: &Shared) {
        self.waiter = Some(waiting.flight.join());
        self.timer = waiting
            .until
            .and_then(|until| timer::after(until.saturating_sub(shared.clock.now().mono)))
            .map(Box::pin);
    }

    pub(crate) fn poll(
        &mut self,
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<Snapshot>, TokenError>> {
        loop {
            let Some(waiter) = &mut self.waiter else {
                match shared.acquire(shared.clock.now()).0 {
                    Answer::Use(Hand { snapshot, .. }) => return Poll::Ready(Ok(snapshot)),
                    Answer::Refuse(error) => return Poll::Ready(Err(error)),
                    Answer::Wait(waiting) => self.wait(&waiting, shared),
                }
                continue;
            };
            let completion = match Pin::new(waiter).poll(cx) {
                Poll::Ready(completion) => completion,
                Poll::Pending => {
                    let Some(timer) = &mut self.timer else { return Poll::Pending };
                    ready!(timer.as_mut().poll(cx));
                    // The state is asked again: it knows that the time is over.
                    (self.waiter, self.timer) = (None, None);
                    continue;
                }
            };
            (self.waiter, self.timer) = (None, None);
            let Completion { outcome, no_token_in_epoch, is_interrupted } = completion;
            match outcome {
                Ok(snapshot) if shared.may_go_out(&snapshot) => return Poll::Ready(Ok(snapshot)),
                // Polled long after the renewal ended, the token may have expired.
                Ok(_) => {}
                Err(_) if is_interrupted && !self.has_relaunched && in_runtime() => {
                    self.has_relaunched = true;
                }
                Err(error) if no_token_in_epoch == Some(shared.epoch()) => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    return Poll::Ready(shared.usable(shared.clock.now()).ok_or(error));
                }
            }
        }
    }
}

/// Waits for a token to send a rejected request with once more.
#[derive(Debug)]
pub(crate) struct Replacing {
    /// Also keeps the renewal alive.
    shared: Arc<Shared>,
    waiter: Waiter,
    call: Call,
    staleness: Staleness,
    has_relaunched: bool,
}

impl Replacing {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        flight: &Arc<Flight>,
        call: Call,
        staleness: Staleness,
    ) -> Self {
        let shared = Arc::clone(shared);
        Self { shared, waiter: flight.join(), call, staleness, has_relaunched: false }
    }
}

impl Future for Replacing {
    type Output = Result<Arc<Snapshot>, Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let Completion { outcome, is_interrupted, .. } =
                ready!(Pin::new(&mut this.waiter).poll(cx));
            let now = this.shared.clock.now();
            let action = match outcome {
                // An uncacheable token is only to be had from here.
                Ok(snapshot) if snapshot.schedule.is_for_once() => RejectAction::Retry(snapshot),
                Ok(_) => this.shared.replace(this.call, this.staleness, now),
                Err(_) if is_interrupted && !this.has_relaunched && in_runtime() => {
                    this.has_relaunched = true;
                    this.shared.replace(this.call, this.staleness, now)
                }
                // Another token may be untried: it is worth a try.
                Err(error) => match this.shared.untried(&this.call, now) {
                    Some(snapshot) => RejectAction::Retry(snapshot),
                    None => RejectAction::GiveUp(Reason::Failed(error)),
                },
            };
            match action {
                RejectAction::Retry(snapshot) => return Poll::Ready(Ok(snapshot)),
                RejectAction::Wait(flight) => this.waiter = flight.join(),
                RejectAction::GiveUp(reason) => return Poll::Ready(Err(reason)),
            }
        }
    }
}
