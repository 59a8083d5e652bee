//! The OAuth2 token endpoint (RFC 6749 section 4.4): [`TokenEndpoint`] asks it for a token, in the
//! provider's [`Dialect`], by way of a [`Transport`].
//!
//! One call is one attempt. When to ask, how often and with which deadline is the cache's business.
//!
//! ```
//! use tower_oauth2_client_credentials::{Builder, endpoint::Dialect};
//! # use tower_oauth2_client_credentials::BoxError;
//! # use http_body_util::Full;
//! # type Request = http::Request<Full<bytes::Bytes>>;
//! # let http_client = tower::service_fn(|_: Request| async {
//! #     Ok::<_, BoxError>(http::Response::new(Full::<bytes::Bytes>::default()))
//! # });
//!
//! let endpoint = Builder::new()
//!     .token_url("https://example.auth0.com/oauth/token")
//!     .client_id("my-service")
//!     .client_secret("s3cr3t")
//!     .audience("https://api.example.com")
//!     .dialect(Dialect::auth0())
//!     .transport(http_client)
//!     .build_source()?;
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # What it does not do
//!
//! - It follows no redirect: a redirect is an error that shows where it leads.
//! - Client authentication by assertion (`private_key_jwt`) or mTLS, DPoP, discovery.
//! - Other token types than Bearer.

mod body;
mod dialect;
mod encode;
mod json;
mod refusal;
mod request;
mod response;
mod retry_after;
mod scrub;
mod transport;
pub(crate) mod url;

use std::{fmt, sync::Arc};

pub(crate) use self::{dialect::Headers, request::TokenRequest};
pub use self::{
    dialect::{BasicEncoding, BodyEncoding, ClientAuthentication, Dialect},
    transport::{TowerTransport, Transport, TransportRequestBody, TransportResponseBody},
};
use crate::{
    clock::Clock,
    credentials::{CredentialsProvider, fingerprint},
    error::{ErrorClass, TokenError},
    token::{Attempt, BoxFuture, TokenResponse, TokenSource},
};

/// A [`TokenSource`] that asks an OAuth2 token endpoint.
///
/// Made by [`Builder::build_source`](crate::Builder::build_source). Clones are cheap and ask
/// alike.
///
/// An attempt fails with a [`TokenError`] of the class that the answer has. If the credentials
/// cannot be had, or no answer comes, it is [`ErrorClass::Transient`].
#[derive(Clone)]
pub struct TokenEndpoint {
    inner: Arc<Inner>,
}

struct Inner {
    request: TokenRequest,
    credentials: Arc<dyn CredentialsProvider>,
    transport: Arc<dyn Transport>,
    clock: Clock,
}

impl TokenEndpoint {
    pub(crate) fn new(
        request: TokenRequest,
        credentials: Arc<dyn CredentialsProvider>,
        transport: Arc<dyn Transport>,
        clock: Clock,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                request,
                credentials,
                transport,
                clock,
            }),
        }
    }
}

impl TokenSource for TokenEndpoint {
    fn fetch<'a>(&'a self, attempt: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        Box::pin(self.inner.fetch(attempt))
    }

    fn credentials_version(&self) -> u64 {
        self.inner.credentials.version()
    }
}

impl Inner {
    async fn fetch(&self, attempt: Attempt) -> Result<TokenResponse, TokenError> {
        let transient = |message: &'static str| TokenError::new(ErrorClass::Transient, message);

        let credentials = self.credentials.credentials().await.map_err(|error| {
            transient("the client's credentials could not be had").with_source(error)
        })?;
        let fingerprint = fingerprint(&credentials);
        if attempt.has_refused(fingerprint) {
            // Sending them again would only count towards a lockout.
            let message = "the client was refused a moment ago, and its credentials are the same";
            return Err(
                TokenError::new(ErrorClass::Credentials, message).with_fingerprint(fingerprint)
            );
        }
        let told_apart = |error: TokenError| match error.class() {
            ErrorClass::Credentials => error.with_fingerprint(fingerprint),
            _ => error,
        };

        let request = self.request.with(&credentials).map_err(told_apart)?;
        let response = self.transport.send(request).await.map_err(|error| {
            transient("the token endpoint could not be reached").with_source(error)
        })?;
        let (parts, body) = response.into_parts();
        let asked = response::Asked {
            request: &self.request,
            credentials: &credentials,
        };
        let now = || self.clock.now().system_time();
        match body::read(body).await {
            Ok(body) => response::read(&parts, &body, &asked, now()).map_err(told_apart),
            // What went wrong with the body of a refusal does not matter: the status says enough.
            Err(_) if !parts.status.is_success() => {
                Err(told_apart(refusal::refused(&parts, &[], &asked, now())))
            }
            Err(error) => Err(error.with_status(parts.status)),
        }
    }
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("request", &self.inner.request)
            .finish_non_exhaustive()
    }
}
