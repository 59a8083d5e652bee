//! The layer as a [`Middleware`] of reqwest-middleware.
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
//! What is added first is outermost.
//!
//! - **reqwest-retry before this one.** Then every try asks for the token anew, and one that is
//!   renewed between two tries goes with the second. The other way round, a 401 is cured just the
//!   same, but all tries of a request carry the token that the first one had. A failure to get a
//!   token is a middleware's error, which reqwest-retry does not try again: how token requests are
//!   repeated is the cache's business.
//! - **reqwest-tracing before this one** has one span for what the caller asked for; after it, one
//!   for each request on the wire, the replay after a 401 included. The token's header is marked
//!   sensitive.
//!
//! # Requests that are sent again
//!
//! A request that reqwest cannot clone, because its body is a stream, passes and is not sent again;
//! the token that its 401 rejects is renewed all the same. Others are kept by
//! [`try_clone`](reqwest::Request::try_clone), which copies no body. As that costs next to nothing,
//! it is always done: no [`OAuthMiddleware`] can be made from a layer with
//! [`never_replay()`](OAuthClientCredentialsLayer::never_replay). Redirects are as in
//! [`adapter::reqwest`](super::reqwest#redirects). A middleware below that yields by waking its task
//! while it is polled looks like a redirect: a 401 to a request whose method is not safe is then
//! returned, and the next request has a newer token.
//!
//! # Errors
//!
//! What comes from below is passed on as it is. A failure to get a token is a
//! [`Middleware`](::reqwest_middleware::Error::Middleware) error, and [`token_error`] finds it also
//! behind the errors of other middlewares.

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

/// The layer, for [`ClientBuilder::with`](reqwest_middleware::ClientBuilder::with).
///
/// Cheap to clone. It shares its token with the layer that it is made from.
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
        // What is no URI for reqwest either goes without a token to the error that it makes of it.
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

/// What is below, as a tower service. It can be called several times, one call after the other.
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

/// A request without its headers, as the body of a request with them: so it keeps all that reqwest
/// has put into it, and its URL is not parsed again.
struct Outgoing(reqwest::Request);

impl ReplayBody for Outgoing {
    type Kept = reqwest::Request;

    /// Memory that is shared does not count, and nothing else is cloned.
    fn keep(&mut self, _limit: usize) -> Option<reqwest::Request> {
        self.0.try_clone()
    }

    fn restore(kept: reqwest::Request) -> Option<Self> {
        Some(Self(kept))
    }
}

/// A response without its headers, the other way round.
enum Incoming {
    /// Taken when its body is asked for: it was rejected, and is read to its end.
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

/// The caller's extensions while the layer has them: a tower service cannot borrow them, since the
/// layer clones it. The caller has them back however this ends, also when it is given up.
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

/// The same, for one call of what is below.
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

/// Why there is no token, if that is what `error` comes from.
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
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A [`TokenError`] as the source of another: the errors of reqwest-middleware and reqwest-retry
/// are transparent, so that what they hold itself cannot be found from the outside.
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
            // There is no other kind.
            Err(error) => Error::middleware(io::Error::other(error)),
        },
    }
}
