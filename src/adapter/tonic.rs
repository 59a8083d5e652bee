//! gRPC with tonic: the layer wraps a `Channel`, and generated clients accept the result.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
//! use tower::ServiceBuilder;
//! use tower_oauth2_client_credentials::{OAuthClientCredentialsLayer, adapter::tonic::StatusLayer};
//!
//! # let cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
//! # let auth = OAuthClientCredentialsLayer::from_cache(cache);
//! // `auth` is made by `OAuthClientCredentialsLayer::builder()`.
//! let channel = tonic::transport::Endpoint::from_static("http://localhost:1").connect_lazy();
//! let channel = ServiceBuilder::new().layer(StatusLayer::new()).layer(auth).service(channel);
//! let mut client = HealthClient::new(channel);
//! let answer = client.check(HealthCheckRequest::default()).await;
//! # assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
//! # });
//! ```
//!
//! - A failure to get a token is a [`TokenError`], which tonic does not know and reports with the
//!   code `Unknown`. [`StatusLayer`] converts it into a [`Status`] with a meaningful code.
//! - `UNAUTHENTICATED` in the response headers ("Trailers-Only"), or HTTP 401 from a proxy, rejects
//!   the token. In trailers that follow a body it is not detected.
//! - **A call with a single message is replayed**, up to the layer's limit (64 KiB). This covers
//!   unary calls and server streaming. The message is kept by reference as it passes; nothing is
//!   read from a body before it is polled. **A client stream is not replayed**; the token that is
//!   rejected is still renewed.
//! - Generated clients use relative URIs, whose destination is determined by the channel, so they
//!   are trusted. With `with_origin` the URIs are absolute, and the layer's allowed origins apply:
//!   plain `http` to another machine must be allowed explicitly.
//!
//! # Interceptors
//!
//! For clients created by `with_interceptor`, [`TokenInterceptor`] reads the token from the cache.
//! An interceptor cannot wait and sees neither response nor URI: nothing is replayed, rejections
//! are not noticed, and the token is sent wherever the channel leads. Prefer the layer.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Request, Status, body::Body, service::Interceptor};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    cache::TokenCache,
    error::{BoxError, ErrorClass, TokenError},
    replay::ReplayBody,
};

/// Converts the error into `UNAVAILABLE` if it is temporary, into `UNAUTHENTICATED` if the
/// authorization server refuses the client, and into `FAILED_PRECONDITION` if the request's target
/// may not receive the token or the request has no room for the header.
///
/// The message names only the class of the error, since a server that passes the status on would
/// show it to its own caller. The error itself is the [source](std::error::Error::source).
impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        let code = match error.class() {
            ErrorClass::Credentials | ErrorClass::Request => Code::Unauthenticated,
            ErrorClass::Origin | ErrorClass::Headers => Code::FailedPrecondition,
            _ => Code::Unavailable,
        };
        let mut status = Self::new(code, format!("no access token ({})", error.class()));
        status.set_source(Arc::new(error));
        status
    }
}

/// A layer that converts every [`TokenError`] of the inner service into a [`Status`]. It belongs
/// outside [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct StatusLayer;

impl StatusLayer {
    /// Creates the layer.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for StatusLayer {
    type Service = StatusService<S>;

    fn layer(&self, inner: S) -> StatusService<S> {
        StatusService { inner }
    }
}

/// The service created by [`StatusLayer`].
#[derive(Clone, Debug)]
pub struct StatusService<S> {
    inner: S,
}

impl<S, R> Service<R> for StatusService<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(with_status)
    }

    fn call(&mut self, request: R) -> Self::Future {
        StatusFuture { inner: self.inner.call(request) }
    }
}

pin_project! {
    /// The future of [`StatusService`]'s responses.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StatusFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, T, E> Future for StatusFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_err(with_status)
    }
}

fn with_status(error: impl Into<BoxError>) -> BoxError {
    let error = error.into();
    match TokenError::find(&*error) {
        Some(error) => Box::new(Status::from(error.clone())),
        None => error,
    }
}

/// An interceptor that adds the token of a [`TokenCache`] to requests without `authorization`
/// metadata.
///
/// ```
/// # use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
/// # let cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tonic::service::Interceptor;
/// use tower_oauth2_client_credentials::adapter::tonic::TokenInterceptor;
///
/// // `cache` is made by `TokenCache::builder`, or is the `cache()` of a layer.
/// let mut interceptor = TokenInterceptor::new(cache.clone());
/// let empty = interceptor.call(tonic::Request::new(())).unwrap_err();
/// assert_eq!(empty.code(), tonic::Code::Unavailable);
///
/// // That has started a renewal. To be sure at the start: wait for it.
/// cache.token().await.unwrap();
/// let request = interceptor.call(tonic::Request::new(())).unwrap();
/// assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer t0k3n");
/// # });
/// ```
///
/// If no token is available, the call fails with `UNAVAILABLE`, and a renewal is started.
#[derive(Clone, Debug)]
pub struct TokenInterceptor {
    cache: TokenCache,
}

