//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

mod challenge;
mod clock;
pub mod endpoint;
mod error;
mod origin;
mod replay;
pub mod token;

pub use self::{
    error::{BoxError, ErrorClass, TokenError},
    origin::{Origin, OriginError},
    replay::ReplayBody,
    token::{TokenResponse, TokenSource, source_fn},
};
