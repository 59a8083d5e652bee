//! The layer as a [`Middleware`] for reqwest-middleware.
//!
//! ```
//! # use tower_oauth2_client_credentials::BoxError;
//! use reqwest_middleware::ClientBuilder;
//! use tower_oauth2_client_credentials::{
//!     OAuthClientCredentialsLayer, adapter::reqwest_middleware::OAuthMiddleware,
//! };
//!
//! let auth = OAuthClientCredentialsLayer::builder()
//!     .token_url("https://auth.example.com/oauth/token")
//!     .client_id("my-service")
//!     .client_secret("s3cr3t")
//!     .build()?;
//!
//! // `auth` can go onto tower services as well: they share its token.
//! let client = ClientBuilder::new(reqwest::Client::new())
//!     .with(OAuthMiddleware::from(auth))
//!     .build();
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # Order
//!
//! The middleware that is added first is the outermost.
//!
//! - **Add reqwest-retry before this middleware.** Every attempt then fetches the token from the
//!   cache, so a token that is renewed between two attempts is used by the second. In the reverse
//!   order, a 401 is resolved as well, but all attempts carry the token of the first. A failure to
//!   get a token is a middleware error, which reqwest-retry does not retry: the cache decides when
//!   to repeat token requests.
//! - **Add reqwest-tracing before this middleware** to get one span per call, or after it to get
//!   one span per request on the wire, including the replay after a 401. The token's header is
//!   marked sensitive.
//!
//! # Requests that are sent again
//!
//! A request that reqwest cannot clone, because its body is a stream, is not replayed; the token
//! that its 401 rejects is still renewed. Other requests are kept with
//! [`try_clone`](reqwest::Request::try_clone), which copies no body. Since this is cheap, there is
//! no way to turn it off: an [`OAuthMiddleware`] cannot be created from a layer with
//! [`never_replay()`](OAuthClientCredentialsLayer::never_replay). Redirects are handled as
//! described in [`adapter::reqwest`](super::reqwest#redirects).
//! A middleware below that yields by waking its task while it is polled looks like a redirect: a 401
//! to a request whose method is not safe is then returned, and the next request has a newer token.
//! A middleware below that polls the client with a waker of its own, as `FuturesUnordered` does, hides
//! a redirect to the same URL. Place the [`OAuthMiddleware`] below such a middleware.
//!
//! # Errors
//!
//! Errors from inner middlewares and the client are passed on unchanged. A failure to get a token
//! is a [`Middleware`](::reqwest_middleware::Error::Middleware) error. [`token_error`] finds it,
//! also behind the errors of other middlewares.

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    io, mem,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Extensions, Uri};
use http_body::{Frame, SizeHint};
use reqwest_middleware::{Error, Middleware, Next};
use tower_layer::Layer;
use tower_service::Service;

use super::reqwest::Target;
use crate::{
    error::{BoxError, TokenError},
    layer::OAuthClientCredentialsLayer,
    replay::ReplayBody,
    token::BoxFuture,
};

/// The layer as a middleware, for [`ClientBuilder::with`](reqwest_middleware::ClientBuilder::with).
///
/// The middleware is cheap to clone, and shares its token with the layer that it is created from.
#[derive(Clone, Debug)]
pub struct OAuthMiddleware {
    layer: OAuthClientCredentialsLayer,
}

impl From<OAuthClientCredentialsLayer> for OAuthMiddleware {
    fn from(layer: OAuthClientCredentialsLayer) -> Self {
        Self { layer }
    }
}

#[async_trait::async_trait]
impl Middleware for OAuthMiddleware {
    async fn handle(
        &self,
        mut request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response, Error> {
        // If the URL is not a valid URI, the request continues without a token, and reqwest reports
        // the error.
        let Ok(uri) = request.url().as_str().parse::<Uri>() else {
            return next.run(request, extensions).await;
        };
        let mut head = http::Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = uri;
        *head.version_mut() = request.version();
        *head.headers_mut() = mem::take(request.headers_mut());

        let lent = Lent::new(extensions);
        let mut service =
            self.layer.layer(Downstream { next, extensions: Arc::clone(&lent.extensions) });
        // `Downstream` is always ready.
        let response =
            service.call(head.map(|()| Outgoing(request))).await.map_err(middleware_error)?;

        let (parts, body) = response.into_parts();
        let mut response = body.into_response();
        *response.headers_mut() = parts.headers;
        *response.extensions_mut() = parts.extensions;
        Ok(response)
    }
}

/// The inner middlewares and the client as a tower service. Calls must not overlap.
#[derive(Clone)]
struct Downstream<'a> {
    next: Next<'a>,
    extensions: Arc<Mutex<Extensions>>,
}

