//! [`InMemory`]: a test server as a tower service, without a network.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;
use http_body_util::BodyExt;
use tower_service::Service;

use super::answer::ResponseBody;
use crate::error::BoxError;

pub(crate) type Answering =
    Pin<Box<dyn Future<Output = io::Result<http::Response<ResponseBody>>> + Send>>;

/// A handler of requests, for servers in memory and on loopback.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request. An `Err` closes the connection.
    fn answer(&self, parts: Parts, body: Bytes) -> Answering;

    /// Returns `true` if new connections are closed immediately.
    fn is_down(&self) -> bool;

    /// Records a connection that was closed immediately.
    fn refuse_connection(&self);
}

/// An [`AuthorizationServer`](super::AuthorizationServer) or a
/// [`ProtectedApi`](super::ProtectedApi) as a tower service that accepts any request body.
///
/// The service is always ready, reads the request's body to its end before it responds, and fails
/// with an [`io::Error`] where a server would close the connection.
#[derive(Clone)]
pub struct InMemory {
    pub(crate) handler: Arc<dyn Handler>,
}

impl<B> Service<http::Request<B>> for InMemory
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<ResponseBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let handler = Arc::clone(&self.handler);
        let (parts, body) = request.into_parts();
        Box::pin(async move {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            handler.answer(parts, body).await
        })
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").finish_non_exhaustive()
    }
}
