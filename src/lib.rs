//! tower-oauth2-client-credentials
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(
    feature = "axum",
    feature = "oauth2",
    feature = "reqwest",
    feature = "reqwest-middleware",
    feature = "tonic"
))]
pub mod adapter;
mod builder;
mod challenge;
mod clock;
mod config_error;
pub mod credentials;
mod discard;
pub mod endpoint;
mod error;
mod future;
mod layer;
#[cfg(any(doc, doctest))]
pub mod layer_order;
mod mode;
mod origin;
mod replay;
mod rules;
mod service;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;

pub use self::{
    builder::Builder,
    config_error::ConfigError,
    endpoint::{Dialect, TokenEndpoint},
    error::{BoxError, ErrorClass, TokenError},
    future::ResponseFuture,
    layer::OAuthClientCredentialsLayer,
    mode::{Mode, NeverReplay, Replay},
    origin::{Origin, OriginError},
    replay::ReplayBody,
    service::OAuthClientCredentials,
    token::{AccessToken, NotReplaced, TokenCache, TokenResponse, TokenSource, source_fn},
};
