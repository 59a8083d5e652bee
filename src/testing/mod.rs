//! A scripted authorization server and a protected API, for tests of your client.
//!
//! - [`AuthorizationServer`] issues tokens in the format of its [`Flavor`], or follows a script of
//!   [`Answer`]s. It can also be slow or down, or reissue the same token.
//! - [`ProtectedApi`] accepts these tokens while they are valid, and rejects requests on demand.
//! - Both are available as tower services in memory (`service()`) and as servers on loopback
//!   (`serve()`, or `serve_tls()` with the feature `testing-tls`).
//! - [`ManualClock`] is a clock that a test controls.
//!
//! All of them are cheap handles: keep one and pass a clone to your code, so that you can change
//! the server's behavior or read its journal while requests are in flight.
//!
//! # A test of your own client
//!
//! Write your code so that a test can replace the source of tokens and the HTTP client. In this
//! example everything is in memory, and hours pass instantly.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_oauth2_client_credentials::{
//!     Builder, ConfigError, OAuthClientCredentials, TokenError,
//!     testing::{AuthorizationServer, ManualClock, ProtectedApi},
//! };
//!
//! // The code under test. In production: `reports_client(Builder::from_env(), http_client)`.
//! fn reports_client<S: Clone>(
//!     auth: Builder,
//!     http_client: S,
//! ) -> Result<OAuthClientCredentials<S>, ConfigError> {
//!     let auth = auth.scope("read:reports").build()?;
//!     Ok(ServiceBuilder::new().layer(auth).service(http_client))
//! }
//!
//! # use tower_oauth2_client_credentials::BoxError;
//! # /*
//! #[tokio::test(start_paused = true)]
//! # */
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> { reports_survive().await }
//! async fn reports_survive() -> Result<(), BoxError> {
//!     let clock = ManualClock::new();
//!     let server = AuthorizationServer::builder()
//!         .client("me", "s3cr3t")
//!         .token_lifetime(Duration::from_secs(3600))
//!         .clock(clock.clone())
//!         .build();
//!     let api = ProtectedApi::new(&server);
//!     let auth = Builder::new()
//!         .token_url(server.token_url())
//!         .client_id("me")
//!         .client_secret("s3cr3t")
//!         .transport(server.service())
//!         .clock(clock.clone());
//!     let client = reports_client(auth, api.service())?;
//!     let call = || {
//!         let request = Request::get("https://api.example.com/reports");
//!         client.clone().oneshot(request.body(Full::<Bytes>::default()).unwrap())
//!     };
//!
//!     // A token is asked for, for the right scope.
//!     assert_eq!(call().await?.status(), StatusCode::OK);
//!     assert_eq!(server.journal()[0].parameter("scope"), Some("read:reports"));
//!
//!     // It is revoked: the API rejects a request, and the caller sees nothing of it.
//!     server.revoke_all();
//!     assert_eq!(call().await?.status(), StatusCode::OK);
//!     assert_eq!((server.issued(), api.rejected()), (2, 1));
//!
//!     // It expires: it is renewed before the API sees it.
//!     tokio::time::advance(Duration::from_secs(7200)).await;
//!     assert_eq!(call().await?.status(), StatusCode::OK);
//!     assert_eq!((server.issued(), api.rejected()), (3, 1));
//!
//!     // It expires while the authorization server is down: no request goes out.
//!     server.down();
//!     tokio::time::advance(Duration::from_secs(7200)).await;
//!     let error = call().await.unwrap_err();
//!     assert!(error.downcast_ref::<TokenError>().is_some_and(TokenError::is_unreachable));
//!     assert_eq!(api.calls(), 4);
//!     Ok(())
//! }
//! ```
//!
//! # Time
//!
//! Delays use tokio's clock, and tokens expire by a [`ManualClock`] that follows it: under
//! `#[tokio::test(start_paused = true)]` an hour passes instantly. Pause the clock only in tests
//! that run in memory. tokio advances a paused clock whenever all tasks are idle, and a task that
//! waits for a socket is idle, so timeouts would fire while a response is in flight.
//!
//! # Limitations
//!
//! Only the client credentials grant is supported, without JWT assertions, mutual TLS or DPoP. JWTs
//! are not validly signed, scopes and audiences are not checked, and the journal grows without
//! limit, so the servers are not suited to load tests that run for hours. They are test doubles and
//! must not be used as an authorization server.

mod answer;
mod authorization_builder;
mod authorization_server;
mod clock;
mod flavor;
mod gate;
mod issuer;
mod journal;
mod loopback;
mod parameters;
mod protected_api;
mod service;
#[cfg(feature = "testing-tls")]
mod tls;

#[cfg(feature = "testing-tls")]
pub use self::tls::TestCa;
pub use self::{
    answer::{Answer, ResponseBody},
    authorization_builder::AuthorizationServerBuilder,
    authorization_server::AuthorizationServer,
    clock::ManualClock,
    flavor::{BasicDecoding, Flavor},
    journal::{ApiCall, TokenRequest},
    loopback::RunningServer,
    protected_api::ProtectedApi,
    service::InMemory,
};

#[cfg(test)]
mod loopback_tests;
#[cfg(test)]
mod tests;
