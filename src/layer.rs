//! [`OAuthClientCredentialsLayer`]: a token cache and a policy, ready to wrap a service.

use std::{fmt, marker::PhantomData, sync::Arc};

use tower_layer::Layer;

use crate::{
    cache::{Driver, TokenCache},
    policy::Policy,
    replay::mode::{self, NeverReplay, Replay},
    service::OAuthClientCredentials,
};

/// A [`Layer`] that adds [`OAuthClientCredentials`] to a service, so that every request carries a
/// valid access token.
///
/// The layer is cheap to clone. Its clones and the services that it creates share one token.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use http_body_util::Empty;
/// use bytes::Bytes;
/// use tower::{Service, ServiceBuilder, ServiceExt};
/// use tower_oauth2_client_credentials::{
///     OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn,
/// };
///
/// // Tokens may come from anywhere; `builder()` asks an OAuth2 token endpoint for them.
/// let cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
/// let mut client = ServiceBuilder::new()
///     .layer(OAuthClientCredentialsLayer::from_cache(cache))
///     .service_fn(|request: http::Request<Empty<Bytes>>| async move {
///         assert_eq!(request.headers()["authorization"], "Bearer t0k3n");
///         Ok::<_, std::io::Error>(http::Response::new(Empty::<Bytes>::new()))
///     });
///
/// let request = http::Request::get("https://api.example.com/").body(Empty::new()).unwrap();
/// let response = client.ready().await.unwrap().call(request).await.unwrap();
/// assert!(response.status().is_success());
/// # });
/// ```
pub struct OAuthClientCredentialsLayer<M = Replay> {
    driver: Arc<Driver>,
    policy: Arc<Policy>,
    mode: PhantomData<fn() -> M>,
}

impl OAuthClientCredentialsLayer {
    /// Creates a layer with the token of `cache` and default settings.
    ///
    /// A cache carries no layer settings: every `https` origin may receive the token, even if the
    /// layer that the cache came from was more restrictive. To restrict the origins, use
    /// `Builder::from_cache(cache).allowed_origin(..)`: see
    /// [`Builder::from_cache`](crate::Builder::from_cache).
    #[must_use]
    pub fn from_cache(cache: TokenCache) -> Self {
        Self::with_policy(&cache, Policy::default())
    }

    pub(crate) fn with_policy(cache: &TokenCache, policy: Policy) -> Self {
        Self { driver: Arc::clone(cache.driver()), policy: Arc::new(policy), mode: PhantomData }
    }

    /// Turns off replays: a 401 is returned to the caller unchanged. The token that it rejects is
    /// still renewed, so that the next call works.
    ///
    /// Use this for bodies that are not a [`ReplayBody`](crate::ReplayBody), or if keeping each
    /// request costs more than an occasional 401.
    #[must_use]
    pub fn never_replay(self) -> OAuthClientCredentialsLayer<NeverReplay> {
        OAuthClientCredentialsLayer { driver: self.driver, policy: self.policy, mode: PhantomData }
    }
}

impl<M> OAuthClientCredentialsLayer<M> {
    /// Returns the cache of this layer's token, which can be shared with other clients.
    ///
    /// The cache carries no layer settings: a layer created from it lets every `https` origin
    /// receive the token, unless it is built with `Builder::from_cache(cache).allowed_origin(..)`.
    /// Code that reads the token from the cache decides itself where to send it.
    #[must_use]
    pub fn cache(&self) -> TokenCache {
        TokenCache::of(Arc::clone(&self.driver))
    }
}

impl<S: Clone, M> Layer<S> for OAuthClientCredentialsLayer<M> {
    type Service = OAuthClientCredentials<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        OAuthClientCredentials::new(inner, Arc::clone(&self.driver), Arc::clone(&self.policy))
    }
}

impl<M> Clone for OAuthClientCredentialsLayer<M> {
    fn clone(&self) -> Self {
        Self {
            driver: Arc::clone(&self.driver),
            policy: Arc::clone(&self.policy),
            mode: PhantomData,
        }
    }
}

impl<M> fmt::Debug for OAuthClientCredentialsLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClientCredentialsLayer")
            .field("cache", &self.driver)
            .field("policy", &self.policy)
            .field("mode", &mode::name::<M>())
            .finish()
    }
}
