//! [`ResponseFuture`]: what becomes of a request and its response.
//!
//! A request with a token at hand is `Sent`, which is the inner future and three words. Everything
//! else is a `Detour`, boxed, which ends in `Sent` again, or in a response.

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

use crate::{
    challenge::Verdict,
    detour::{Arrival, Detour},
    error::{BoxError, TokenError},
    local::Tag,
    mode::{Mode, Replay},
    rules::{self, Rules},
    service::Handle,
    telemetry,
    token::Staleness,
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
        Detour { detour: Pin<Box<Detour<S, B, R, M>>> },
        Failed { error: Option<BoxError> },
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

    pub(crate) fn detour(detour: Detour<S, B, R, M>) -> Self {
        Self { state: State::Detour { detour: Box::pin(detour) } }
    }

    pub(crate) fn failed(error: TokenError) -> Self {
        Self { state: State::Failed { error: Some(Box::new(error)) } }
    }
}

impl<S, B, R, M> Future for ResponseFuture<S, B, R, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Sent { future, tag, .. } => match ready!(future.poll(cx)) {
                    Ok(response) if tag.expects_nothing() && Rules::surely_accepts(&response) => {
                        return Poll::Ready(Ok(response));
                    }
                    Ok(response) => match state.as_mut().answered(response) {
                        Ok(detour) => state.set(State::Detour { detour }),
                        Err(response) => return Poll::Ready(Ok(response)),
                    },
                    Err(error) => return Poll::Ready(Err(error.into())),
                },
                StateProj::Detour { detour } => match ready!(detour.as_mut().poll(cx)) {
                    Arrival::Sent { future, handle, tag, kept } => {
                        state.set(State::Sent { future, handle, tag, kept });
                    }
                    Arrival::Response(response) => return Poll::Ready(Ok(response)),
                    Arrival::Error(error) => return Poll::Ready(Err(error)),
                },
                StateProj::Failed { error } => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        // Polled after it was ready.
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl<S, B, R, M> State<S, B, R, M>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    /// The response has to be looked at: the way to a replay, or the response if there is none.
    #[cold]
    #[allow(clippy::type_complexity, reason = "what `State::Detour` holds")]
    fn answered(
        self: Pin<&mut Self>,
        mut response: Response<R>,
    ) -> Result<Pin<Box<Detour<S, B, R, M>>>, Response<R>> {
        let (handle, tag) = match &*self {
            Self::Sent { handle, tag, .. } if *tag != Tag::NONE => (handle, *tag),
            _ => return Err(response),
        };
        let mut verdict = handle.rules.judge(&response);
        if let Some(test) = &handle.rules.test {
            (response, verdict) = test.judge(response, verdict);
        }
        let staleness = match verdict {
            Verdict::Accepted | Verdict::Unknown => {
                if verdict == Verdict::Accepted && tag.is_watched() {
                    handle.shared.accept(tag.generation(), tag.sending());
                }
                if response.status() == StatusCode::UNAUTHORIZED {
                    telemetry::not_a_rejection(tag.generation(), verdict);
                }
                return Err(response);
            }
            Verdict::Stale => Staleness::Unclear,
            Verdict::Invalid => Staleness::Invalid,
        };
        self.reject(response, staleness).map(Box::pin)
    }

    /// The response rejects the token: the way to a replay, or the response if there is none.
    fn reject(
        self: Pin<&mut Self>,
        response: Response<R>,
        staleness: Staleness,
    ) -> Result<Detour<S, B, R, M>, Response<R>> {
        // The inner future is done with, and dropped.
        let StateReplace::Sent { handle, tag, kept, .. } =
            self.project_replace(State::Failed { error: None })
        else {
            return Err(response);
        };
        if rules::is_from_elsewhere(&response) {
            telemetry::not_a_rejection(tag.generation(), Verdict::Unknown);
            return Err(response);
        }
        let kept = kept.filter(|_| !rules::may_have_had_effect(&response));
        let shared = &handle.shared;
        let now = shared.clock.now();
        let rejection = shared.reject(tag.generation(), staleness, tag.sending(), now);
        Detour::for_replay(handle, rejection, response, kept, tag.generation())
    }
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
