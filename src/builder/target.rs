//! The type parameters of [`Builder`](crate::Builder): the target that it builds and the source of
//! its tokens.
//!
//! Each type holds the settings that apply to it alone, so that a setting without effect does not
//! compile.

use std::{fmt, path::PathBuf, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    cache::TokenCache,
    credentials::CredentialsProvider,
    endpoint::{ClientAuthentication, Dialect, Headers, Transport, url},
    policy::Policy,
    token::TokenSource,
};

/// The default target of a [`Builder`](crate::Builder): it builds an
/// [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer).
#[derive(Debug, Default)]
pub struct ForLayer {
    pub(super) policy: Policy,
}

/// The target of a [`Builder`](crate::Builder) that builds a [`TokenCache`](crate::TokenCache): see
/// [`TokenCache::builder`](crate::TokenCache::builder).
#[derive(Debug, Default)]
pub struct ForCache(());

/// The target of a [`Builder`](crate::Builder) that builds a
/// [`TokenEndpoint`](crate::endpoint::TokenEndpoint): see
/// [`TokenEndpoint::builder`](crate::endpoint::TokenEndpoint::builder).
#[derive(Debug, Default)]
pub struct ForEndpoint(());

/// The default source of a [`Builder`](crate::Builder): an OAuth2 token endpoint.
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

/// The source of a [`Builder`](crate::Builder) whose tokens come from a
/// [`TokenSource`](crate::TokenSource): see [`Builder::from_source`](crate::Builder::from_source).
pub struct FromSource(pub(super) Arc<dyn TokenSource>);

/// The source of a [`Builder`](crate::Builder) that shares an existing
/// [`TokenCache`](crate::TokenCache): see [`Builder::from_cache`](crate::Builder::from_cache).
#[derive(Debug)]
pub struct FromCache(pub(super) TokenCache);

/// A target that has a cache, and therefore cache settings: [`ForLayer`] and [`ForCache`].
pub trait HasCache: sealed::Target {}

impl HasCache for ForLayer {}
impl HasCache for ForCache {}

/// A source that a new cache is created for: [`FromEndpoint`] and [`FromSource`].
pub trait MakesCache: sealed::Source {}

impl MakesCache for FromEndpoint {}
impl MakesCache for FromSource {}

pub(crate) mod sealed {
    use std::sync::Arc;

    use super::{ForCache, ForEndpoint, ForLayer, FromCache, FromEndpoint, FromSource};
    use crate::{builder::base::Shared, cache::TokenCache, error::config::ConfigError};

    pub trait Target {}

    impl Target for ForLayer {}
    impl Target for ForCache {}
    impl Target for ForEndpoint {}

    pub trait Source: Sized {
        /// Returns the cache of the source, or creates one.
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
        // Parameter values and parts of an invalid URL may be secrets.
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
