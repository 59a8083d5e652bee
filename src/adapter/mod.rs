//! Adapters for other crates, each behind a feature of the same name: `reqwest`,
//! `reqwest_middleware`, `tonic`, `axum`, `oauth2`.
//!
//! Adapters translate types and decide nothing: which requests carry the token, which responses
//! reject it, and which requests are sent again follows the same rules as for every tower service.

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "reqwest")]
mod hops;
#[cfg(feature = "oauth2")]
pub mod oauth2;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "reqwest-middleware")]
pub mod reqwest_middleware;
#[cfg(feature = "tonic")]
pub mod tonic;
