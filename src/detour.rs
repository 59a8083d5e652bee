//! [`Detour`]: what a request waits for besides its response: a token, a newer one after a
//! rejection, the end of the rejected response, a clone of the inner service that is ready. Or for
//! nothing: it is refused.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header::AUTHORIZATION};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    error::{BoxError, TokenError},
    future::polled_again,
    local::Tag,
    mode::Mode,
    service::{Handle, too_many_headers},
    telemetry,
    token::{Acquiring, NotReplaced, Rejection, Replacing, Sending, Snapshot},
};

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
        /// For nothing: the request is not sent.
        Refused { error: TokenError },
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
pub(crate) enum Arrival<F, S, R, K> {
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

    pub(crate) fn refused(handle: Arc<Handle<S>>, error: TokenError) -> Self {
        Self { handle, stage: Stage::Refused { error } }
    }

    /// For a request that was rejected, if there is or will be a newer token to send it again with:
    /// else the response stands. `rejected` is the generation of the token that it carried.
    pub(crate) fn for_replay(
        handle: Arc<Handle<S>>,
        rejection: Rejection,
        response: Response<R>,
        kept: Option<M::Kept>,
        rejected: u64,
    ) -> Result<Self, Response<R>> {
        let stage = match (rejection, kept) {
            (Rejection::Stand(why), _) => return Err(stands(response, NotReplaced::new(why))),
            (_, None) => return Err(unplayable(response, rejected)),
            (Rejection::Replay(snapshot), Some(kept)) => {
                Stage::replay(response, snapshot, kept, rejected)?
            }
            (Rejection::Wait(flight), Some(kept)) => Stage::Replacing {
                replacing: Replacing::new(&handle.shared, &flight, rejected),
                generation: rejected,
                rejected: Some((response, kept)),
            },
        };
        Ok(Self { handle, stage })
    }
}

impl<S, B, R, M> Detour<S, B, R, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Arrival<S::Future, S, R, M::Kept>> {
        let mut this = self.project();
        let handle = &*this.handle;
        loop {
            let next = match this.stage.as_mut().project() {
                StageProj::Refused { error } => {
                    return Poll::Ready(Arrival::Error(error.clone().into()));
                }
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
                        return Poll::Ready(Arrival::Error(polled_again().into()));
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        return Poll::Ready(Arrival::Error(error.into()));
                    }
                    if handle.shared.may_go_out(snapshot) {
                        let Some((request, sending)) = request.take() else {
                            return Poll::Ready(Arrival::Error(polled_again().into()));
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
                        return Poll::Ready(Arrival::Error(polled_again().into()));
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
