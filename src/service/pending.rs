//! [`Pending`]: everything that a request waits for besides the response to its first sending,
//! which may be a token, a newer token after a rejection, the end of the rejected response, a ready
//! clone of the inner service, or the responses to its replays.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header::AUTHORIZATION};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    future::{judge, polled_again},
    handle::{Handle, too_many_headers},
    header::Tag,
};
use crate::{
    cache::{Acquiring, Call, Driver, NotReplaced, RejectAction, Rejected, Replacing, Sending},
    error::{BoxError, TokenError},
    policy::challenge::Evidence,
    replay::mode::Mode,
    token::IssuedToken,
};

/// Returns the rejected response, with the reason why its request was not sent again.
fn stands<R>(mut response: Response<R>, why: NotReplaced) -> Response<R> {
    response.extensions_mut().insert(why);
    response
}

/// Like [`stands`], for a request that turned out not to be replayable after `reject` was called.
fn unplayable<R>(driver: &Driver, response: Response<R>, rejected: u64) -> Response<R> {
    let why = NotReplaced::not_replayable();
    driver.stands(rejected, &why);
    stands(response, why)
}

pin_project! {
    /// A request in progress, other than the first sending of one whose token was available.
    pub(crate) struct Pending<S, B, R, M>
    where
        S: Service<Request<B>>,
        M: Mode<B, R>,
    {
        handle: Arc<Handle<S>>,
        call: Call,
        evidence: Evidence,
        #[pin]
        stage: Stage<S, B, R, M>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, B, R, M>
    where
        S: Service<Request<B>>,
        M: Mode<B, R>,
    {
        /// The request is not sent.
        Failed { error: TokenError },
        /// Waits for a token. Holds no capacity of the inner service.
        Token { acquiring: Acquiring, request: Option<Request<B>> },
        /// Waits for a clone of the inner service to be ready.
        Ready { inner: Option<S>, request: Option<Request<B>>, issued: Arc<IssuedToken> },
        /// Waits for another token. The response is kept unread until then.
        Replacing { replacing: Replacing, rejected: Option<(Response<R>, M::Kept)> },
        /// Waits for the end of the rejected response's body. The body is dropped before the wait
        /// for readiness, which could otherwise wait for this response's connection.
        Discarding {
            #[pin]
            discard: M::Discard,
            request: Option<Request<B>>,
            issued: Arc<IssuedToken>,
        },
        /// Waits for a replacement of `issued`, which was rejected while the request waited for
        /// readiness. Holds no capacity of the inner service.
        Superseded {
            replacing: Replacing,
            request: Option<Request<B>>,
            issued: Arc<IssuedToken>,
        },
        /// Waits for the response to a replay.
        Replayed {
            #[pin]
            future: S::Future,
            tag: Tag,
            kept: Option<M::Kept>,
        },
    }
}

/// The result of a [`Pending`].
pub(crate) enum Resolved<F, S, R, K> {
    /// The request was sent for the first time.
    Sent {
        future: F,
        handle: Arc<Handle<S>>,
        tag: Tag,
        kept: Option<K>,
    },
    Response(Response<R>),
    Error(BoxError),
}

impl<S, B, R, M> Pending<S, B, R, M>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    fn new(handle: Arc<Handle<S>>, stage: Stage<S, B, R, M>) -> Self {
        Self { handle, call: Call::default(), evidence: Evidence::Weak, stage }
    }

    pub(crate) fn for_token(
        handle: Arc<Handle<S>>,
        acquiring: Acquiring,
        request: Request<B>,
    ) -> Self {
        Self::new(handle, Stage::Token { acquiring, request: Some(request) })
    }

    pub(crate) fn refused(handle: Arc<Handle<S>>, error: TokenError) -> Self {
        Self::new(handle, Stage::Failed { error })
    }

    /// Returns the pending replay of a request whose first sending was rejected, or the response if
    /// the request is not sent again.
    pub(crate) fn for_replay(
        handle: Arc<Handle<S>>,
        response: Response<R>,
        evidence: Evidence,
        tag: Tag,
        kept: Option<M::Kept>,
    ) -> Result<Self, Response<R>> {
        let mut call = Call::default();
        let stage = rejected(&handle, &mut call, response, evidence, tag, kept)?;
        Ok(Self { handle, call, evidence, stage })
    }
}

