//! What carries token requests: any tower service, by way of the [`Transport`] trait.

use std::{
    fmt, future,
    sync::{Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower_service::Service;

use crate::{error::BoxError, token::BoxFuture};

/// The body of a token request. It may hold the client's secret, which its `Debug` shows.
pub type TransportRequestBody = Full<Bytes>;

/// The body of a token response.
pub type TransportResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Carries one token request to the token endpoint and brings the answer back.
///
/// It must not follow redirects and must check certificates. Timeouts and size limits are kept by
/// the caller. It is never the service that the layer wraps.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`, whose URI is absolute.
    ///
    /// # Errors
    ///
    /// Whatever keeps an answer from coming; it counts as transient.
    fn send<'a>(
        &'a self,
        request: http::Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<http::Response<TransportResponseBody>, BoxError>>;
}

/// The error of a request that went out on a connection from before, which broke before any byte of
/// an answer came: it is likely that nobody has read the request. One on a new connection is in
/// order, at once.
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

/// A [`Transport`] made of a tower service, which it clones for each request.
///
/// The service must not follow redirects, and must not be the one that the layer wraps.
pub struct TowerTransport<S> {
    /// Only cloned, never called. In a mutex because a service need not be `Sync`.
    template: Mutex<S>,
}

impl<S> TowerTransport<S> {
    /// Token requests by way of `service`.
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
            Ok(response.map(|body| {
                body.map_frame(|frame| {
                    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
                })
                .map_err(Into::into)
                .boxed_unsync()
            }))
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
