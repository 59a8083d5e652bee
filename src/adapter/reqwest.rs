//! [`reqwest::Client`] as the service below the layer, and as the [`Transport`] of token requests.
//!
//! [`ReqwestService`] accepts `http::Request`, so that the layer and any other tower layer can wrap
//! a client:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_oauth2_client_credentials::{
//!     BoxError, OAuthClientCredentialsLayer, adapter::reqwest::ReqwestService,
//! };
//!
//! # let cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
//! # let auth = OAuthClientCredentialsLayer::from_cache(cache);
//! // `auth` is made by `OAuthClientCredentialsLayer::builder()`.
//! let http = reqwest::Client::new();
//! let mut client = ServiceBuilder::new().layer(auth).service(ReqwestService::new(http.clone()));
//!
//! // Built with reqwest, timeout and all, and sent through the stack.
//! let request = http.get("http://localhost:1/").timeout(std::time::Duration::from_secs(1));
//! let request = http::Request::<reqwest::Body>::try_from(request.build()?)?;
//! let answer: Result<http::Response<reqwest::Body>, _> = client.ready().await?.call(request).await;
//! # assert!(answer.unwrap_err().downcast::<reqwest::Error>().unwrap().is_connect());
//! # Ok::<_, BoxError>(()) }).unwrap();
//! ```
//!
//! Token requests do not use that client or its proxy. They have a transport of their own, which
//! can be a [`ReqwestTransport`].
//!
//! # Redirects
//!
//! The client follows redirects itself, below the layer, and removes the token when a redirect
//! leads to another origin. A response from such an origin does not concern the token: its 401 is
//! passed on and rejects nothing. A 401 at the end of redirects within the origin rejects the
//! token. In that case the request is sent again only if its method is safe (RFC 9110 section
//! 9.2.1), because a redirect often means that the request took effect. This includes a redirect to
//! the request's own URL, as from `POST /orders` to `GET /orders`.
//!
//! reqwest treats plain http on the same host and port as another origin, which does not receive
//! the token. [`https_only`](ClientBuilder::https_only) prevents redirects to plain http
//! altogether.
//!
//! A redirect chain that leaves the origin and returns arrives without the token, which cannot be
//! detected from outside reqwest. An API that redirects in this way costs an occasional renewal,
//! within the layer's limits.
//!
//! # Bodies
//!
//! A body in memory is kept by reference, regardless of its size; a stream is kept as it passes, up
//! to the layer's limit. A body in memory is never turned into a stream, so redirects can still be
//! followed.
//!
//! # TLS
//!
//! This feature enables no TLS backend in reqwest. Enable the features that you need in your own
//! `Cargo.toml`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use reqwest::{Body, Client, ClientBuilder, ResponseBuilderExt, Url, redirect};
use tower_service::Service;

use super::hops::Hops;
use crate::{
    endpoint::{Transport, TransportRequestBody, TransportResponseBody},
    error::BoxError,
    policy::Redirected,
    replay::{ReplayBody, TeeHandle, keep_stream},
    token::BoxFuture,
};

/// A [`reqwest::Client`] as a tower service for `http::Request`s.
///
/// Timeouts that were set on a reqwest request are kept. The response's extensions hold the final
/// URL: `reqwest::Response::from(response).url()`.
#[derive(Clone, Debug, Default)]
pub struct ReqwestService {
    client: Client,
}

impl ReqwestService {
    /// Creates a service that sends requests with `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl From<Client> for ReqwestService {
    fn from(client: Client) -> Self {
        Self::new(client)
    }
}

impl Service<Request<Body>> for ReqwestService {
    type Response = Response<Body>;
    type Error = reqwest::Error;
    type Future = ResponseFuture;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let state = match reqwest::Request::try_from(request) {
            Ok(request) => {
                let target = Target::of(&request);
                State::Sent { response: self.client.call(request), target }
            }
            Err(error) => State::Over { error: Some(error) },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`ReqwestService`]'s responses.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture {
        #[pin]
        state: State,
    }
}

pin_project! {
    #[project = StateProj]
    enum State {
        Sent {
            #[pin]
            response: <Client as Service<reqwest::Request>>::Future,
            target: Target,
        },
        /// Either the response was returned, or reqwest cannot send the request, for example
        /// because its URI is relative.
        Over { error: Option<reqwest::Error> },
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let result = match state.as_mut().project() {
            StateProj::Sent { response, target } => {
                let response = ready!(target.poll(response, cx));
                response.map(|mut response| {
                    target.mark(&mut response);
                    with_url(response)
                })
            }
            StateProj::Over { error } => match error.take().or_else(polled_again) {
                Some(error) => Err(error),
                None => return Poll::Pending,
            },
        };
        state.set(State::Over { error: None });
        Poll::Ready(result)
    }
}

