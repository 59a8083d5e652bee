//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

mod challenge;
mod clock;
pub mod endpoint;
mod error;
mod sync;
mod telemetry;
pub mod token;

pub use self::{
    error::{BoxError, ErrorClass, TokenError},
    token::{AccessToken, NotReplaced, TokenCache, TokenResponse, TokenSource, source_fn},
};