impl<'a> Service<http::Request<Outgoing>> for Downstream<'a> {
    type Response = http::Response<Incoming>;
    type Error = Error;
    type Future = BoxFuture<'a, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Outgoing>) -> Self::Future {
        let (next, extensions) = (self.next.clone(), Arc::clone(&self.extensions));
        Box::pin(async move {
            let (parts, Outgoing(mut request)) = request.into_parts();
            *request.headers_mut() = parts.headers;
            let mut target = Target::of(&request);

            let mut borrowed = Borrowed::new(&extensions);
            let mut response = {
                let mut running = pin!(next.run(request, &mut borrowed.extensions));
                poll_fn(|cx| target.poll(running.as_mut(), cx)).await?
            };
            drop(borrowed);

            target.mark(&mut response);
            let mut head = http::Response::new(());
            *head.status_mut() = response.status();
            *head.version_mut() = response.version();
            *head.headers_mut() = mem::take(response.headers_mut());
            *head.extensions_mut() = mem::take(response.extensions_mut());
            Ok(head.map(|()| Incoming::Response(Some(response))))
        })
    }
}

/// A request without its headers, used as the body of a request with them. This keeps everything
/// that reqwest stores in a request, and avoids parsing its URL again.
struct Outgoing(reqwest::Request);

impl ReplayBody for Outgoing {
    type Kept = reqwest::Request;

    /// Shared memory does not count towards the limit, and nothing else is cloned.
    fn keep(&mut self, _limit: usize) -> Option<reqwest::Request> {
        self.0.try_clone()
    }

    fn restore(kept: reqwest::Request) -> Option<Self> {
        Some(Self(kept))
    }
}

/// A response without its headers, used as a body in the same way.
enum Incoming {
    /// Taken when the body of a rejected response is read to its end.
    Response(Option<reqwest::Response>),
    Body(reqwest::Body),
}

impl Incoming {
    fn into_response(self) -> reqwest::Response {
        match self {
            Self::Response(Some(response)) => response,
            Self::Response(None) => http::Response::new(reqwest::Body::default()).into(),
            Self::Body(body) => http::Response::new(body).into(),
        }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let this = self.get_mut();
        if let Self::Response(response) = this {
            *this = Self::Body(response.take().map_or_else(Default::default, Into::into));
        }
        match this {
            Self::Body(body) => Pin::new(body).poll_frame(cx),
            Self::Response(_) => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Body(body) => body.size_hint(),
            Self::Response(_) => SizeHint::new(),
        }
    }
}

/// The caller's extensions while the layer uses them. A tower service cannot borrow them, since the
/// layer clones it. They are returned to the caller however the call ends, also when it is
/// cancelled.
struct Lent<'a> {
    from: &'a mut Extensions,
    extensions: Arc<Mutex<Extensions>>,
}

impl<'a> Lent<'a> {
    fn new(from: &'a mut Extensions) -> Self {
        let extensions = Arc::new(Mutex::new(mem::take(from)));
        Self { from, extensions }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.from = mem::take(&mut *lock(&self.extensions));
    }
}

/// The caller's extensions during one call of the inner middlewares.
struct Borrowed<'a> {
    from: &'a Mutex<Extensions>,
    extensions: Extensions,
}

impl<'a> Borrowed<'a> {
    fn new(from: &'a Mutex<Extensions>) -> Self {
        let extensions = mem::take(&mut *lock(from));
        Self { from, extensions }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        *lock(self.from) = mem::take(&mut self.extensions);
    }
}

fn lock(extensions: &Mutex<Extensions>) -> MutexGuard<'_, Extensions> {
    extensions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the [`TokenError`] that caused `error`, if there is one.
///
/// ```
/// # let error = reqwest_middleware::Error::middleware(std::io::Error::other("x"));
/// use tower_oauth2_client_credentials::adapter::reqwest_middleware::token_error;
///
/// if let Some(error) = token_error(&error) {
///     eprintln!("no token: {error}, retry at {:?}", error.retry_at());
/// }
/// # assert!(token_error(&error).is_none());
/// ```
#[must_use]
pub fn token_error(error: &Error) -> Option<&TokenError> {
    TokenError::find(error)
}

/// A wrapper that exposes a [`TokenError`] as the source of another error. The errors of
/// reqwest-middleware and reqwest-retry are transparent, so the error that they hold directly
/// cannot be found in their chain.
#[derive(Debug)]
struct NoToken(TokenError);

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no access token for the request")
    }
}

impl StdError for NoToken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

fn middleware_error(error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => match error.downcast::<TokenError>() {
            Ok(error) => Error::middleware(NoToken(*error)),
            // No other type of error is possible.
            Err(error) => Error::middleware(io::Error::other(error)),
        },
    }
}