impl TokenInterceptor {
    /// Creates an interceptor that uses the token of `cache`.
    #[must_use]
    pub fn new(cache: TokenCache) -> Self {
        Self { cache }
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut().as_mut();
        if headers.contains_key(AUTHORIZATION) {
            return Ok(request);
        }
        let Some(token) = self.cache.try_token()? else {
            return Err(Status::unavailable("there is no access token yet"));
        };
        match headers.try_insert(AUTHORIZATION, token.header().clone()) {
            Ok(_) => Ok(request),
            Err(_) => Err(Status::internal("the request has no room for another header")),
        }
    }
}

/// Keeps calls with a single message as they pass. Nothing is read from the body before it is
/// polled.
impl ReplayBody for Body {
    type Kept = Message;

    fn keep(&mut self, limit: usize) -> Option<Message> {
        if self.is_end_stream() {
            return Some(Message { slot: None, limit });
        }
        if self.size_hint().lower() > limit as u64 {
            return None;
        }
        let slot = Slot::default();
        let body = mem::take(self);
        let seen = Seen::Nothing;
        *self = Self::new(Passing { body: Some(body), seen, limit, slot: Arc::clone(&slot) });
        Some(Message { slot: Some(slot), limit })
    }

    fn restore(kept: Message) -> Option<Self> {
        let Some(slot) = kept.slot else {
            return Some(Self::empty());
        };
        let passed = slot.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let bytes = passed.one_message(kept.limit)?;
        Some(Self::new(Again(Some(bytes))))
    }
}

/// The kept data of a [`tonic::body::Body`]: a single message in its wire format, up to a limit.
pub struct Message {
    /// `None` for a body that was empty from the start.
    slot: Option<Slot>,
    limit: usize,
}

/// The slot in which the body leaves the frames that have passed. Empty while the body is still
/// being read, and for calls that do not have a single message.
type Slot = Arc<Mutex<Option<Passed>>>;

struct Passed {
    message: Option<Bytes>,
    /// The rest of the body when it was dropped, or `None` if it had ended.
    rest: Option<Body>,
}

impl Passed {
    /// Returns the message, if it is the only one. The rest of a unary call in tonic's own body is
    /// always ready; a rest that is not ready is a stream.
    fn one_message(self, limit: usize) -> Option<Bytes> {
        let Self { mut message, rest } = self;
        let Some(mut rest) = rest else { return message };
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match (Pin::new(&mut rest).poll_frame(&mut cx), &message) {
                (Poll::Ready(Some(Ok(frame))), None) => message = Some(message_in(&frame, limit)?),
                (Poll::Ready(None), _) => return message,
                _ => return None,
            }
        }
    }
}

/// Does not show the message, which may be secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}

/// Returns the bytes of a frame that holds exactly one message of at most `limit` bytes.
fn message_in(frame: &Frame<Bytes>, limit: usize) -> Option<Bytes> {
    frame.data_ref().filter(|bytes| bytes.len() <= limit && is_one_message(bytes)).cloned()
}

/// Returns `true` if `bytes` is one message: a flag, a length of four bytes, and the content.
fn is_one_message(bytes: &[u8]) -> bool {
    let [_, a, b, c, d, message @ ..] = bytes else {
        return false;
    };
    u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len()
}

/// A body that keeps its only message by reference as it passes.
struct Passing {
    /// `None` once the body was handed over.
    body: Option<Body>,
    seen: Seen,
    limit: usize,
    slot: Slot,
}

/// The frames that have passed so far.
enum Seen {
    Nothing,
    Message(Bytes),
    /// The message was handed over, or the call does not have a single message.
    Enough,
}

impl Passing {
    fn hand_over(&self, message: Option<Bytes>, rest: Option<Body>) {
        let passed = Passed { message, rest };
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(passed);
    }
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        // Taken out while the body is polled, so that nothing is handed over if it panics.
        let seen = mem::replace(&mut this.seen, Seen::Enough);
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            this.seen = seen;
            return Poll::Pending;
        };
        let ended = body.is_end_stream();
        match (seen, &frame) {
            (Seen::Nothing, Some(Ok(frame))) => match message_in(frame, this.limit) {
                Some(message) if ended => this.hand_over(Some(message), None),
                Some(message) => this.seen = Seen::Message(message),
                None => {}
            },
            (Seen::Message(message), None) => this.hand_over(Some(message), None),
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::new, Body::size_hint)
    }
}

