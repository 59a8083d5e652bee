//! The types that tell builders apart: the target that a [`Builder`](crate::Builder) makes, and the
//! source that its token comes from.
//!
//! Each holds the settings that only it has, so a setting without effect does not compile.

use std::{fmt, path::PathBuf, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    cache::TokenCache,
    credentials::CredentialsProvider,
    endpoint::{ClientAuthentication, Dialect, Headers, Transport, url},
    rules::Rules,
    token::TokenSource,
};

/// The target of a [`Builder`](crate::Builder) that makes an
/// [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer): the default.
#[derive(Debug, Default)]
pub struct ForLayer {
    pub(super) rules: Rules,
}

/// The target of a [`Builder`](crate::Builder) that makes a [`TokenCache`](crate::TokenCache): see
/// [`TokenCache::builder`](crate::TokenCache::builder).
#[derive(Debug, Default)]
pub struct ForCache(());

/// The target of a [`Builder`](crate::Builder) that makes a
/// [`TokenEndpoint`](crate::endpoint::TokenEndpoint): see
/// [`TokenEndpoint::builder`](crate::endpoint::TokenEndpoint::builder).
#[derive(Debug, Default)]
pub struct ForEndpoint(());

/// Tokens from an OAuth2 token endpoint: the default.
#[derive(Default)]
pub struct FromEndpoint {
    pub(super) token_url: Option<String>,
    pub(super) insecure: url::Insecure,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<Zeroizing<String>>,
    pub(super) client_secret_file: Option<PathBuf>,
    pub(super) credentials: Option<Arc<dyn CredentialsProvider>>,
    pub(super) scope: Vec<String>,
    pub(super) audience: Option<String>,
    pub(super) resources: Vec<String>,
    pub(super) params: Vec<(String, String)>,
    pub(super) headers: Headers,
    pub(super) dialect: Dialect,
    pub(super) client_authentication: Option<ClientAuthentication>,
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) ca_files: Vec<PathBuf>,
    pub(super) ca_pem: Vec<Vec<u8>>,
}

/// Tokens from a [`TokenSource`](crate::TokenSource): see
/// [`Builder::from_source`](crate::Builder::from_source).
pub struct FromSource(pub(super) Arc<dyn TokenSource>);

/// The token of a [`TokenCache`](crate::TokenCache) that exists already: see
/// [`Builder::from_cache`](crate::Builder::from_cache).
#[derive(Debug)]
pub struct FromCache(pub(super) TokenCache);

/// A target that has a cache, so that the settings of one have an effect: [`ForLayer`] and
/// [`ForCache`].
pub trait HasCache: sealed::Target {}

impl HasCache for ForLayer {}
impl HasCache for ForCache {}

/// A source that a cache is made for: [`FromEndpoint`] and [`FromSource`].
pub trait MakesCache: sealed::Source {}

impl MakesCache for FromEndpoint {}
impl MakesCache for FromSource {}

pub(crate) mod sealed {
    use std::sync::Arc;

    use super::{ForCache, ForEndpoint, ForLayer, FromCache, FromEndpoint, FromSource};
    use crate::{builder::base::Shared, cache::TokenCache, config_error::ConfigError};

    pub trait Target {}

    impl Target for ForLayer {}
    impl Target for ForCache {}
    impl Target for ForEndpoint {}

    pub trait Source: Sized {
        /// Makes the cache, or hands over the one that is there.
        fn into_cache(self, shared: Shared) -> Result<TokenCache, ConfigError>;
    }

    impl Source for FromEndpoint {
        fn into_cache(self, shared: Shared) -> Result<TokenCache, ConfigError> {
            let endpoint = self.into_endpoint(&shared)?;
            let client = endpoint.client();
            shared.cache(Arc::new(endpoint), Some(client))
        }
    }

    impl Source for FromSource {
        fn into_cache(self, shared: Shared) -> Result<TokenCache, ConfigError> {
            let client = shared.name.clone();
            shared.cache(self.0, client)
        }
    }

    impl Source for FromCache {
        fn into_cache(self, _: Shared) -> Result<TokenCache, ConfigError> {
            Ok(self.0)
        }
    }
}

impl fmt::Debug for FromEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of parameters may be secrets, and so may parts of a bad URL be.
        let params: Vec<_> = self.params.iter().map(|(name, _)| name).collect();
        f.debug_struct("FromEndpoint")
            .field("token_url", &self.token_url.as_deref().map(url::presentable))
            .field("client_id", &self.client_id)
            .field("client_secret_file", &self.client_secret_file)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("resources", &self.resources)
            .field("params", &params)
            .field("headers", &self.headers)
            .field("dialect", &self.dialect)
            .field("client_authentication", &self.client_authentication)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FromSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromSource").finish_non_exhaustive()
    }
}
