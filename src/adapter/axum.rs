//! Support for axum backends that call other APIs: errors as responses, readiness, and forwarding.
//!
//! Put a client with the layer into the router's state; `examples/axum_backend.rs` is a complete
//! program. This module holds the parts that such programs have in common:
//!
//! ```
//! # use tower_oauth2_client_credentials::{BoxError, TokenCache};
//! # type Client = tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, BoxError>;
//! use axum::{Router, body::Body, extract::State, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_oauth2_client_credentials::adapter::axum::{error_for_rejected_token, readiness};
//!
//! # fn router(client: Client, cache: TokenCache) -> Router {
//! // `Client` is a stack with the layer in it, `cache` the layer's.
//! Router::new()
//!     .route("/reports", get(|State(client): State<Client>| async move {
//!         let request = Request::get("https://api.example.com/reports").body(Body::empty())?;
//!         // A failure of the token's, or of the client's, becomes a 502 or a 503.
//!         let response = client.oneshot(request).await?;
//!         // So does the API's 401 to our token: our caller cannot answer it.
//!         error_for_rejected_token(response)
//!     }))
//!     .route("/readyz", get(|| async move { readiness(&cache) }))
//!     .with_state(client)
//! # }
//! ```
//!
//! `axum::body::Body` is a [`ReplayBody`](crate::ReplayBody): an incoming stream that is forwarded
//! is kept as it passes, up to the layer's limit.
//!
//! # An upstream's 401
//!
//! If the layer cannot resolve a 401, it returns the 401 with the reason in the response's
//! extensions ([`NotReplaced`]). **Do not pass it on**: it concerns this backend's token, and a
//! browser application would log its user out. [`error_for_rejected_token`] turns it into an error,
//! and returns every other response unchanged.
//!
//! A 401 without a reason is one that a new token would not have resolved: the layer added no token
//! to the request, another origin sent the response, the token was valid but something else is
//! wrong (such as its scope), or the API requires another scheme. If you forward no credentials of
//! the caller, such a 401 does not concern the caller either; check the status yourself.
//!
//! # Reverse proxies
//!
//! [`forward`] turns an incoming request into one to an upstream. Without it, the caller's
//! `Authorization` would reach the upstream, and the layer would add no token, since it leaves
//! requests with that header alone. Pass responses through [`error_for_rejected_token`] first and
//! [`strip_response`] second; the latter lets any other 401 pass with its challenge.

use std::time::{Duration, SystemTime};

use axum_core::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderMap, HeaderName, Request, StatusCode, Uri, Version, header,
    uri::{InvalidUriParts, Scheme},
};

use crate::{
    cache::{NotReplaced, TokenCache},
    clock::Clock,
    error::{BoxError, ErrorClass, TokenError, chain},
    replay::replay_by_tee,
};

/// Converts the error into a 503 with `Retry-After` if it is temporary, and into a 502 if someone
/// has to intervene.
///
/// The body does not reveal the reason. The error is stored in the response's extensions, where a
/// logging layer can find it.
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
            | ErrorClass::Origin
            | ErrorClass::Headers => false,
        };
        let mut response =
            if passes { unavailable(self.retry_at()) } else { plain(StatusCode::BAD_GATEWAY) };
        response.extensions_mut().insert(self);
        response
    }
}

/// Returns a 503. `Retry-After` is rounded up to whole seconds, so that clients do not return too
/// early.
fn unavailable(retry_at: Option<SystemTime>) -> Response {
    let now = Clock::default().now().system_time();
    let wait = retry_at.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
    let wait = wait.saturating_add(Duration::from_nanos(999_999_999)).as_secs().max(1);
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(header::RETRY_AFTER, wait.into());
    response
}

fn plain(status: StatusCode) -> Response {
    (status, status.canonical_reason().unwrap_or_default()).into_response()
}

/// The error of a call to an upstream, for handlers that use `?`.
///
/// Converts into the response of the [`TokenError`] in its [`source`](std::error::Error::source) chain, if
/// there is one. A rejected token becomes a 502 or a 503 as well (see
/// [`error_for_rejected_token`]), and any other error a plain 502. The error is stored in the
/// response's extensions as an `Arc<UpstreamError>`.
///
/// A [`TokenError`] that does not appear in the chain (see [`TokenError::find`]) is not found, for
/// example one inside an `anyhow::Error` without context.
#[derive(Debug)]
pub struct UpstreamError(BoxError);

impl UpstreamError {
    /// Returns the [`TokenError`] in the error's source chain, if there is one.
    #[must_use]
    pub fn token_error(&self) -> Option<&TokenError> {
        TokenError::find(&*self.0)
    }