/// Converts the response and stores its final URL in the extensions, where
/// `reqwest::Response::from` looks for it.
fn with_url(response: reqwest::Response) -> Response<Body> {
    let url = response.url().clone();
    let mut response = Response::<Body>::from(response);
    if let Ok(with_url) = Response::builder().url(url).body(()) {
        response.extensions_mut().extend(with_url.into_parts().0.extensions);
    }
    response
}

/// Returns the error for a future that is polled after completion. Of reqwest's errors, only the
/// one for a relative URI can be constructed.
fn polled_again() -> Option<reqwest::Error> {
    reqwest::Request::try_from(Request::new(Body::default())).err()
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// The target of a request, to be compared with the origin of its response.
pub(super) struct Target {
    url: Url,
    /// `None` if the method is safe, so that redirects do not matter.
    hops: Option<Hops>,
}

impl Target {
    pub(super) fn of(request: &reqwest::Request) -> Self {
        let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        Self { url: request.url().clone(), hops: (!is_safe).then(Hops::default) }
    }

    /// Polls the future of the response and records redirects.
    pub(super) fn poll<F: Future>(
        &mut self,
        response: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        match &mut self.hops {
            Some(hops) => hops.poll(response, cx),
            None => response.poll(cx),
        }
    }

    /// Marks `response` for the layer if it does not come from the target.
    pub(super) fn mark(&self, response: &mut reqwest::Response) {
        let end = response.url();
        // A redirect may return to the same URL: from a POST that creates an order to a GET of all
        // orders.
        let may_have_had_effect = self
            .hops
            .as_ref()
            .is_some_and(|hops| hops.followed() || !is_same_resource(&self.url, end));
        let redirected = if !is_same_origin(&self.url, end) {
            Redirected::Elsewhere
        } else if may_have_had_effect {
            Redirected::AfterEffect
        } else {
            return;
        };
        response.extensions_mut().insert(redirected);
    }
}

fn is_same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Compares two URLs of one origin, ignoring fragments, which are never sent.
fn is_same_resource(one: &Url, other: &Url) -> bool {
    one.path() == other.path() && one.query() == other.query()
}

/// A [`Transport`] that sends token requests with a [`reqwest::Client`] that follows no redirects.
///
/// ```
/// # use tower_oauth2_client_credentials::BoxError;
/// use std::time::Duration;
///
/// use tower_oauth2_client_credentials::{
///     OAuthClientCredentialsLayer, adapter::reqwest::ReqwestTransport,
/// };
///
/// let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
/// let auth = OAuthClientCredentialsLayer::builder()
///     .token_url("https://auth.example.com/oauth/token")
///     .client_id("my-service")
///     .client_secret("s3cr3t")
///     .transport(ReqwestTransport::new(client)?)
///     .build()?;
/// # Ok::<(), BoxError>(())
/// ```
///
/// Certificates are verified unless the client is configured otherwise. The client also decides
/// about proxies: reqwest reads them from the environment, so a token URL with plain `http` goes
/// through `HTTP_PROXY` even if it points to this machine, and the proxy can read the secret. Set
/// `NO_PROXY`, or call [`no_proxy`](ClientBuilder::no_proxy).
///
/// The `User-Agent` is that of the token request (see [`Builder::header`](crate::Builder::header)),
/// not that of the client.
#[derive(Clone, Debug)]
pub struct ReqwestTransport {
    service: ReqwestService,
}

impl ReqwestTransport {
    /// Builds the client, with its redirect policy set to
    /// [`Policy::none()`](redirect::Policy::none).
    ///
    /// # Errors
    ///
    /// Returns an error if the client cannot be built because reqwest's TLS backend cannot be
    /// initialized.
    pub fn new(client: ClientBuilder) -> Result<Self, reqwest::Error> {
        let client = client.redirect(redirect::Policy::none()).build()?;
        Ok(Self { service: ReqwestService::new(client) })
    }
}

impl Service<Request<TransportRequestBody>> for ReqwestTransport {
    type Response = Response<TransportResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<TransportResponseBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<TransportRequestBody>) -> Self::Future {
        // A body in memory, so that reqwest can send it again if a pooled connection was closed.
        let answer = self.service.call(request.map(|body| body.into_bytes().into()));
        Box::pin(
            // Without the URL, whose query may be secret.
            async move {
                let answer = answer.await.map_err(reqwest::Error::without_url)?;
                let without_url = |body: Body| body.map_err(reqwest::Error::without_url);
                Ok(answer.map(|body| TransportResponseBody::new(without_url(body))))
            },
        )
    }
}

