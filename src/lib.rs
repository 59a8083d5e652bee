//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

mod challenge;
mod clock;
pub mod endpoint;
mod error;
mod origin;
pub mod token;

pub use self::{
    error::{BoxError, ErrorClass, TokenError},
    origin::{Origin, OriginError},
    token::{TokenResponse, TokenSource, source_fn},
};
