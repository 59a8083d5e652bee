//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
pub mod endpoint;
mod error;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;

pub use self::{
    error::{BoxError, ErrorClass, TokenError},
    token::{TokenResponse, TokenSource, source_fn},
};
