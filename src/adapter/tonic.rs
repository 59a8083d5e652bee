//! gRPC with tonic: the layer goes over a `Channel`, and generated clients take it as it is.
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
//! - A failure to get a token is a [`TokenError`] to tower, and to tonic an error it does not know
//!   (code `Unknown`). [`StatusLayer`] makes it a [`Status`] with a code that says something.
//! - `UNAUTHENTICATED` in the response's headers ("Trailers-Only"), or HTTP 401 from a proxy,
//!   rejects the token. In trailers behind a body it is not seen.
//! - **A call of one message is sent again**, up to the layer's limit (64 KiB): unary calls, and
//!   those with a stream of answers. Its body is one message and then its end, at once. **A stream of
//!   requests is not**; the token that its rejection rejects is renewed all the same.
//! - The URIs of generated clients are relative, and where they go is the channel's: they are
//!   trusted. With `with_origin` they are absolute, and the layer's rules about origins apply: plain
//!   `http` to another machine must be allowed by name.
//!
//! # Interceptors
//!
//! For clients that are made by `with_interceptor`, [`TokenInterceptor`] reads the cache. An
//! interceptor cannot wait, sees no response and no URI: there is no replay, nothing is learnt from
//! a rejection, and the token goes wherever the channel goes. Prefer the layer.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::header::{AUTHORIZATION, Entry};
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Request, Status, body::Body, service::Interceptor};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    error::{BoxError, ErrorClass, TokenError},
    replay::ReplayBody,
    token::TokenCache,
};

/// `UNAVAILABLE` if it may pass, `UNAUTHENTICATED` if the authorization server refuses, and
/// `FAILED_PRECONDITION` if the request's target may not have the token, or the request has no room
/// for it.
///
/// The message says no more than the class: a server that calls another one and hands the status
/// on would show it to its own caller. The error itself is the [source](std::error::Error::source).
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

/// Makes a [`Status`] of every [`TokenError`] that a service fails with. Outside of the layer.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct StatusLayer;

impl StatusLayer {
    /// The layer.
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

/// Made by [`StatusLayer`].
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
    match error.into().downcast::<TokenError>() {
        Ok(error) => Box::new(Status::from(*error)),
        Err(error) => error,
    }
}

/// Puts the token of a [`TokenCache`] on requests that have no `authorization` yet.
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
/// Without a token at hand the call fails with `UNAVAILABLE`, and a renewal is started.
#[derive(Clone, Debug)]
pub struct TokenInterceptor {
    cache: TokenCache,
}

impl TokenInterceptor {
    /// An interceptor with the token of `cache`.
    #[must_use]
    pub fn new(cache: TokenCache) -> Self {
        Self { cache }
    }
}

impl Interceptor for TokenInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Entry::Vacant(entry) = request.metadata_mut().as_mut().entry(AUTHORIZATION) {
            match self.cache.try_token()? {
                Some(token) => _ = entry.insert(token.header().clone()),
                None => return Err(Status::unavailable("there is no access token yet")),
            }
        }
        Ok(request)
    }
}

/// A call of one message is kept, anything else passes as it is.
impl ReplayBody for Body {
    type Kept = Message;

    fn keep(&mut self, limit: usize) -> Option<Message> {
        if self.is_end_stream() {
            return Some(Message(Bytes::new()));
        }
        if self.size_hint().lower() > limit as u64 {
            return None;
        }
        // tonic's own body of a unary call has its message, and its end, whenever it is asked. What
        // is not there at once is a stream, and its own waker will be there when it is polled next.
        let mut cx = Context::from_waker(Waker::noop());
        let mut peeked = VecDeque::with_capacity(2);
        let mut ended = false;
        while peeked.len() < 2
            && !ended
            && let Poll::Ready(frame) = Pin::new(&mut *self).poll_frame(&mut cx)
        {
            ended = !matches!(frame, Some(Ok(_)));
            peeked.push_back(frame);
        }
        if peeked.is_empty() {
            return None;
        }
        let message = match peeked.make_contiguous() {
            [Some(Ok(frame)), None] => frame.data_ref().cloned(),
            _ => None,
        };
        let rest = if ended { Self::empty() } else { std::mem::take(self) };
        *self = Self::new(Peeked { peeked, rest });
        message.filter(|message| message.len() <= limit && is_one_message(message)).map(Message)
    }

    fn restore(kept: Message) -> Option<Self> {
        let Message(bytes) = kept;
        if bytes.is_empty() {
            return Some(Self::empty());
        }
        let peeked = [Some(Ok(Frame::data(bytes))), None].into();
        Some(Self::new(Peeked { peeked, rest: Self::empty() }))
    }
}

/// What is kept of a [`tonic::body::Body`]: one message, as it is on the wire.
pub struct Message(Bytes);

/// It may be secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("len", &self.0.len()).finish()
    }
}

/// A flag and four bytes of length go before every message.
fn is_one_message(bytes: &[u8]) -> bool {
    let [_, a, b, c, d, message @ ..] = bytes else {
        return false;
    };
    u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len()
}

/// A body of which something was read ahead. Like tonic's own it does not announce its size.
struct Peeked {
    peeked: VecDeque<Option<Result<Frame<Bytes>, Status>>>,
    rest: Body,
}

impl http_body::Body for Peeked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match this.peeked.pop_front() {
            Some(frame) => Poll::Ready(frame),
            None => Poll::Ready(ready!(Pin::new(&mut this.rest).poll_frame(cx))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.peeked.front(), None | Some(None)) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

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
            let mut first = body(frames);
            let message = first.keep(limit);
            assert_eq!(message.is_some(), kept, "{whole:?} {limit}");
            assert_eq!(read(first).await, whole);
            if let Some(message) = message {
                assert_eq!(read(Body::restore(message).unwrap()).await, whole);
            }
        }
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
        assert!(body.keep(1024).is_none());
        sender.send_data(framed("two")).await.unwrap();
        drop(sender);
        assert_eq!(read(body).await, [framed("one"), framed("two")].concat());
    }

    #[tokio::test]
    async fn a_stream_that_breaks_breaks_where_it_did() {
        let frames = [Ok(Frame::data(framed("one"))), Err(Status::data_loss("the disk is gone"))];
        let mut body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        assert!(body.keep(1024).is_none());
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(body.frame().await.unwrap().unwrap_err().code(), Code::DataLoss);
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
