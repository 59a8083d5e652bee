//! The parts of [`Builder`]: what it makes, and where the token comes from.
//!
//! A [`Builder`] knows by type what it makes and from what, so it has the settings that have an
//! effect, and no others:
//!
//! | made by | settings of the layer | settings of the cache | settings of the endpoint |
//! |---|---|---|---|
//! | [`OAuthClientCredentialsLayer::builder`], [`Builder::new`] | yes | yes | yes |
//! | [`Builder::from_source`] | yes | yes | |
//! | [`Builder::from_cache`], [`Builder::basic`] | yes | | |
//! | [`TokenCache::builder`] | | yes | yes |
//! | [`TokenCache::builder_from`] | | yes | |
//! | [`TokenEndpoint::builder`] | | | yes |
//!
//! [`Builder`] without parameters, as in a function's signature, is that of a layer with a token
//! endpoint. A function that takes any of them is generic: see [`HasCache`] and [`MakesCache`].
//!
//! A setting that has no effect does not compile. A token endpoint sends no requests to an API:
//!
//! ```compile_fail,E0599
//! use tower_oauth2_client_credentials::endpoint::TokenEndpoint;
//!
//! TokenEndpoint::builder().allowed_origin("https://api.example.com");
//! ```
//!
//! A cache that exists has its timeouts:
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

// A setting is checked where it is given if it can be judged alone; how settings go together, and
// what is missing, is checked in `build`.

// In the order that the page of `Builder` has its methods in: rustdoc keeps it.
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
