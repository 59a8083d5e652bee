//! The futures of callers that wait for a renewal: [`Acquiring`] for a token, [`Replacing`] for a
//! replacement of the rejected one. They only observe: none of them can cancel or restart a
//! renewal.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::Sleep;

use super::{
    core::{Answer, Granted, Reason, RejectAction, Waiting},
    driver::Driver,
    flight::{Completion, Flight, Waiter},
    renewal::{Start, in_runtime},
    state::Call,
};
use crate::{error::TokenError, policy::challenge::Evidence, timer, token::issued::IssuedToken};

/// A wait for a usable token.
#[derive(Debug)]
pub(crate) struct Acquiring {
    waiter: Option<Waiter>,
    /// The timer that ends the wait of a caller with a usable token.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether an interrupted renewal has been launched once more.
    has_relaunched: bool,
    start: Start,
}

impl Acquiring {
    /// Returns a future whose first renewal may end in place, while it is polled.
    pub(crate) fn new() -> Self {
        Self { start: Start::InPlace, ..Self::on_task() }
    }

    /// Returns a future that leaves the source to a task, for callers that must not wait for it.
    pub(crate) fn on_task() -> Self {
        Self { waiter: None, timer: None, has_relaunched: false, start: Start::OnTask }
    }

    pub(crate) fn waiting_for(waiting: &Waiting, driver: &Driver) -> Self {
        let mut this = Self::on_task();
        this.wait(waiting, driver);
        this
    }

    fn wait(&mut self, waiting: &Waiting, driver: &Driver) {
        self.waiter = Some(waiting.flight.join());
        self.timer = waiting
            .until
            .and_then(|until| timer::after(until.saturating_sub(driver.clock.now().mono)))
            .map(Box::pin);
    }

    pub(crate) fn poll(
        &mut self,
        driver: &Arc<Driver>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<IssuedToken>, TokenError>> {
        loop {
            let Some(waiter) = &mut self.waiter else {
                // Only once: if no token were usable on arrival, this loop would not end.
                let start = mem::replace(&mut self.start, Start::OnTask);
                match driver.acquire_and(driver.clock.now(), start).0 {
                    Answer::Use(Granted { snapshot, .. }) => return Poll::Ready(Ok(snapshot)),
                    Answer::Refuse(error) => return Poll::Ready(Err(error)),
                    Answer::Wait(waiting) => self.wait(&waiting, driver),
                }
                continue;
            };
            let completion = match Pin::new(waiter).poll(cx) {
                Poll::Ready(completion) => completion,
                Poll::Pending => {
                    let Some(timer) = &mut self.timer else { return Poll::Pending };
                    ready!(timer::poll(timer.as_mut(), cx));
                    // Ask the state again, which knows that the time is over.
                    (self.waiter, self.timer) = (None, None);
                    continue;
                }
            };
            (self.waiter, self.timer) = (None, None);
            let Completion { outcome, no_token_in_epoch, is_interrupted } = completion;
            match outcome {
                Ok(issued) if driver.may_go_out(&issued) => return Poll::Ready(Ok(issued)),
                // If the future is polled long after the renewal ended, the token may have expired.
                Ok(_) => {}
                Err(_) if is_interrupted && !self.has_relaunched && in_runtime() => {
                    self.has_relaunched = true;
                }
                Err(error) if no_token_in_epoch == Some(driver.epoch()) => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => {
                    return Poll::Ready(driver.usable(driver.clock.now()).ok_or(error));
                }
            }
        }
    }
}

/// A wait for a token to send a rejected request again with.
#[derive(Debug)]
pub(crate) struct Replacing {
    /// The driver. Holding it also keeps the renewal alive.
    driver: Arc<Driver>,
    waiter: Waiter,
    call: Call,
    evidence: Evidence,
    has_relaunched: bool,
}

impl Replacing {
    pub(crate) fn new(
        driver: &Arc<Driver>,
        flight: &Arc<Flight>,
        call: Call,
        evidence: Evidence,
    ) -> Self {
        let driver = Arc::clone(driver);
        Self { driver, waiter: flight.join(), call, evidence, has_relaunched: false }
    }
}

impl Future for Replacing {
    type Output = Result<Arc<IssuedToken>, Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let Completion { outcome, is_interrupted, .. } =
                ready!(Pin::new(&mut this.waiter).poll(cx));
            let now = this.driver.clock.now();
            let action = match outcome {
                // An uncacheable token is available only from the flight's outcome.
                Ok(issued) if issued.schedule.is_uncacheable() => RejectAction::Retry(issued),
                Ok(_) => this.driver.replace(this.call, this.evidence, now),
                Err(_) if is_interrupted && !this.has_relaunched && in_runtime() => {
                    this.has_relaunched = true;
                    this.driver.replace(this.call, this.evidence, now)
                }
                // Another kept token may be untried.
                Err(error) => match this.driver.untried(&this.call, now) {
                    Some(issued) => RejectAction::Retry(issued),
                    None => RejectAction::GiveUp(Reason::Failed(error)),
                },
            };
            match action {
                RejectAction::Retry(issued) => return Poll::Ready(Ok(issued)),
                RejectAction::Wait(flight) => this.waiter = flight.join(),
                RejectAction::GiveUp(reason) => return Poll::Ready(Err(reason)),
            }
        }
    }
}
