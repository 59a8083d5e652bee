//! The transport of token requests: any tower service, through the [`Transport`] trait.

use std::{
    convert::Infallible,
    fmt, future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower_service::Service;

use crate::{error::BoxError, token::BoxFuture};

/// The body of a token request: bytes in memory, in one frame.
///
/// It may hold the client's secret, which its `Debug` does not show. The bytes that a token endpoint
/// of this crate sends are zeroized when the last clone of them is dropped.
#[derive(Clone, Default)]
pub struct TransportRequestBody {
    /// `None` if the body is empty, or has been read.
    bytes: Option<Bytes>,
}

impl TransportRequestBody {
    /// Creates a body of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: Some(bytes.into()).filter(|bytes| !bytes.is_empty()) }
    }

    /// Returns the bytes, for clients that take a whole body.
    ///
    /// ```
    /// use tower_oauth2_client_credentials::endpoint::TransportRequestBody;
    ///
    /// let body = TransportRequestBody::new("grant_type=client_credentials");
    /// assert_eq!(body.into_bytes(), "grant_type=client_credentials");
    /// ```
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes.unwrap_or_default()
    }
}

impl Body for TransportRequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl fmt::Debug for TransportRequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportRequestBody").finish_non_exhaustive()
    }
}

/// The body of a token response, of any type.
pub struct TransportResponseBody {
    body: UnsyncBoxBody<Bytes, BoxError>,
}

impl TransportResponseBody {
    /// Boxes `body`.
    ///
    /// ```
    /// use tower_oauth2_client_credentials::endpoint::TransportResponseBody;
    ///
    /// let body = TransportResponseBody::new(String::from(r#"{"access_token":"t0k3n"}"#));
    /// # drop(body);
    /// ```
    pub fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = body
            .map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
            .map_err(Into::into)
            .boxed_unsync();
        Self { body }
    }
}

impl Body for TransportResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for TransportResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportResponseBody").finish_non_exhaustive()
    }
}

/// A client that sends a token request and returns the response.
///
/// It must not follow redirects, and must check certificates. The caller enforces timeouts and size
/// limits. The transport is never the service that the layer wraps.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`, whose URI is absolute.
    ///
    /// # Errors
    ///
    /// Any error that prevents a response; it counts as transient.
    fn send<'a>(
        &'a self,
        request: http::Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<http::Response<TransportResponseBody>, BoxError>>;
}

/// The error of a request on a reused connection that broke before any byte of a response arrived.
/// The server has probably not read the request, but may have. The renewal sends another one
/// immediately.
#[derive(Debug)]
#[cfg_attr(not(feature = "rustls"), allow(dead_code, reason = "the default transport's"))]
pub(super) struct Unanswered(pub(super) BoxError);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection that had been used before was closed without an answer")
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// A [`Transport`] made from a tower service, which it clones for each request.
///
/// The service must not follow redirects, and must not be the one that the layer wraps.
pub struct TowerTransport<S> {
    /// The service, which is only cloned and never called. In a mutex because a service need not be
    /// `Sync`.
    template: Mutex<S>,
}

impl<S> TowerTransport<S> {
    /// Creates a transport that sends token requests through `service`.
    pub fn new(service: S) -> Self {
        Self { template: Mutex::new(service) }
    }
}

impl<S, B> Transport for TowerTransport<S>
where
    S: Service<http::Request<TransportRequestBody>, Response = http::Response<B>>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn send<'a>(
        &'a self,
        request: http::Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<http::Response<TransportResponseBody>, BoxError>> {
        Box::pin(async move {
            // A `clone` that panicked has not changed what it clones.
            let mut service = self.template.lock().unwrap_or_else(PoisonError::into_inner).clone();
            future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let response = service.call(request).await.map_err(Into::into)?;
            Ok(response.map(TransportResponseBody::new))
        })
    }
}

impl<S> fmt::Debug for TowerTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerTransport").finish_non_exhaustive()
    }
}

impl fmt::Debug for dyn Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The alias of http-body-util's `Full` that it was showed the secret in its `Debug`.
    #[tokio::test]
    async fn the_body_of_a_token_request_is_one_frame_and_is_not_shown() {
        let body = TransportRequestBody::new("client_secret=c4n4ry");
        assert!(!format!("{body:?}").contains("c4n4ry"));
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(20), false));
        assert_eq!(body.clone().into_bytes(), "client_secret=c4n4ry");
        assert_eq!(body.collect().await.unwrap().to_bytes(), "client_secret=c4n4ry");
        for empty in [TransportRequestBody::new(""), TransportRequestBody::default()] {
            assert!(empty.is_end_stream() && empty.size_hint().exact() == Some(0));
            assert_eq!(empty.into_bytes(), "");
        }
    }
}
