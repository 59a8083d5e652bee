//! [`OAuthClientCredentialsLayer`]: the token and the rules, ready to wrap a service.

use std::{fmt, marker::PhantomData, sync::Arc};

use tower_layer::Layer;

use crate::{
    cache::{Driver, TokenCache},
    mode::{self, NeverReplay, Replay},
    rules::Rules,
    service::OAuthClientCredentials,
};

/// Adds [`OAuthClientCredentials`] to a service: every request carries a valid access token.
///
/// Cheap to clone. Clones, and all services that one layer makes, share one token.
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
    rules: Arc<Rules>,
    mode: PhantomData<fn() -> M>,
}

impl OAuthClientCredentialsLayer {
    /// Makes a layer with the token of `cache` and the default settings.
    ///
    /// Rules do not come with a cache, the allowed origins among them: every `https` origin may have
    /// the token, whatever was set where the cache was made. To say who may, build the layer by
    /// `Builder::from_cache(cache).allowed_origin(..)`: see
    /// [`Builder::from_cache`](crate::Builder::from_cache).
    #[must_use]
    pub fn from_cache(cache: TokenCache) -> Self {
        Self::with_rules(&cache, Rules::default())
    }

    pub(crate) fn with_rules(cache: &TokenCache, rules: Rules) -> Self {
        Self { driver: Arc::clone(cache.driver()), rules: Arc::new(rules), mode: PhantomData }
    }

    /// Keeps no request: a 401 goes to the caller as it came. The token that it rejects is renewed
    /// all the same, so that the next call works.
    ///
    /// For bodies of any type, and for callers to whom the cost of keeping a request matters more
    /// than the rare 401.
    #[must_use]
    pub fn never_replay(self) -> OAuthClientCredentialsLayer<NeverReplay> {
        OAuthClientCredentialsLayer { driver: self.driver, rules: self.rules, mode: PhantomData }
    }
}

impl<M> OAuthClientCredentialsLayer<M> {
    /// Returns the cache of this layer's token, to be shared with other clients.
    ///
    /// The rules stay behind, the allowed origins among them: a layer that is made of the cache lets
    /// every `https` origin have the token, unless it is built by
    /// `Builder::from_cache(cache).allowed_origin(..)`. Who takes the token from the cache decides
    /// where it goes.
    #[must_use]
    pub fn cache(&self) -> TokenCache {
        TokenCache::of(Arc::clone(&self.driver))
    }
}

impl<S: Clone, M> Layer<S> for OAuthClientCredentialsLayer<M> {
    type Service = OAuthClientCredentials<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        OAuthClientCredentials::new(inner, Arc::clone(&self.driver), Arc::clone(&self.rules))
    }
}

impl<M> Clone for OAuthClientCredentialsLayer<M> {
    fn clone(&self) -> Self {
        Self { driver: Arc::clone(&self.driver), rules: Arc::clone(&self.rules), mode: PhantomData }
    }
}

impl<M> fmt::Debug for OAuthClientCredentialsLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClientCredentialsLayer")
            .field("cache", &self.driver)
            .field("rules", &self.rules)
            .field("mode", &mode::name::<M>())
            .finish()
    }
}
