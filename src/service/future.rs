//! [`ResponseFuture`]: the future of a response.
//!
//! A request whose token was available is `Sent`: the inner future, two words, and the kept request
//! for a replay. Everything else is a boxed [`Pending`], which ends in `Sent`, in a response, or in
//! an error.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    handle::Handle,
    header::Tag,
    pending::{Pending, Resolved},
};
use crate::{
    error::{BoxError, ErrorClass, TokenError},
    policy::challenge::{Evidence, Verdict},
    policy::{self, Policy},
    replay::mode::{Mode, Replay},
    telemetry,
};

pin_project! {
    /// The future of [`OAuthClientCredentials`](crate::OAuthClientCredentials)'s responses.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B, R, M = Replay>
    where
        S: Service<Request<B>>,
        M: Mode<B, R>,
    {
        #[pin]
        state: State<S, B, R, M>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateReplace]
    enum State<S, B, R, M>
    where
        S: Service<Request<B>>,
        M: Mode<B, R>,
    {
        Sent {
            #[pin]
            future: S::Future,
            handle: Arc<Handle<S>>,
            tag: Tag,
            kept: Option<M::Kept>,
        },
        /// `None` once it has ended.
        Pending { pending: Option<Pin<Box<Pending<S, B, R, M>>>> },
    }
}

impl<S, B, R, M> ResponseFuture<S, B, R, M>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    #[inline]
    pub(crate) fn sent(
        future: S::Future,
        handle: Arc<Handle<S>>,
        tag: Tag,
        kept: Option<M::Kept>,
    ) -> Self {
        Self { state: State::Sent { future, handle, tag, kept } }
    }

    pub(crate) fn pending(pending: Pending<S, B, R, M>) -> Self {
        Self { state: State::Pending { pending: Some(Box::pin(pending)) } }
    }
}

impl<S, B, R, M> Future for ResponseFuture<S, B, R, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    type Output = Result<Response<R>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let mut polled = match state.as_mut().project() {
            StateProj::Sent { future, .. } => future.poll(cx).map_err(Into::into),
            // Polled by `poll_pending`.
            StateProj::Pending { .. } => Poll::Pending,
        };
        if state.needs_attention(&polled) {
            polled = state.poll_pending(polled, cx);
        }
        polled
    }
}

impl<S, B, R, M> State<S, B, R, M>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    /// Returns `true` if there is more to do than to return the inner future's result.
    #[inline]
    fn needs_attention(&self, polled: &Poll<Result<Response<R>, BoxError>>) -> bool {
        match (self, polled) {
            (Self::Sent { tag, .. }, Poll::Ready(Ok(response))) => {
                !(tag.expects_nothing() && Policy::accepts_fast(response))
            }
            (Self::Sent { .. }, _) => false,
            _ => true,
        }
    }

    /// Polls the pending request, and the first sending that it may lead to.
    #[cold]
    fn poll_pending(
        mut self: Pin<&mut Self>,
        polled: Poll<Result<Response<R>, BoxError>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<R>, BoxError>>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
    {
        if let Poll::Ready(result) = polled
            && let Some(response) = self.as_mut().answered(result?)
        {
            return Poll::Ready(Ok(response));
        }
        loop {
            match self.as_mut().project() {
                StateProj::Sent { future, .. } => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    if let Some(response) = self.as_mut().answered(response) {
                        return Poll::Ready(Ok(response));
                    }
                }
                StateProj::Pending { pending: Some(pending) } => {
                    match ready!(pending.as_mut().poll(cx)) {
                        Resolved::Sent { future, handle, tag, kept } => {
                            self.set(State::Sent { future, handle, tag, kept });
                        }
                        Resolved::Response(response) => {
                            self.set(State::Pending { pending: None });
                            return Poll::Ready(Ok(response));
                        }
                        Resolved::Error(error) => {
                            self.set(State::Pending { pending: None });
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProj::Pending { pending: None } => {
                    return Poll::Ready(Err(polled_again().into()));
                }
            }
        }
    }

    /// Handles a response. Returns `None` if it leads to a replay, which is then pending.
    fn answered(mut self: Pin<&mut Self>, response: Response<R>) -> Option<Response<R>> {
        match self.as_mut().examine(response) {
            Ok(pending) => {
                self.set(Self::Pending { pending: Some(Box::pin(pending)) });
                None
            }
            Err(response) => Some(response),
        }
    }

    /// Judges the token by the response: returns the pending replay, or the response if there is
    /// none.
    fn examine(
        self: Pin<&mut Self>,
        response: Response<R>,
    ) -> Result<Pending<S, B, R, M>, Response<R>> {
        if !matches!(&*self, Self::Sent { tag, .. } if *tag != Tag::NONE) {
            return Err(response);
        }
        // The inner future has completed, and is dropped.
        let StateReplace::Sent { handle, tag, mut kept, .. } =
            self.project_replace(State::Pending { pending: None })
        else {
            return Err(response);
        };
        let (response, evidence) = match judge(&handle, tag, response, &mut kept) {
            Ok(response) => return Err(response),
            Err(rejected) => rejected,
        };
        Pending::for_replay(handle, response, evidence, tag, kept)
    }
}

/// Judges the request's token by `response`, and reports an acceptance. Returns the response as an
/// error if it rejects the token. Drops the kept request if the request may have taken effect.
pub(crate) fn judge<S, R, K>(
    handle: &Handle<S>,
    tag: Tag,
    mut response: Response<R>,
    kept: &mut Option<K>,
) -> Result<Response<R>, (Response<R>, Evidence)> {
    let mut verdict = handle.policy.judge(&response);
    if let Some(test) = &handle.policy.test {
        (response, verdict) = test.judge(response, verdict);
    }
    let evidence = match verdict {
        Verdict::Accepted | Verdict::Neutral => {
            if verdict == Verdict::Accepted && tag.is_watched() {
                handle.driver.accept(tag.generation(), tag.sending());
            }
            if response.status() == StatusCode::UNAUTHORIZED {
                telemetry::not_a_rejection(tag.generation(), verdict);
            }
            return Ok(response);
        }
        Verdict::Rejected(evidence) => evidence,
    };
    if policy::is_from_elsewhere(&response) {
        telemetry::not_a_rejection(tag.generation(), Verdict::Neutral);
        return Ok(response);
    }
    if policy::may_have_had_effect(&response) {
        *kept = None;
    }
    Err((response, evidence))
}

/// Returns the error of a future that is polled after completion: a `Pending` would hang its
/// caller.
#[cold]
pub(crate) fn polled_again() -> TokenError {
    TokenError::new(ErrorClass::Interrupted, "the response future was polled after it had ended")
}

impl<S, B, R, M> fmt::Debug for ResponseFuture<S, B, R, M>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