    /// Returns why a rejected token was not replaced, if that is the error: see
    /// [`error_for_rejected_token`].
    #[must_use]
    pub fn not_replaced(&self) -> Option<&NotReplaced> {
        chain(&*self.0).find_map(|error| error.downcast_ref())
    }

    /// Returns the original error.
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
        let mut response = match (self.token_error(), self.not_replaced()) {
            (Some(error), _) => error.clone().into_response(),
            (None, Some(why)) if !why.is_futile() => unavailable(why.retry_at()),
            (None, _) => plain(StatusCode::BAD_GATEWAY),
        };
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// Turns a response that rejects the layer's token into an error, so that it does not reach a
/// caller that is not concerned. Returns every other response unchanged.
///
/// A response rejects the token if the layer stored the reason for not replacing it in the
/// extensions ([`NotReplaced`]). This can be a 401, or another response that the builder's settings
/// treat as a rejection. The error converts into these responses:
///
/// | | |
/// |---|---|
/// | the renewal failed | the response of the [`TokenError`]: 503 with `Retry-After` if it is temporary, otherwise 502 |
/// | the request could not be sent again | 503; the next call uses a newer token |
/// | recent renewals had no effect | 503, with `Retry-After` set to the next attempt |
/// | the request was sent again and rejected again, or there is no other token | 502, since the upstream does not accept this client |
///
/// A 401 without a reason is returned unchanged: see [An upstream's 401](self#an-upstreams-401). A
/// `reqwest::Response` carries the reason as well; convert it with `http::Response::from`.
///
/// # Errors
///
/// Returns the reason as an [`UpstreamError`]. The response is dropped with the rest of its body.
pub fn error_for_rejected_token<B>(
    mut response: Response<B>,
) -> Result<Response<B>, UpstreamError> {
    match response.extensions_mut().remove::<NotReplaced>() {
        Some(why) => Err(why.into()),
        None => Ok(response),
    }
}

/// Returns the status for `/readyz`: 200 if a token is available or nothing has failed yet,
/// otherwise 503.
///
/// This function does not wait. Like a call, it starts a renewal if one is due; otherwise a backend
/// that gets no calls because it is not ready would never become ready. Only the last failure
/// counts, and only while there is no usable token.
#[must_use]
pub fn readiness(cache: &TokenCache) -> StatusCode {
    match cache.clone().try_token() {
        Ok(Some(_)) => StatusCode::OK,
        Ok(None) if cache.last_error().is_none() => StatusCode::OK,
        Ok(None) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Turns an incoming request into one to the scheme and authority of `upstream`. The caller's path
/// and query are kept.
///
/// Besides removing headers (see [`strip_request`]), this drops the data of the caller's
/// connection: the version, and the extensions, which axum uses internally.
///
/// None of the caller's credentials are forwarded, so a 401 from the upstream never concerns the
/// caller: pass the response through [`error_for_rejected_token`].
///
/// # Errors
///
/// Returns an error if the two do not form a URI: the request is `OPTIONS *`, or `upstream` lacks a
/// scheme or an authority.
pub fn forward<B>(request: &mut Request<B>, upstream: &Uri) -> Result<(), InvalidUriParts> {
    let mut parts = upstream.clone().into_parts();
    if parts.authority.is_none() {
        // A relative URI would be accepted, and trusted with the token.
        parts.scheme = Some(Scheme::HTTPS);
    }
    // `*` would be accepted as well, as a part of the host.
    parts.path_and_query =
        request.uri().path_and_query().filter(|path| path.as_str() != "*").cloned();
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().clear();
    strip_request(request.headers_mut());
    Ok(())
}

/// Removes the headers that must not be forwarded to an upstream: the [hop-by-hop](strip_response)
/// headers and `Host`, and the credentials that the caller sent to this server only, in
/// `Authorization`, `Cookie` and `Proxy-Authorization`.
///
/// Headers that describe the caller (`Forwarded`, `X-Forwarded-*`) are left unchanged. Whether to
/// trust, extend or drop them is up to you.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_response(headers);
    for name in [header::HOST, header::AUTHORIZATION, header::COOKIE] {
        headers.remove(name);
    }
}

/// Removes the hop-by-hop headers of an upstream's response (RFC 9110 section 7.6.1): those that
/// `Connection` names, and those that are hop-by-hop by definition. A `Content-Length` beside a
/// `Transfer-Encoding` is removed as well (RFC 9112 section 6.3): alone, it would announce another
/// end than the body has.
///
/// `Set-Cookie` and `WWW-Authenticate` are kept; consider whether they are meant for the caller.
/// This function does not recognize a 401 that rejects the layer's token, so call
/// [`error_for_rejected_token`] first.
pub fn strip_response(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Includes obsolete headers that are still in use.
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
