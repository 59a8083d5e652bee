//! The ways to start a [`Builder`], and `build` for each target.

use std::sync::Arc;

use super::{
    base::Builder,
    target::{ForCache, ForEndpoint, ForLayer, FromCache, FromEndpoint, FromSource, sealed},
};
use crate::{
    cache::TokenCache,
    config_error::ConfigError,
    endpoint::TokenEndpoint,
    error::{ErrorClass, TokenError},
    layer::OAuthClientCredentialsLayer,
    token::{TokenResponse, TokenSource, source_fn},
};

impl<S: sealed::Source> Builder<ForLayer, S> {
    /// Checks the settings and makes the layer. No I/O.
    ///
    /// # Errors
    ///
    /// Returns the first setting that is wrong or missing.
    pub fn build(mut self) -> Result<OAuthClientCredentialsLayer, ConfigError> {
        self.shared.first_error()?;
        if !self.target.rules.origins.names_any() {
            self.shared.near_miss("allowed_origin")?;
        }
        let cache = self.source.into_cache(self.shared)?;
        Ok(OAuthClientCredentialsLayer::with_rules(&cache, self.target.rules))
    }
}

impl<S: sealed::Source> Builder<ForCache, S> {
    /// Checks the settings and makes the cache of a token, to be used without the layer or by
    /// several layers. No I/O.
    ///
    /// # Errors
    ///
    /// Returns the first setting that is wrong or missing.
    pub fn build(mut self) -> Result<TokenCache, ConfigError> {
        self.shared.first_error()?;
        self.source.into_cache(self.shared)
    }
}

impl Builder<ForEndpoint> {
    /// Checks the settings and makes the source of tokens. No I/O: a file is not opened before
    /// the first token request.
    ///
    /// # Errors
    ///
    /// Returns the first setting that is wrong or missing.
    pub fn build(mut self) -> Result<TokenEndpoint, ConfigError> {
        self.shared.first_error()?;
        self.source.into_endpoint(&self.shared)
    }
}

impl Builder<ForLayer, FromSource> {
    /// Starts to configure a layer whose tokens come from `source`.
    pub fn from_source(source: impl TokenSource) -> Self {
        Self::with(FromSource(Arc::new(source)))
    }
}

impl Builder<ForLayer, FromCache> {
    /// Starts to configure a layer that shares the token of `cache`.
    ///
    /// Settings of a layer do not come with a cache, the allowed origins among them: without
    /// [`allowed_origin`](Self::allowed_origin), every `https` origin may have the token, whatever
    /// was set where the cache was made.
    pub fn from_cache(cache: TokenCache) -> Self {
        Self::with(FromCache(cache))
    }

    /// Starts to configure a layer that puts a static id and secret on every request by HTTP Basic
    /// (RFC 7617), in place of a token: see [`OAuthClientCredentialsLayer::basic`].
    pub fn basic(id: impl AsRef<str>, secret: impl AsRef<str>) -> Self {
        let checked = TokenResponse::checked_basic(id.as_ref(), secret.as_ref());
        let problem = checked.as_ref().err().copied();
        let response = checked.map_err(|problem| TokenError::new(ErrorClass::Malformed, problem));
        let source = source_fn(move |_| std::future::ready(response.clone()));
        let mut builder = Self::from_cache(TokenCache::new(source));
        if let Some(problem) = problem {
            builder.fail("basic", problem);
        }
        builder
    }
}

impl OAuthClientCredentialsLayer {
    /// Starts to configure a layer: see [`Builder`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Makes a layer that puts a static id and secret on every request by HTTP Basic (RFC 7617),
    /// for APIs that take them in place of a token. There is no token endpoint.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if both are empty or either is blank, or if RFC 7617 forbids it: a
    /// colon in the id, a control character in either.
    pub fn basic(id: impl AsRef<str>, secret: impl AsRef<str>) -> Result<Self, ConfigError> {
        Builder::basic(id, secret).build()
    }
}

impl TokenCache {
    /// Starts to configure a cache with a token endpoint, to be used without the layer or by
    /// several layers.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_oauth2_client_credentials::{BoxError, TokenCache};
    /// # use http_body_util::Full;
    /// # type Request = http::Request<tower_oauth2_client_credentials::endpoint::TransportRequestBody>;
    /// # let http_client = tower::service_fn(|_: Request| async {
    /// #     Ok::<_, BoxError>(http::Response::new(Full::<bytes::Bytes>::default()))
    /// # });
    /// let cache = TokenCache::builder()
    ///     .token_url("https://auth.example.com/oauth/token")
    ///     .client_id("my-service")
    ///     .client_secret("s3cr3t")
    ///     .renewal_timeout(Duration::from_secs(20))
    /// #   .transport(http_client)
    ///     .build()?;
    /// # drop(cache);
    /// # Ok::<(), BoxError>(())
    /// ```
    pub fn builder() -> Builder<ForCache> {
        Builder::with(FromEndpoint::default())
    }

    /// Starts to configure a cache whose tokens come from `source`.
    pub fn builder_from(source: impl TokenSource) -> Builder<ForCache, FromSource> {
        Builder::with(FromSource(Arc::new(source)))
    }
}

impl TokenEndpoint {
    /// Starts to configure a token endpoint, a [`TokenSource`] that may be wrapped in one of your
    /// own.
    pub fn builder() -> Builder<ForEndpoint> {
        Builder::with(FromEndpoint::default())
    }
}
