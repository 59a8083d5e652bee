//! axum backends that call other APIs: failures as responses, readiness, and forwarding.
//!
//! A client with the layer goes into the state; `examples/axum_backend.rs` is a whole program. What
//! is here is what such programs have in common:
//!
//! ```
//! # use tower_oauth2_client_credentials::{BoxError, TokenCache};
//! # type Client = tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;
//! use axum::{Router, body::Body, extract::State, http::Request, response::Response, routing::get};
//! use tower::ServiceExt;
//! use tower_oauth2_client_credentials::adapter::axum::{UpstreamError, readiness};
//!
//! # fn router(client: Client, cache: TokenCache) -> Router {
//! // `Client` is a stack with the layer in it, `cache` the layer's.
//! Router::new()
//!     .route("/reports", get(|State(client): State<Client>| async move {
//!         let request = Request::get("https://api.example.com/reports").body(Body::empty())?;
//!         // A failure of the token's, or of the client's, becomes a 502 or a 503.
//!         Ok::<Response, UpstreamError>(client.oneshot(request).await?)
//!     }))
//!     .route("/readyz", get(|| async move { readiness(&cache) }))
//!     .with_state(client)
//! # }
//! ```
//!
//! `axum::body::Body` is a [`ReplayBody`](crate::ReplayBody): a stream that comes in and is sent on
//! is kept while it passes, up to the layer's limit.
//!
//! # Reverse proxies
//!
//! [`forward`] makes of an incoming request one to an upstream. Without it, the caller's
//! `Authorization` would reach the upstream, and the layer, which leaves a request alone that has
//! one, would put no token on it. Responses go through [`strip_response`].

use std::{error::Error as StdError, iter, time::Duration};

use axum_core::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, Request, StatusCode, Uri, Version, header,
    uri::{InvalidUriParts, Scheme},
};

use crate::{
    clock::Clock,
    error::{BoxError, ErrorClass, TokenError},
    replay::replay_by_tee,
    token::TokenCache,
};

/// 503 with `Retry-After` if it may pass, 502 if somebody has to do something about it.
///
/// The body says nothing of the reason. The error is in the response's extensions, for a layer that
/// logs it.
impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        let passes = match self.class() {
            ErrorClass::Transient
            | ErrorClass::Throttled
            | ErrorClass::Budget
            | ErrorClass::Interrupted => true,
            ErrorClass::Credentials
            | ErrorClass::Request
            | ErrorClass::Malformed
            | ErrorClass::Origin => false,
        };
        let mut response = if passes {
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(header::RETRY_AFTER, retry_after(&self).into());
            response
        } else {
            plain(StatusCode::BAD_GATEWAY)
        };
        response.extensions_mut().insert(self);
        response
    }
}

/// In whole seconds, rounded up: whoever comes back as told must not be early.
fn retry_after(error: &TokenError) -> u64 {
    let now = Clock::default().now().system_time();
    let wait = error.retry_at().and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
    wait.saturating_add(Duration::from_nanos(999_999_999)).as_secs().max(1)
}

fn plain(status: StatusCode) -> Response {
    (status, status.canonical_reason().unwrap_or_default()).into_response()
}

/// What a call of an upstream has failed with: for handlers that use `?`.
///
/// As a response, a [`TokenError`] is what it is by itself, also behind the errors of other layers and
/// clients (it is looked for along [`source`](StdError::source)); anything else is a bare 502. The
/// error is in the response's extensions as an `Arc<UpstreamError>`.
///
/// Not found is what hides itself from `source`: a [`TokenError`] inside `io::Error::other`, or inside
/// an `anyhow::Error` without context.
#[derive(Debug)]
pub struct UpstreamError(BoxError);

impl UpstreamError {
    /// Why there is no token, if it is that: the error itself, or one of its sources.
    #[must_use]
    pub fn token_error(&self) -> Option<&TokenError> {
        self.chain().find_map(|error| error.downcast_ref())
    }

    /// The error and its sources, from the outermost on.
    fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let outermost: &(dyn StdError + 'static) = &*self.0;
        iter::successors(Some(outermost), |&error| error.source())
    }

    /// The error as it was.
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}

