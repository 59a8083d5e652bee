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
//! - The first request that needs the token triggers one token request, however many requests wait
//!   for it ([single flight](https://pkg.go.dev/golang.org/x/sync/singleflight)). Before the token
//!   expires, it is renewed in the background.
//! - If an API answers 401, the token is renewed once, and the request is sent again. A
//!   [circuit breaker](https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker)
//!   keeps an API that answers every request with 401 from causing a stream of token requests.
//! - While the authorization server fails, the current token is used until it expires. Without one,
//!   calls fail immediately with the time of the next attempt.
//!
//! # Overview
//!
//! These are the main types:
//!
//! - [`OAuthClientCredentialsLayer`] is the tower layer. It wraps a service in an
//!   [`OAuthClientCredentials`], which adds the token to each request, and replays a request
//!   if its token is rejected.
//! - [`Builder`] configures a layer, and by other entry points a cache or a token endpoint alone. It
//!   reads settings from code or from the environment, and checks all of them in `build`.
//! - [`TokenCache`] holds one token and decides when to renew it. Each layer has one
//!   ([`OAuthClientCredentialsLayer::cache`]), several layers can share one, and it can be used
//!   without a layer. It hands out [`AccessToken`]s.
//! - [`TokenSource`] fetches tokens for a cache. The usual one is a
//!   [`TokenEndpoint`](endpoint::TokenEndpoint), whose [`Dialect`] describes the request and response
//!   format of the provider. Implement the trait, or pass a closure to [`source_fn`], to get tokens
//!   from elsewhere.
//! - [`TokenError`] reports why there is no token. Its [`ErrorClass`] says what to do about it, and
//!   [`retry_at`](TokenError::retry_at) when the next attempt is made.
//!
//! # Cookbook
//!
//! The page [`guide::recipes`] has solutions for specific tasks: generated clients, federated tokens,
//! other headers, unusual responses, APIs that do not use 401, and short-lived processes. The page
//! [`guide::layer_order`] shows where timeouts, retries, tracing and other layers belong. The directory
//! `examples/` of the repository has a program for each adapter.
//!
//! # Index
//!
//! | Task | Item |
//! |---|---|
//! | Configure a layer, also from the environment | [`Builder`] |
//! | Adapt to a provider's token endpoint | [`Dialect`] |
//! | Get tokens from elsewhere | [`TokenSource`], [`source_fn`] |
//! | Use the token without the layer | [`TokenCache`] |
//! | Find out why there is no token | [`TokenError`], [`ErrorClass`] |
//! | Find out why a 401 was returned | [`NotReplaced`], in the response's extensions |
//! | Rotate secrets, or read them from a file or a vault | [`credentials`] |
//! | Send requests with your own body type | [`ReplayBody`] |
//! | Use reqwest, axum, tonic or oauth2 | [`adapter`](https://docs.rs/tower-oauth2-client-credentials/latest/tower_oauth2_client_credentials/adapter/) (one feature each) |
//! | Combine with timeouts, retries and other layers | [`guide::layer_order`] |
//! | Look up solutions for specific tasks | [`guide::recipes`] |
//! | Test your client | [`testing`](https://docs.rs/tower-oauth2-client-credentials/latest/tower_oauth2_client_credentials/testing/) (feature `testing`) |
//! | Understand the implementation | [`guide::architecture`] |
//!
//! # Token lifetime
//!
//! A token's lifetime `L` is the one that the server announces, counted from the moment before the
//! token request.
//!
//! - `L − margin − window − jitter` is the soft point. From then on, requests still use the token,
//!   and one renewal runs in the background. The window is `L/5`, at most 5 minutes. The jitter is
//!   drawn once per token, and is at most half the window and at most a minute.
//! - `L − margin` is the hard point. From then on, requests wait for the renewal, for at most a second. The
//!   margin is `L/4`, at most 30 s. If there is no newer token by then, this one is used until it
//!   expires.
//! - `L` is the end. An expired token is never sent.
//!
//! Both the monotonic and the wall clock count, so that a host that was suspended renews the token
//! before its first request.
//!
//! A renewal tries up to three times within 30 s, or once while an earlier failure is remembered. A
//! slow attempt is joined by others, up to three in flight.
//! If it fails, the failure is remembered for a time that depends on its [`ErrorClass`]. Until
//! then, calls without a usable token fail with it immediately and without I/O.
//!
//! # Rejections
//!
//! A 401 to a request that carried the token rejects the token, whatever its `WWW-Authenticate`
//! says, with two exceptions:
//!
//! - the code `insufficient_scope` (RFC 6750 section 3.1), `insufficient_user_authentication`
//!   (RFC 9470) or one of DPoP's (RFC 9449), without `invalid_token` under `Bearer`;
//! - challenges that offer only DPoP or another proof-of-possession scheme.
//!
//! gRPC's `UNAUTHENTICATED` in the response headers rejects the token as well.
//!
//! The request is then sent again with a newer token. If there is none yet, the token is renewed
//! first. If that does not help, no renewal is forced for a while: 10 s, doubling up to a minute,
//! if other requests are accepted with the token, and a minute, growing up to 5 minutes, if none
//! is. At most 30 renewals are forced in a row, and then one per second. Meanwhile, the caller
//! receives the 401 unchanged.
//!
//! # Features
//!
//! | Feature | Default | Description |
//! |---|---|---|
//! | `rustls` | yes | the default transport of token requests: hyper and rustls, with the platform's roots |
//! | `aws-lc-rs` | yes | the crypto provider of that transport, if the process has installed none |
//! | `ring` | | the same, with ring |
//! | `tracing` | yes | a span for each renewal, and an event for each decision about a 401 |
//! | `testing` | | a scripted authorization server and API, in memory and on loopback |
//! | `testing-tls` | | TLS for these servers |
//! | `reqwest` | | `reqwest::Client` below the layer, and as the transport of token requests |
//! | `reqwest-middleware` | | the layer as a middleware for reqwest-middleware |
//! | `axum` | | errors as responses, readiness, request forwarding |
//! | `tonic` | | replay of gRPC calls, errors as `Status`, an interceptor |
//! | `oauth2` | | settings from an `oauth2::Client`, shared transports |
//!
//! rustls supports only one default crypto provider per program. If yours is ring, disable the
//! default features and enable `rustls`, `ring` and `tracing`: with both providers, rustls panics
//! where it has to choose, as in hyper-rustls' `with_native_roots`.
//!
//! With `tracing`, all spans and events have the target `tower_oauth2_client_credentials`. The span
//! `oauth2.renewal` has the fields `endpoint`, `client_id`, `attempt`, `class`, `duration_ms` and
//! `lifetime_s`. It ends with the event `token renewed` (INFO), or `renewal failed` (WARN) with
//! `error` and `cause`. `token rejected` and `rejection stands` (INFO once for each token and decision,
//! then DEBUG) report the outcome of a 401; `odd token type` is a WARN;
//! `attempt failed` and `not a rejection` (DEBUG) give details. No field contains a secret or a
//! token.
//!
//! Without default features, the crate depends on no HTTP client and not on rustls: pass any tower
//! service to [`Builder::transport`].
//!
//! # Limitations
//!
//! A layer has one token. If you need several (by tenant, scope or audience), choose between layers
//! outside. There is no support for JWT client assertions, mTLS, DPoP, discovery, token verification
//! or a shared token store. Tokio is the only supported runtime, and its timer must be enabled.
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
mod clock;
pub mod credentials;
pub mod endpoint;
mod error;
#[cfg(any(doc, doctest))]
pub mod guide;
mod layer;
mod policy;
mod random;
mod replay;
mod service;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
pub mod token;

/// Compiles the programs of the README.
#[cfg(all(doctest, feature = "reqwest-middleware", feature = "rustls"))]
#[doc = include_str!("../README.md")]
mod readme {}

pub use self::{
    builder::base::Builder,
    cache::{handle::TokenCache, replacement::NotReplaced},
    endpoint::dialect::Dialect,
    error::config::ConfigError,
    error::{BoxError, ErrorClass, TokenError},
    layer::OAuthClientCredentialsLayer,
    policy::origin::{Origin, OriginError},
    replay::ReplayBody,
    replay::mode::{Mode, NeverReplay, Replay},
    service::{OAuthClientCredentials, future::ResponseFuture},
    token::{
        issued::AccessToken,
        source::{TokenResponse, TokenSource, source_fn},
    },
};