impl Transport for ReqwestTransport {
    fn send<'a>(
        &'a self,
        request: Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<Response<TransportResponseBody>, BoxError>> {
        self.clone().call(request)
    }
}

impl ReplayBody for Body {
    type Kept = Kept;

    fn keep(&mut self, limit: usize) -> Option<Kept> {
        if self.as_bytes().is_none() {
            return keep_stream(self, limit, Self::wrap).map(|tee| Kept(Keeping::Stream(tee)));
        }
        let bytes = in_memory(std::mem::take(self));
        *self = Self::from(bytes.clone());
        Some(Kept(Keeping::Bytes(bytes)))
    }

    fn restore(kept: Kept) -> Option<Self> {
        match kept.0 {
            Keeping::Bytes(bytes) => Some(Self::from(bytes)),
            Keeping::Stream(tee) => tee.replay().map(Self::wrap),
        }
    }
}

/// The kept data of a [`reqwest::Body`].
pub struct Kept(Keeping);

impl fmt::Debug for Kept {
    /// Does not show the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

enum Keeping {
    Bytes(Bytes),
    Stream(TeeHandle<Body>),
}

/// Returns the bytes of a body that is empty or a single frame that is ready. Nothing is copied:
/// reqwest gives access to a body's bytes only by reference, but its frame owns them.
fn in_memory<B: http_body::Body<Data = Bytes> + Unpin>(mut body: B) -> Bytes {
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let api = url("https://api.example.com/a");
        for same in ["https://api.example.com:443/b?c", "https://user@API.example.com/"] {
            assert!(is_same_origin(&api, &url(same)), "{same}");
        }
        for other in
            ["http://api.example.com/a", "https://api.example.com:8443/a", "https://example.com/a"]
        {
            assert!(!is_same_origin(&api, &url(other)), "{other}");
        }
        assert!(is_same_origin(&url("https://[::1]:443/"), &url("https://[0:0::1]/")));
        assert!(is_same_origin(
            &url("https://bücher.example"),
            &url("https://xn--bcher-kva.example")
        ));
    }

    /// A teed body would be a stream for reqwest, which does not follow a 307 with a stream.
    #[tokio::test]
    async fn a_body_in_memory_stays_one_and_is_shared() {
        let mut body = Body::from("hello");
        let at = body.as_bytes().unwrap().as_ptr();
        let kept = body.keep(0).unwrap();
        assert_eq!(body.as_bytes().map(<[u8]>::as_ptr), Some(at));
        let again = Body::restore(kept).unwrap();
        assert_eq!(
            (again.as_bytes(), again.as_bytes().unwrap().as_ptr()),
            (Some(&b"hello"[..]), at)
        );

        let mut empty = Body::default();
        let kept = empty.keep(0).unwrap();
        assert!(Body::restore(kept).unwrap().is_end_stream());
    }

    #[tokio::test]
    async fn a_stream_is_teed_up_to_the_limit() {
        let stream = || Body::wrap(http_body_util::Full::new(Bytes::from_static(b"hello")));
        assert!(stream().keep(4).is_none());
        let mut body = stream();
        let kept = body.keep(5).unwrap();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(Body::restore(kept).unwrap().collect().await.unwrap().to_bytes(), "hello");
    }

    /// A GET can be repeated wherever it ended; other requests only if their own target responded.
    #[test]
    fn a_redirected_request_may_have_had_its_effect_unless_its_method_has_none() {
        let mark = |method: &Method, end: &str| {
            let request =
                reqwest::Request::new(method.clone(), url("https://api.example.com/a?b=1"));
            let response = Response::builder().url(url(end)).body("").unwrap();
            let mut response = reqwest::Response::from(response);
            Target::of(&request).mark(&mut response);
            response.extensions().get::<Redirected>().copied()
        };
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(mark(&method, "https://api.example.com/a?b=1#c"), None, "{method}");
            for end in ["https://api.example.com/a?b=2", "https://api.example.com/?b=1"] {
                assert_eq!(mark(&method, end), Some(Redirected::AfterEffect), "{method} {end}");
            }
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(mark(&method, "https://api.example.com/b"), None, "{method}");
            let elsewhere = mark(&method, "https://example.com/a?b=1");
            assert_eq!(elsewhere, Some(Redirected::Elsewhere), "{method}");
        }
    }
}
