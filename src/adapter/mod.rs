//! The layer at home with other crates, each behind a feature of its name:
//! `reqwest`, `reqwest_middleware`, `tonic`, `axum`, `oauth2`.
//!
//! An adapter translates and holds no rule of its own: which request may have the token, what
//! rejects it, what is sent again is decided where it is decided for every tower service.

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
