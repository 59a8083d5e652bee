//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod clock;
mod config_error;
pub mod credentials;
pub mod endpoint;
mod error;
pub mod token;

pub use self::{
    builder::Builder,
    config_error::ConfigError,
    endpoint::{Dialect, TokenEndpoint},
    error::{BoxError, ErrorClass, TokenError},
    token::{TokenResponse, TokenSource, source_fn},
};
