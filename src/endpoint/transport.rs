//! What carries token requests: any tower service, by way of the [`Transport`] trait.

use std::fmt;

use bytes::Bytes;
use http_body_util::{Full, combinators::UnsyncBoxBody};

use crate::{error::BoxError, token::BoxFuture};

/// The body of a token request.
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

impl fmt::Debug for dyn Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}