impl<E: Into<BoxError>> From<E> for UpstreamError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for UpstreamError {
    fn into_response(self) -> Response {
        let mut response = match self.token_error() {
            Some(error) => error.clone().into_response(),
            None => plain(StatusCode::BAD_GATEWAY),
        };
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// For `/readyz`: 200 if a token is at hand or nothing has failed yet, else 503.
///
/// It waits for nothing, and starts a renewal where a call would: a backend that gets no calls
/// because it is not ready would never become ready otherwise. It is the last failure that counts, and
/// only while there is no usable token.
#[must_use]
pub fn readiness(cache: &TokenCache) -> StatusCode {
    match cache.clone().try_token() {
        Ok(Some(_)) => StatusCode::OK,
        Ok(None) if cache.last_error().is_none() => StatusCode::OK,
        Ok(None) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Makes of a request that came in one to `upstream`, of which the scheme and authority are taken.
/// Path and query are the caller's.
///
/// Besides the headers (see [`strip_request`]), what belongs to the caller's connection is dropped:
/// the version, and the extensions, in which axum keeps its own.
///
/// # Errors
///
/// If the two make no URI: the request is `OPTIONS *`, or `upstream` has no scheme or authority.
pub fn forward<B>(request: &mut Request<B>, upstream: &Uri) -> Result<(), InvalidUriParts> {
    let mut parts = upstream.clone().into_parts();
    if parts.authority.is_none() {
        // A relative URI would be no error, and would be trusted with the token.
        parts.scheme = Some(Scheme::HTTPS);
    }
    // Nor would `*` be an error, but a part of the host.
    parts.path_and_query =
        request.uri().path_and_query().filter(|path| path.as_str() != "*").cloned();
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().clear();
    strip_request(request.headers_mut());
    Ok(())
}

/// Takes out what must not be sent on to an upstream: what is between the caller and this server
/// ([hop by hop](strip_response), and `Host`), and what the caller has shown to this server and
/// nobody else: every `Authorization`, `Cookie`, `Proxy-Authorization`.
///
/// Headers that tell who the caller is (`Forwarded`, `X-Forwarded-*`) are left as the caller wrote
/// them. Whether they are believed, extended or dropped is the program's decision.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_response(headers);
    for name in [header::HOST, header::AUTHORIZATION, header::COOKIE] {
        headers.remove(name);
    }
}

/// Takes out what is between the upstream and this server only (RFC 9110 section 7.6.1): what
/// `Connection` names, and what is so by definition.
///
/// `Set-Cookie` and `WWW-Authenticate` pass; think about whether the caller is meant.
pub fn strip_response(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Also what is obsolete, for it is still sent.
static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

replay_by_tee! {
    () Body, Body::new;
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_the_callers_own_is_not_forwarded() {
        let mut incoming = Request::get("http://evil.example/a/b?c=d")
            .version(Version::HTTP_2)
            .extension("the router's")
            .body(())
            .unwrap();
        *incoming.headers_mut() = headers(&[
            ("host", "us.example"),
            ("authorization", "Bearer a"),
            ("authorization", "Basic b"),
            ("cookie", "c=1"),
            ("cookie", "d=2"),
            ("connection", "close, X-Internal ,,"),
            ("connection", "te, b a d"),
            ("x-internal", "1"),
            ("x-internal", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic e"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let upstream = Uri::from_static("https://[2001:db8::1]:8443/ignored");
        forward(&mut incoming, &upstream).unwrap();
        assert_eq!(incoming.uri(), "https://[2001:db8::1]:8443/a/b?c=d");
        assert_eq!(incoming.version(), Version::HTTP_11);
        assert!(incoming.extensions().is_empty());
        let left = headers(&[("accept", "*/*"), ("x-forwarded-for", "192.0.2.1")]);
        assert_eq!(*incoming.headers(), left);
    }

    #[test]
    fn the_upstream_is_the_programs_choice_whatever_the_path_looks_like() {
        let upstream = Uri::from_static("http://localhost:1");
        for path in ["//evil.example/", "/@evil.example", "/%2e%2e/", "/?http://evil.example"] {
            let mut request = Request::get(path).body(()).unwrap();
            forward(&mut request, &upstream).unwrap();
            assert_eq!(request.uri().authority().unwrap(), "localhost:1", "{path}");
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), path);
        }
        for (path, upstream) in
            [("/", "/no/authority"), ("/", "no.scheme.example"), ("*", "http://localhost:1")]
        {
            let mut request = Request::options(path).body(()).unwrap();
            assert!(
                forward(&mut request, &Uri::from_static(upstream)).is_err(),
                "{path} {upstream}"
            );
            assert_eq!(request.uri(), path, "as it was");
        }
    }

    #[test]
    fn a_failure_is_502_or_503_and_shows_nothing() {
        for (class, status, retry_after) in [
            (ErrorClass::Transient, 503, Some("1")),
            (ErrorClass::Throttled, 503, Some("1")),
            (ErrorClass::Budget, 503, Some("1")),
            (ErrorClass::Interrupted, 503, Some("1")),
            (ErrorClass::Credentials, 502, None),
            (ErrorClass::Request, 502, None),
            (ErrorClass::Malformed, 502, None),
            (ErrorClass::Origin, 502, None),
        ] {
            let response = UpstreamError::from(TokenError::new(class, "c4n4ry")).into_response();
            assert_eq!(response.status(), status, "{class}");
            let header = response.headers().get(header::RETRY_AFTER);
            assert_eq!(header.map(|value| value.to_str().unwrap()), retry_after, "{class}");
            assert!(response.extensions().get::<TokenError>().is_some());
            assert!(!format!("{:?}", response.headers()).contains("c4n4ry"));
        }
        let other = UpstreamError::from(std::io::Error::other("c4n4ry")).into_response();
        assert_eq!(other.status(), 502);
    }
}
