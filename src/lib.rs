//! A tower layer for services that call an API with OAuth2 client credentials (RFC 6749 section
//! 4.4): every request carries a valid access token.
//!
//! ```no_run
//! use hyper_rustls::HttpsConnectorBuilder;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_oauth2_client_credentials::OAuthClientCredentialsLayer;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//!     let secret = std::env::var("CLIENT_SECRET")?;
//!     let https = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1();
//!     let http_client = Client::builder(TokioExecutor::new()).build(https.build());
//!
//!     let auth = OAuthClientCredentialsLayer::builder()
//!         .token_url("https://auth.example.com/oauth/token")
//!         .client_id("my-service")
//!         .client_secret(secret)
//!         .scope("read:reports")
//!         .allowed_origin("https://api.example.com") // nobody else gets the token
//!         .build()?; // checks the configuration; no I/O
//!
//!     let client = ServiceBuilder::new().layer(auth).service(http_client);
//!
//!     let request = http::Request::get("https://api.example.com/reports").body(String::new())?;
//!     let response = client.oneshot(request).await?;
//!     println!("the API answers {}", response.status());
//!     Ok(())
//! }
//! ```
//!
//! - The token is asked for when the first request needs it, by one token request however many
//!   requests wait for it, and is renewed in the background before it expires.
//! - A 401 that a new token cures is never seen: the token is renewed once, and the request is sent
//!   again once. An API that answers 401 to everything does not turn into a stream of token
//!   requests.
//! - While the authorization server fails, the token that is there is used to its end; without one,
//!   calls fail at once, and say until when.
//!
//! # Where to find what
//!
//! | You want to | see |
//! |---|---|
//! | configure a layer, also from the environment | [`Builder`] |
//! | ask a token endpoint in a provider's way | [`Dialect`] |
//! | get tokens from elsewhere | [`TokenSource`], [`source_fn`] |
//! | use the token without the layer | [`TokenCache`] |
//! | know why there is no token | [`TokenError`], [`ErrorClass`] |
//! | know why a 401 was not cured | [`NotReplaced`], in the response's extensions |
//! | rotate secrets, or read them from elsewhere | [`credentials`] |
//! | send requests with bodies of your own type | [`ReplayBody`] |
//! | use it with reqwest, axum, tonic, oauth2 | [`adapter`](https://docs.rs/tower-oauth2-client-credentials/latest/tower_oauth2_client_credentials/adapter/), by features |
//! | know where timeouts, retries and the rest go | the page [`layer_order`] |
//! | give a token to a generated client, keep one between runs, and the like | the page [`recipes`] |
//! | test your client | [`testing`](https://docs.rs/tower-oauth2-client-credentials/latest/tower_oauth2_client_credentials/testing/) (feature `testing`) |
//!
//! # A token's life
//!
//! With `L` the lifetime that the server announces, counted from the moment before it was asked:
//!
//! - `L − margin − window − jitter`, the soft point: requests go on with the token, and one renewal
//!   is started in the background. The window is `L/5`, at most 5 minutes; the jitter is rolled once
//!   for each token, at most half the window and a minute.
//! - `L − margin`, the hard point: requests wait for the renewal. The margin is `L/4`, at most 30 s.
//!   If the renewal fails, the token is used all the same, until
//! - `L`, the end: an expired token is never sent.
//!
//! Both the monotonic and the wall clock count, so that a host that slept renews before its first
//! request.
//!
//! A renewal makes up to three attempts in 30 s. When it fails, the failure is remembered for a time
//! that depends on its [`ErrorClass`], and calls without a usable token fail with it, at once and
//! without I/O.
//!
//! # Rejections
//!
//! A 401 to a request that carried the token rejects it, whatever its `WWW-Authenticate` says, with
//! these exceptions: the code `insufficient_scope` (RFC 6750 section 3.1),
//! `insufficient_user_authentication` (RFC 9470) or one of DPoP's (RFC 9449) without `invalid_token`
//! under `Bearer`, and challenges that offer only DPoP or another proof-of-possession scheme. gRPC's
//! `UNAUTHENTICATED` in the headers of a response rejects the token, too. Then a newer token is used, if there is one; or else one
//! is asked for, and the request is sent again. If that does not help, no renewal is forced for
//! 10 s, doubling, up to a minute where other requests are accepted and up to 5 minutes where none
//! is. Until then the 401 goes to the caller as it came.
//!
//! # Features
//!
//! | Feature | Default | What it adds |
//! |---|---|---|
//! | `rustls` | yes | the default transport of token requests: hyper and rustls, with the platform's roots |
//! | `aws-lc-rs` | yes | the crypto provider of that transport, if the process has installed none |
//! | `ring` | | the same, with ring |
//! | `tracing` | yes | a span for each renewal, an event for each decision about a 401 |
//! | `testing` | | a scripted authorization server and API, in memory and on loopback |
//! | `testing-tls` | | TLS for those |
//! | `reqwest` | | `reqwest::Client` below the layer, and as transport of token requests |
//! | `reqwest-middleware` | | the layer in a chain of reqwest-middleware |
//! | `axum` | | failures as responses, readiness, forwarding of requests |
//! | `tonic` | | gRPC calls that are sent again, failures as `Status`, an interceptor |
//! | `oauth2` | | settings from an `oauth2::Client`, transports for both crates |
//!
//! rustls has one crypto provider for all of a program. If yours is ring, leave the default features
//! out and name `rustls`, `ring` and `tracing`: with both, rustls panics where the choice is left to
//! it, as in hyper-rustls' `with_native_roots`.
//!
//! With `tracing`, all spans and events have the target `tower_oauth2_client_credentials`. The span
//! `oauth2.renewal` has the fields `endpoint`, `client_id`, `attempt`, `class`,
//! `duration_ms` and `lifetime_s`; its end is `token renewed` at INFO, or `renewal failed` at WARN with
//! `error` and `cause`. `token rejected` and `rejection stands` (INFO) say what became of a 401,
//! `attempt failed` and `not a rejection` (DEBUG) the rest. No field holds a secret or a token.
//!
//! Without default features there is no HTTP client and no rustls in the tree: give
//! [`Builder::transport`] any tower service.
//!
//! # What it does not do
//!
//! One token for each layer: what chooses among several (by tenant, scope, audience) stands outside.
//! No JWT client assertions, mTLS, DPoP, discovery, token verification or shared store. Tokio is the
//! only runtime, and its timer must be enabled.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(
    feature = "axum",
    feature = "oauth2",
    feature = "reqwest",
    feature = "reqwest-middleware",
    feature = "tonic"
))]
pub mod adapter;
pub mod builder;
pub mod cache;
mod challenge;
mod clock;
mod config_error;
pub mod credentials;
mod discard;
pub mod endpoint;
mod error;
mod layer;
#[cfg(any(doc, doctest))]
pub mod layer_order;
mod mode;
mod origin;
mod random;
#[cfg(any(doc, doctest))]
pub mod recipes;
mod replay;
mod rules;
mod service;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
pub mod token;

/// The README's programs compile.
#[cfg(all(doctest, feature = "reqwest-middleware", feature = "rustls"))]
#[doc = include_str!("../README.md")]
mod readme {}

pub use self::{
    builder::base::Builder,
    cache::{handle::TokenCache, replacement::NotReplaced},
    config_error::ConfigError,
    endpoint::dialect::Dialect,
    error::{BoxError, ErrorClass, TokenError},
    layer::OAuthClientCredentialsLayer,
    mode::{Mode, NeverReplay, Replay},
    origin::{Origin, OriginError},
    replay::ReplayBody,
    service::{OAuthClientCredentials, future::ResponseFuture},
    token::{
        issued::AccessToken,
        source::{TokenResponse, TokenSource, source_fn},
    },
};