/// Reports a response that rejects a token, and returns the stage of the replay, or else the
/// response.
fn rejected<S, B, R, M>(
    handle: &Handle<S>,
    call: &mut Call,
    response: Response<R>,
    evidence: Evidence,
    tag: Tag,
    kept: Option<M::Kept>,
) -> Result<Stage<S, B, R, M>, Response<R>>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    let driver = &handle.driver;
    let now = driver.clock.now();
    let generation = tag.generation();
    let is_replayable = kept.is_some();
    let report = Rejected { generation, evidence, call: *call, is_replayable };
    let action = driver.reject(report, now);
    call.rejected(generation, now.mono);
    match (action, kept) {
        (RejectAction::GiveUp(reason), _) => Err(stands(response, NotReplaced::new(reason))),
        (_, None) => Err(unplayable(driver, response, generation)),
        (RejectAction::Retry(issued), Some(kept)) => {
            replay::<S, B, R, M>(driver, response, issued, kept, generation)
        }
        (RejectAction::Wait(flight), Some(kept)) => Ok(Stage::Replacing {
            replacing: Replacing::new(driver, &flight, *call, evidence),
            rejected: Some((response, kept)),
        }),
    }
}

/// Sends the request again with `issued`'s token, if that is possible; else returns the response.
fn replay<S, B, R, M>(
    driver: &Driver,
    response: Response<R>,
    issued: Arc<IssuedToken>,
    kept: M::Kept,
    rejected: u64,
) -> Result<Stage<S, B, R, M>, Response<R>>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    match M::restore(kept) {
        Some(request) => Ok(Stage::Discarding {
            discard: M::discard(response.into_body()),
            request: Some(request),
            issued,
        }),
        None => Err(unplayable(driver, response, rejected)),
    }
}

impl<S, B, R, M> Pending<S, B, R, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Resolved<S::Future, S, R, M::Kept>> {
        let mut this = self.project();
        let handle = &*this.handle;
        loop {
            let next = match this.stage.as_mut().project() {
                StageProj::Failed { error } => {
                    return Poll::Ready(Resolved::Error(error.clone().into()));
                }
                StageProj::Token { acquiring, request } => {
                    match ready!(acquiring.poll(&handle.driver, cx)) {
                        Ok(issued) => ready_stage(handle, request.take(), issued),
                        Err(error) => return Poll::Ready(Resolved::Error(error.into())),
                    }
                }
                StageProj::Ready { inner, request, issued } => {
                    let Some(service) = inner else {
                        return Poll::Ready(Resolved::Error(polled_again().into()));
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        return Poll::Ready(Resolved::Error(error.into()));
                    }
                    match recheck(handle, this.call, *this.evidence, issued) {
                        Recheck::Send => {}
                        // Releases the capacity, which must not be held while waiting.
                        Recheck::Acquire => {
                            let mut acquiring = Acquiring::new();
                            match acquiring.poll(&handle.driver, cx) {
                                // Another token is available immediately. Waiting for readiness
                                // again might never end.
                                Poll::Ready(Ok(newer)) => *issued = newer,
                                Poll::Ready(Err(error)) => {
                                    return Poll::Ready(Resolved::Error(error.into()));
                                }
                                Poll::Pending => {
                                    let request = request.take();
                                    this.stage.set(Stage::Token { acquiring, request });
                                    continue;
                                }
                            }
                        }
                        Recheck::Replace(newer) => *issued = newer,
                        Recheck::Wait(replacing) => {
                            let (request, issued) = (request.take(), Arc::clone(issued));
                            this.stage.set(Stage::Superseded { replacing, request, issued });
                            continue;
                        }
                    }
                    let Some(request) = request.take() else {
                        return Poll::Ready(Resolved::Error(polled_again().into()));
                    };
                    let sending = this.call.sending();
                    let keep = this.call.may_be_sent_twice();
                    let tag = Tag::of(issued, sending, &handle.policy);
                    let call = send::<_, _, _, M>(service, handle, request, issued, keep);
                    *inner = None;
                    match (call, sending) {
                        (Ok((future, kept)), Sending::First) => {
                            let handle = Arc::clone(handle);
                            return Poll::Ready(Resolved::Sent { future, handle, tag, kept });
                        }
                        (Ok((future, kept)), Sending::Replay) => {
                            Stage::Replayed { future, tag, kept }
                        }
                        (Err(error), _) => return Poll::Ready(Resolved::Error(error.into())),
                    }
                }
                StageProj::Replacing { replacing, rejected } => {
                    let replaced = ready!(Pin::new(replacing).poll(cx));
                    let Some((response, kept)) = rejected.take() else {
                        return Poll::Ready(Resolved::Error(polled_again().into()));
                    };
                    let generation = this.call.last_tried();
                    let stage = match replaced {
                        Ok(issued) => {
                            replay::<S, B, R, M>(&handle.driver, response, issued, kept, generation)
                        }
                        Err(reason) => {
                            let why = NotReplaced::new(reason);
                            handle.driver.stands(generation, &why);
                            Err(stands(response, why))
                        }
                    };
                    match stage {
                        Ok(stage) => stage,
                        Err(response) => return Poll::Ready(Resolved::Response(response)),
                    }
                }
                StageProj::Discarding { discard, request, issued } => {
                    ready!(discard.poll(cx));
                    let issued = Arc::clone(issued);
                    ready_stage(handle, request.take(), issued)
                }
                StageProj::Superseded { replacing, request, issued } => {
                    // Without another token, this one is sent, and the API's own rejection is
                    // returned.
                    let newer = ready!(Pin::new(replacing).poll(cx)).ok();
                    let issued = newer.unwrap_or_else(|| Arc::clone(issued));
                    ready_stage(handle, request.take(), issued)
                }
                StageProj::Replayed { future, tag, kept } => {
                    let response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Resolved::Error(error.into())),
                    };
                    let (tag, mut kept) = (*tag, kept.take());
                    match judge(handle, tag, response, &mut kept) {
                        Ok(response) => return Poll::Ready(Resolved::Response(response)),
                        Err((response, evidence)) => {
                            *this.evidence = evidence;
                            match rejected::<S, B, R, M>(
                                handle, this.call, response, evidence, tag, kept,
                            ) {
                                Ok(stage) => stage,
                                Err(response) => return Poll::Ready(Resolved::Response(response)),
                            }
                        }
                    }
                }
            };
            this.stage.set(next);
        }
    }
}

