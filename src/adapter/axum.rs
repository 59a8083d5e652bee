//! axum backends that call other APIs: failures as responses, readiness, and forwarding.
//!
//! A client with the layer goes into the state; `examples/axum_backend.rs` is a whole program. What
//! is here is what such programs have in common:
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
//! `axum::body::Body` is a [`ReplayBody`](crate::ReplayBody): a stream that comes in and is sent on
//! is kept while it passes, up to the layer's limit.
//!
//! # An upstream's 401
//!
//! A 401 that the layer could not cure comes back as a response, with the reason in its extensions
//! ([`NotReplaced`]). **Do not hand it on**: it is about this backend's token, and a browser
//! application would log its user out. [`error_for_rejected_token`] makes an error of it, and lets
//! every other response pass.
//!
//! A 401 without a reason in its extensions is one that a newer token would not have cured: the
//! layer put no token on the request, another origin has answered it, the token was understood and
//! something else is wrong (its scope is too small), or another scheme is asked for. Where no
//! credentials of the caller's reach the upstream, that is not the caller's to answer either; look at
//! the status.
//!
//! # Reverse proxies
//!
//! [`forward`] makes of an incoming request one to an upstream. Without it, the caller's
//! `Authorization` would reach the upstream, and the layer, which leaves a request alone that has
//! one, would put no token on it. Responses go through [`error_for_rejected_token`], and then through
//! [`strip_response`], which lets any other 401 pass with its challenge.

use std::{
    error::Error as StdError,
    iter,
    time::{Duration, SystemTime},
};

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
    error::{BoxError, ErrorClass, TokenError},
    replay::replay_by_tee,
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
            | ErrorClass::Origin
            | ErrorClass::Headers => false,
        };
        let mut response =
            if passes { unavailable(self.retry_at()) } else { plain(StatusCode::BAD_GATEWAY) };
        response.extensions_mut().insert(self);
        response
    }
}

/// `Retry-After` is in whole seconds, rounded up: whoever comes back as told must not be early.
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

/// What a call of an upstream has failed with: for handlers that use `?`.
///
/// As a response, a [`TokenError`] is what it is by itself, also behind the errors of other layers and
/// clients (it is looked for along [`source`](StdError::source)). A rejected token is a 502 or a 503
/// as well (see [`error_for_rejected_token`]); anything else is a bare 502. The error is in the
/// response's extensions as an `Arc<UpstreamError>`.
///
/// Not found is what hides itself from `source`: a [`TokenError`] inside `io::Error::other`, or inside
/// an `anyhow::Error` without context.
#[derive(Debug)]
pub struct UpstreamError(BoxError);

impl UpstreamError {
    /// Why there is no token, or no newer one, if it is that: the error itself, or one of its
    /// sources.
    #[must_use]
    pub fn token_error(&self) -> Option<&TokenError> {
        self.chain().find_map(|error| match error.downcast_ref::<NotReplaced>() {
            Some(why) => why.error(),
            None => error.downcast_ref(),
        })
    }

    /// Why a rejected token was not replaced, if it is that: see [`error_for_rejected_token`].
    #[must_use]
    pub fn not_replaced(&self) -> Option<&NotReplaced> {
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
        let mut response = match (self.token_error(), self.not_replaced()) {
            (Some(error), _) => error.clone().into_response(),
            (None, Some(why)) if !why.is_futile() => unavailable(why.retry_at()),
            (None, _) => plain(StatusCode::BAD_GATEWAY),
        };
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// Makes an error of a response that rejects the layer's token, so that it does not reach a caller
/// who has nothing to do with that token. Every other response passes as it is.
///
/// A response rejects the token if the layer has left in its extensions why there is no newer one
/// ([`NotReplaced`]): a 401, or what else was declared a rejection on the builder. What becomes of it:
///
/// | | |
/// |---|---|
/// | the renewal failed | as the [`TokenError`] by itself: 503 with `Retry-After` if it may pass, else 502 |
/// | the request could not be sent again | 503, and the next call has a newer token |
/// | renewals were of no use lately | 503, with `Retry-After` until the next is tried |
/// | the request was sent again and rejected again, or there is no other token | 502: the upstream does not want this client |
///
/// A 401 without a reason passes: see [An upstream's 401](self#an-upstreams-401). A
/// `reqwest::Response` has the reason as well; `http::Response::from` makes of it what this takes.
///
/// # Errors
///
/// The reason, as an [`UpstreamError`]. The response is dropped, and with it what is left of its body.
pub fn error_for_rejected_token<B>(
    mut response: Response<B>,
) -> Result<Response<B>, UpstreamError> {
    match response.extensions_mut().remove::<NotReplaced>() {
        Some(why) => Err(why.into()),
        None => Ok(response),
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
/// Since nothing that the caller has shown is sent on, a 401 of the upstream's is not about the
/// caller: put the response through [`error_for_rejected_token`].
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
/// `Connection` names, and what is so by definition. A `Content-Length` beside a `Transfer-Encoding`
/// goes as well (RFC 9112 section 6.3): alone, it would announce another end than the body has.
///
/// `Set-Cookie` and `WWW-Authenticate` pass; think about whether the caller is meant. A 401 that
/// rejects the layer's token is none of this function's: [`error_for_rejected_token`] comes first.
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
