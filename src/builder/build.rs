//! The constructors of [`Builder`], and `build` for each target.

use std::sync::Arc;

use super::{
    base::Builder,
    target::{ForCache, ForEndpoint, ForLayer, FromCache, FromEndpoint, FromSource, sealed},
};
use crate::{
    cache::TokenCache,
    endpoint::TokenEndpoint,
    error::config::ConfigError,
    error::{ErrorClass, TokenError},
    layer::OAuthClientCredentialsLayer,
    token::{TokenResponse, TokenSource, source_fn},
};

impl<S: sealed::Source> Builder<ForLayer, S> {
    /// Checks the settings and builds the layer. Performs no I/O.
    ///
    /// # Errors
    ///
    /// Returns the first setting that is wrong or missing.
    pub fn build(mut self) -> Result<OAuthClientCredentialsLayer, ConfigError> {
        self.shared.first_error()?;
        if !self.target.policy.origins.names_any() {
            self.shared.near_miss("allowed_origin")?;
        }
        let cache = self.source.into_cache(self.shared)?;
        Ok(OAuthClientCredentialsLayer::with_policy(&cache, self.target.policy))
    }
}

impl<S: sealed::Source> Builder<ForCache, S> {
    /// Checks the settings and builds the cache, for use without a layer or by several layers.
    /// Performs no I/O.
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
    /// Checks the settings and builds the token endpoint. Performs no I/O: files are first opened
    /// by a token request.
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
    /// Creates a builder for a layer whose tokens come from `source`.
    pub fn from_source(source: impl TokenSource) -> Self {
        Self::with(FromSource(Arc::new(source)))
    }
}

impl Builder<ForLayer, FromCache> {
    /// Creates a builder for a layer that shares the token of `cache`.
    ///
    /// A cache carries no layer settings, so the allowed origins must be set again: without
    /// [`allowed_origin`](Self::allowed_origin), every `https` origin may receive the token, even
    /// if the layer that the cache came from was more restrictive.
    pub fn from_cache(cache: TokenCache) -> Self {
        Self::with(FromCache(cache))
    }

    /// Creates a builder for a layer that authenticates every request with a static id and secret
    /// by HTTP Basic (RFC 7617) instead of a token: see [`OAuthClientCredentialsLayer::basic`].
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
    /// Creates a builder for a layer: see [`Builder`].
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Creates a layer that authenticates every request with a static id and secret by HTTP Basic
    /// (RFC 7617), for APIs that accept them instead of a token. No token endpoint is involved.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if both are empty or either is blank, or if RFC 7617 forbids them:
    /// the id must not contain a colon, and neither may contain a control character.
    pub fn basic(id: impl AsRef<str>, secret: impl AsRef<str>) -> Result<Self, ConfigError> {
        Builder::basic(id, secret).build()
    }
}

impl TokenCache {
    /// Creates a builder for a cache whose tokens come from a token endpoint, for use without a
    /// layer or by several layers.
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

    /// Creates a builder for a cache whose tokens come from `source`.
    pub fn builder_from(source: impl TokenSource) -> Builder<ForCache, FromSource> {
        Builder::with(FromSource(Arc::new(source)))
    }
}

impl TokenEndpoint {
    /// Creates a builder for a token endpoint. A `TokenEndpoint` is a [`TokenSource`], and can be
    /// wrapped in a source of your own.
    pub fn builder() -> Builder<ForEndpoint> {
        Builder::with(FromEndpoint::default())
    }
}