fn ready_stage<S, B, R, M>(
    handle: &Handle<S>,
    request: Option<Request<B>>,
    issued: Arc<IssuedToken>,
) -> Stage<S, B, R, M>
where
    S: Service<Request<B>> + Clone,
    M: Mode<B, R>,
{
    Stage::Ready { inner: Some(handle.fresh_inner()), request, issued }
}

/// The state of a token after the wait for readiness.
enum Recheck {
    Send,
    /// It has expired.
    Acquire,
    /// It was rejected meanwhile, and another is available.
    Replace(Arc<IssuedToken>),
    /// It was rejected meanwhile, and its replacement is in flight.
    Wait(Replacing),
}

fn recheck<S: Clone>(
    handle: &Handle<S>,
    call: &Call,
    evidence: Evidence,
    issued: &IssuedToken,
) -> Recheck {
    let driver = &handle.driver;
    let may_go_out = driver.may_go_out(issued);
    if call.sending() == Sending::First {
        return if may_go_out { Recheck::Send } else { Recheck::Acquire };
    }
    if may_go_out && !driver.is_rejected(issued) {
        return Recheck::Send;
    }
    match driver.replace(*call, evidence, driver.clock.now()) {
        RejectAction::Retry(newer) => Recheck::Replace(newer),
        RejectAction::Wait(flight) => {
            Recheck::Wait(Replacing::new(driver, &flight, *call, evidence))
        }
        RejectAction::GiveUp(_) if may_go_out => Recheck::Send,
        RejectAction::GiveUp(_) => Recheck::Acquire,
    }
}

/// Adds the token to `request` and sends it.
#[allow(clippy::type_complexity, reason = "the inner future, and the request that was kept")]
fn send<S, B, R, M>(
    service: &mut S,
    handle: &Handle<S>,
    mut request: Request<B>,
    issued: &IssuedToken,
    keep: bool,
) -> Result<(S::Future, Option<M::Kept>), TokenError>
where
    S: Service<Request<B>>,
    M: Mode<B, R>,
{
    let kept = if keep { M::keep(&mut request, handle.policy.replay_limit) } else { None };
    // `try_insert` fails for a full map, also where it would replace a value.
    request.headers_mut().remove(AUTHORIZATION);
    match request.headers_mut().try_insert(AUTHORIZATION, issued.header.clone()) {
        Ok(_) => Ok((service.call(request), kept)),
        Err(_) => Err(too_many_headers()),
    }
}