/// If the body is dropped before its end, the server responded without reading all of it.
impl Drop for Passing {
    fn drop(&mut self) {
        let message = match mem::replace(&mut self.seen, Seen::Enough) {
            Seen::Nothing => None,
            Seen::Message(message) => Some(message),
            Seen::Enough => return,
        };
        let rest = self.body.take();
        self.hand_over(message, rest);
    }
}

/// The replay of a message. Like tonic's own body, it does not announce its size.
struct Again(Option<Bytes>);

impl http_body::Body for Again {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.get_mut().0.take().map(|message| Ok(Frame::data(message))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn framed(text: &str) -> Bytes {
        let len = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0], &len[..], text.as_bytes()].concat().into()
    }

    fn body(frames: impl IntoIterator<Item = Bytes>) -> Body {
        let frames: Vec<_> =
            frames.into_iter().map(|data| Ok::<_, Infallible>(Frame::data(data))).collect();
        Body::new(StreamBody::new(tokio_stream::iter(frames)))
    }

    async fn read(body: Body) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn one_message_is_kept_and_anything_else_passes() {
        let one = framed("hello");
        let two = [framed("hello"), framed("again")].concat();
        for (frames, limit, kept) in [
            (vec![one.clone()], one.len(), true),
            (vec![one.clone()], one.len() - 1, false),
            (vec![framed("")], 64, true),
            (vec![one.clone(), one.clone()], 64, false),
            (vec![two.into()], 64, false),
            (vec![one.slice(..3), one.slice(3..)], 64, false),
            (vec![], 64, false),
        ] {
            let whole = frames.concat();
            // Either read to its end, or dropped before.
            for polls in 0..=frames.len() + 1 {
                let mut first = body(frames.clone());
                let message = first.keep(limit).unwrap();
                for _ in 0..polls {
                    let _ = first.frame().await;
                }
                let may_be_kept = kept || polls == 0 && frames.is_empty();
                if polls == frames.len() + 1 {
                    assert!(first.frame().await.is_none());
                }
                drop(first);
                let again = Body::restore(message);
                assert_eq!(again.is_some(), may_be_kept && kept, "{whole:?} {limit} {polls}");
                if let Some(again) = again {
                    assert_eq!(read(again).await, whole);
                }
            }
            let mut first = body(frames);
            let message = first.keep(limit).unwrap();
            assert_eq!(read(first).await, whole);
            assert_eq!(Body::restore(message).is_some(), kept);
        }
    }

    /// Fails if a message is taken from the caller's stream in `call`, and lost if the call's
    /// future is dropped.
    #[test]
    fn nothing_is_taken_from_a_body_before_it_is_polled() {
        struct Counted(Arc<AtomicUsize>);

        impl http_body::Body for Counted {
            type Data = Bytes;
            type Error = Status;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                self.0.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Frame::data(framed("hello")))))
            }
        }

        let taken = Arc::new(AtomicUsize::new(0));
        let mut body = Body::new(Counted(Arc::clone(&taken)));
        let kept = body.keep(64);
        assert_eq!(taken.load(Ordering::Relaxed), 0);
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(frame.is_ready());
        assert_eq!(taken.load(Ordering::Relaxed), 1);
        assert!(kept.and_then(Body::restore).is_none(), "it is still on its way");
    }

    #[test]
    fn no_body_is_kept_whatever_the_limit() {
        let kept = Body::empty().keep(0).unwrap();
        assert!(Body::restore(kept).unwrap().is_end_stream());
    }

    #[tokio::test]
    async fn a_stream_that_is_not_at_its_end_passes() {
        let (mut sender, stream) = http_body_util::channel::Channel::<Bytes, Status>::new(4);
        sender.send_data(framed("one")).await.unwrap();
        let mut body = Body::new(stream);
        let kept = body.keep(1024).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), framed("one"));
        sender.send_data(framed("two")).await.unwrap();
        drop(sender);
        assert_eq!(read(body).await, framed("two"));
        assert!(Body::restore(kept).is_none());

        // Dropped while the stream is open.
        let (mut sender, stream) = http_body_util::channel::Channel::<Bytes, Status>::new(4);
        sender.send_data(framed("one")).await.unwrap();
        let mut body = Body::new(stream);
        let kept = body.keep(1024).unwrap();
        let _ = body.frame().await;
        drop(body);
        assert!(Body::restore(kept).is_none());
        drop(sender);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_breaks_where_it_did() {
        let frames = [Ok(Frame::data(framed("one"))), Err(Status::data_loss("the disk is gone"))];
        let mut body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        let kept = body.keep(1024).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::DataLoss);
        assert!(Body::restore(kept).is_none());
    }

    #[test]
    fn a_status_says_the_class_and_no_more() {
        let error = TokenError::new(ErrorClass::Credentials, "c4n4ry");
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.message(), "no access token (credentials)");
        let source = std::error::Error::source(&status).unwrap();
        assert!(source.downcast_ref::<TokenError>().is_some());
    }
}
