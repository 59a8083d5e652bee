//! [`ResponseFuture`]: what becomes of a request and its response.
//!
//! A request with a token at hand is `Sent`, which is the inner future and three words. Everything
//! else is a `Detour`, boxed: waiting for a token, for a newer one after a rejection, for a clone
//! of the inner service to be ready. A detour ends in `Sent` again, or in a response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    challenge::Verdict,
    error::{BoxError, TokenError},
    local::Tag,
    mode::{Mode, Replay},
    rules::{self, Rules},
    service::{Handle, too_many_headers},
    telemetry,
    token::{Acquiring, NotReplaced, Rejection, Replacing, Sending, Snapshot, Staleness},
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
        let stage = match (rejection, kept) {
            (Rejection::Stand(why), _) => return Err(stands(response, NotReplaced::new(why))),
            (_, None) => return Err(unplayable(response, tag.generation())),
            (Rejection::Replay(snapshot), Some(kept)) => {
                Stage::replay(response, snapshot, kept, tag.generation())?
            }
            (Rejection::Wait(flight), Some(kept)) => {
                let generation = tag.generation();
                let replacing = Replacing::new(&flight, generation);
                Stage::Replacing { replacing, generation, rejected: Some((response, kept)) }
            }
        };
        Ok(Detour { handle, stage })
    }
}

/// The rejected response, with the reason why it was not cured.
fn stands<R>(mut response: Response<R>, why: NotReplaced) -> Response<R> {
    response.extensions_mut().insert(why);
    response
}

/// The same for a request that cannot be sent again, which `reject` did not know of.
fn unplayable<R>(response: Response<R>, rejected: u64) -> Response<R> {
    let why = NotReplaced::not_replayable();
    telemetry::stands(rejected, &why);
    stands(response, why)
}

pin_project! {
    /// What is waited for besides the inner service's response.
    pub(crate) struct Detour<S, B, R, M>
    where
        M: Mode<B, R>,
    {
        handle: Arc<Handle<S>>,
        #[pin]
        stage: Stage<S, B, R, M>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, B, R, M>
    where
        M: Mode<B, R>,
    {
        /// For a token. Nothing of the inner service is held.
        Token { acquiring: Acquiring, request: Option<(Request<B>, Sending)> },
        /// For a clone of the inner service to be ready.
        Ready { inner: Option<S>, request: Option<(Request<B>, Sending)>, snapshot: Arc<Snapshot> },
        /// For a newer token. The response is kept whole until there is one.
        Replacing {
            replacing: Replacing,
            generation: u64,
            rejected: Option<(Response<R>, M::Kept)>,
        },
        /// For the end of the rejected response's body. Nothing of it is held afterwards: waiting
        /// for readiness with it could wait for itself.
        Discarding {
            #[pin]
            discard: M::Discard,
            request: Option<Request<B>>,
            snapshot: Arc<Snapshot>,
        },
    }
}

/// Where a detour ends.
enum Arrival<F, S, R, K> {
    Sent { future: F, handle: Arc<Handle<S>>, tag: Tag, kept: Option<K> },
    Response(Response<R>),
    Error(BoxError),
}

impl<S, B, R, M> Stage<S, B, R, M>
where
    M: Mode<B, R>,
{
    /// Sends the request again with `snapshot`'s token, if it can be: else the response stands.
    fn replay(
        response: Response<R>,
        snapshot: Arc<Snapshot>,
        kept: M::Kept,
        rejected: u64,
    ) -> Result<Self, Response<R>> {
        match M::restore(kept) {
            Some(request) => Ok(Self::Discarding {
                discard: M::discard(response.into_body()),
                request: Some(request),
                snapshot,
            }),
            None => Err(unplayable(response, rejected)),
        }
    }
}

impl<S, B, R, M> Detour<S, B, R, M>
where
    M: Mode<B, R>,
{
    pub(crate) fn for_token(
        handle: Arc<Handle<S>>,
        acquiring: Acquiring,
        request: Request<B>,
    ) -> Self {
        let request = Some((request, Sending::First));
        Self { handle, stage: Stage::Token { acquiring, request } }
    }
}

impl<S, B, R, M> Detour<S, B, R, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arrival<S::Future, S, R, M::Kept>> {
        let mut this = self.project();
        let handle = &*this.handle;
        loop {
            let next = match this.stage.as_mut().project() {
                StageProj::Token { acquiring, request } => {
                    match ready!(acquiring.poll(&handle.shared, cx)) {
                        Ok(snapshot) => Stage::Ready {
                            inner: Some(handle.fresh_inner()),
                            request: request.take(),
                            snapshot,
                        },
                        Err(error) => return Poll::Ready(Arrival::Error(error.into())),
                    }
                }
                StageProj::Ready { inner, request, snapshot } => {
                    let Some(service) = inner else {
                        return Poll::Pending;
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        return Poll::Ready(Arrival::Error(error.into()));
                    }
                    if handle.shared.may_go_out(snapshot) {
                        let Some((request, sending)) = request.take() else {
                            return Poll::Pending;
                        };
                        let tag = Tag::of(snapshot, sending, &handle.rules);
                        let call = send::<_, _, _, M>(service, handle, request, snapshot, tag);
                        *inner = None;
                        return Poll::Ready(match call {
                            Ok((future, kept)) => {
                                Arrival::Sent { future, handle: Arc::clone(handle), tag, kept }
                            }
                            Err(error) => Arrival::Error(error.into()),
                        });
                    }
                    // It took so long that the token has expired.
                    Stage::Token { acquiring: Acquiring::new(), request: request.take() }
                }
                StageProj::Replacing { replacing, generation, rejected } => {
                    let replaced = ready!(Pin::new(replacing).poll(cx));
                    let Some((response, kept)) = rejected.take() else {
                        return Poll::Pending;
                    };
                    let stage = match replaced {
                        Ok(snapshot) => Stage::replay(response, snapshot, kept, *generation),
                        Err(why) => {
                            let why = NotReplaced::new(why);
                            telemetry::stands(*generation, &why);
                            Err(stands(response, why))
                        }
                    };
                    match stage {
                        Ok(stage) => stage,
                        Err(response) => return Poll::Ready(Arrival::Response(response)),
                    }
                }
                StageProj::Discarding { discard, request, snapshot } => {
                    ready!(discard.poll(cx));
                    Stage::Ready {
                        inner: Some(handle.fresh_inner()),
                        request: request.take().map(|request| (request, Sending::Replay)),
                        snapshot: Arc::clone(snapshot),
                    }
                }
            };
            this.stage.set(next);
        }
    }
}

/// Puts the token on `request` and sends it.
#[allow(clippy::type_complexity, reason = "the inner future, and what is kept of the request")]
fn send<S, B, R, M>(
    service: &mut S,
    handle: &Handle<S>,
    mut request: Request<B>,
    snapshot: &Snapshot,
    tag: Tag,
) -> Result<(S::Future, Option<M::Kept>), TokenError>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    let kept = match tag.sending() {
        Sending::First => M::keep(&mut request, handle.rules.replay_limit),
        Sending::Replay => None,
    };
    match request.headers_mut().try_insert(AUTHORIZATION, snapshot.header.clone()) {
        Ok(_) => Ok((service.call(request), kept)),
        Err(_) => Err(too_many_headers()),
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
