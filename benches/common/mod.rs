//! The request, the inner service and the ways to call it that every measurement shares.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use tower::{
    Service, ServiceBuilder, ServiceExt,
    retry::{Policy, RetryLayer},
};
use tower_oauth2_client_credentials::{
    OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn,
};

pub(crate) type Body = Full<Bytes>;

/// As long as the access tokens of many providers.
pub(crate) const TOKEN_LENGTH: usize = 1200;

pub(crate) fn token(length: usize) -> String {
    "t".repeat(length)
}

/// A cache whose token of `length` bytes is at hand.
pub(crate) fn cache(length: usize) -> TokenCache {
    let cache = TokenCache::new(source_fn(move |_| async move {
        Ok(TokenResponse::bearer(token(length))?.expires_in(Duration::from_secs(86_400)))
    }));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(cache.token()).expect("a token");
    cache
}

/// A layer whose token is at hand.
pub(crate) fn layer() -> OAuthClientCredentialsLayer {
    OAuthClientCredentialsLayer::from_cache(cache(TOKEN_LENGTH))
}

/// tower's way to the same: a fixed header, and a clone of each request for a second try.
pub(crate) fn retry() -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    let header =
        HeaderValue::from_str(&format!("Bearer {}", token(TOKEN_LENGTH))).expect("a header");
    ServiceBuilder::new()
        .layer(RetryLayer::new(On401))
        .map_request(move |mut request: Request<Body>| {
            request.headers_mut().insert(header::AUTHORIZATION, header.clone());
            request
        })
        .service(Inner)
}

/// tower's policy for one more try after a 401.
#[derive(Clone)]
pub(crate) struct On401;

impl<E> Policy<Request<Body>, Response<Body>, E> for On401 {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<Body>, E>,
    ) -> Option<Ready<()>> {
        match result {
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => Some(ready(())),
            _ => None,
        }
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// Answers at once.
#[derive(Clone)]
pub(crate) struct Inner;

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Body::default())))
    }
}

/// A POST with eight headers, five of them static, as clients send them.
pub(crate) fn request() -> Request<Body> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{\"report\":1}")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("https://api.example.com/v1/reports");
    let headers: &mut HeaderMap = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("api.example.com"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("reports/1.0"));
    for (name, value) in
        [("x-request-id", "7f3c1a"), ("traceparent", "00-4bf92f3577b34da6"), ("x-tenant", "acme")]
    {
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes()));
        headers.insert(name, value.expect("a header"));
    }
    black_box(request)
}

/// Calls one service value again and again.
pub(crate) fn drive<S, E>(service: &mut S, rounds: u64)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E>,
    E: Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..rounds {
        assert!(service.poll_ready(&mut cx).is_ready());
        let future = service.call(request());
        finish(future);
    }
}

/// Calls a clone for each request, as handlers with a client in their state do.
pub(crate) fn drive_clones<S, E>(service: &S, rounds: u64)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E> + Clone,
    E: Debug,
{
    for _ in 0..rounds {
        finish(service.clone().oneshot(request()));
    }
}

/// Polls once: whatever is measured here is ready at once.
pub(crate) fn finish<F, E>(future: F)
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(Ok(response)) => drop(black_box(response)),
        other => panic!("not served at once: {:?}", other.map(|result| result.map(|_| ()))),
    }
}

/// The service that a handler's state holds has seen requests before.
pub(crate) fn warm<S>(mut service: S) -> S
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Debug,
{
    drive(&mut service, 1);
    service
}
