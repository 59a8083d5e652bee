//! The type parameters of [`Builder`]: what it builds, and where the tokens come from.
//!
//! A [`Builder`] encodes both in its type, so that it only has methods for settings that have an
//! effect:
//!
//! | created by | layer settings | cache settings | endpoint settings |
//! |---|---|---|---|
//! | [`OAuthClientCredentialsLayer::builder`], [`Builder::new`] | yes | yes | yes |
//! | [`Builder::from_source`] | yes | yes | |
//! | [`Builder::from_cache`], [`Builder::basic`] | yes | | |
//! | [`TokenCache::builder`] | | yes | yes |
//! | [`TokenCache::builder_from`] | | yes | |
//! | [`TokenEndpoint::builder`] | | | yes |
//!
//! In a signature, [`Builder`] without parameters means a builder for a layer with a token
//! endpoint. To accept any builder that has a cache, write a function that is generic over
//! [`HasCache`] and [`MakesCache`].
//!
//! A setting that would have no effect does not compile. For example, a token endpoint sends no
//! requests to an API:
//!
//! ```compile_fail,E0599
//! use tower_oauth2_client_credentials::endpoint::TokenEndpoint;
//!
//! TokenEndpoint::builder().allowed_origin("https://api.example.com");
//! ```
//!
//! The timeouts of an existing cache are fixed:
//!
//! ```compile_fail,E0599
//! # use tower_oauth2_client_credentials::{Builder, TokenCache};
//! # fn f(cache: TokenCache) {
//! Builder::from_cache(cache).keep_warm();
//! # }
//! ```
//!
//! A source of your own has no token URL:
//!
//! ```compile_fail,E0599
//! # use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
//! let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
//! TokenCache::builder_from(source).token_url("https://auth.example.com/oauth/token");
//! ```
//!
//! [`Builder`]: crate::Builder
//! [`Builder::basic`]: crate::Builder::basic
//! [`Builder::from_cache`]: crate::Builder::from_cache
//! [`Builder::from_source`]: crate::Builder::from_source
//! [`Builder::new`]: crate::Builder::new
//! [`OAuthClientCredentialsLayer::builder`]: crate::OAuthClientCredentialsLayer::builder
//! [`TokenCache::builder`]: crate::TokenCache::builder
//! [`TokenCache::builder_from`]: crate::TokenCache::builder_from
//! [`TokenEndpoint::builder`]: crate::endpoint::TokenEndpoint::builder

// Each setting is checked in its setter if it can be judged alone; combinations and missing
// settings are checked in `build`.

// rustdoc keeps this order of modules for the methods on the page of `Builder`.
pub(crate) mod base;

mod endpoint;

mod policy;

mod cache;

mod build;

mod env;

mod target;

pub use self::target::{
    ForCache, ForEndpoint, ForLayer, FromCache, FromEndpoint, FromSource, HasCache, MakesCache,
};

#[cfg(test)]
mod tests;
