//! A scripted authorization server and a protected API, for the tests of whoever uses this crate.
//!
//! - [`AuthorizationServer`] issues tokens: as its [`Flavor`] of token endpoint does, or on a
//!   script of [`Answer`]s, slow, down, forgetful.
//! - [`ProtectedApi`] accepts them while they are valid, and rejects whatever it is told to.
//! - Both are tower services in memory (`service()`), and servers on loopback (`serve()`, with the
//!   feature `testing-tls` also `serve_tls()`).
//! - [`ManualClock`] is a clock that a test moves.
//!
//! All are cheap handles: keep one, give a clone away, and change the server's mind, or read its
//! journal, while requests are under way.
//!
//! # Example
//!
//! A client of your own, which asks for a token and calls an API with it, meets a revoked token:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::ServiceExt;
//! use tower_oauth2_client_credentials::testing::{Answer, AuthorizationServer, ProtectedApi};
//!
//! let server = AuthorizationServer::new();
//! let api = ProtectedApi::new(&server);
//! api.reject_with(Answer::challenge(r#"Bearer error="invalid_token""#));
//!
//! let form = "grant_type=client_credentials&client_id=test-client&client_secret=test-secret";
//! let request = Request::post(server.token_url())
//!     .header("content-type", "application/x-www-form-urlencoded")
//!     .body(Full::<bytes::Bytes>::from(form))?;
//! assert_eq!(server.service().oneshot(request).await?.status(), StatusCode::OK);
//!
//! let token = server.last_token().expect("one was issued");
//! let call = || {
//!     Request::get("http://localhost/reports")
//!         .header("authorization", format!("Bearer {token}"))
//!         .body(Full::<bytes::Bytes>::default())
//! };
//! assert_eq!(api.service().oneshot(call()?).await?.status(), StatusCode::OK);
//!
//! server.revoke(&token);
//! assert_eq!(api.service().oneshot(call()?).await?.status(), StatusCode::UNAUTHORIZED);
//!
//! assert_eq!((server.issued(), api.accepted(), api.rejected()), (1, 1, 1));
//! assert_eq!(api.journal()[0].token_number(), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! # Time
//!
//! Delays are tokio's, and tokens expire by a [`ManualClock`] that follows tokio's: under
//! `#[tokio::test(start_paused = true)]` an hour passes in no time. Pause the clock in tests in
//! memory only: tokio moves a paused clock on whenever all tasks wait, and a task that waits for a
//! socket waits, so that timeouts strike while an answer is on its way.
//!
//! # What it does not do
//!
//! No grants but client credentials, no JWT assertions, mutual TLS or DPoP. Its JWTs have no valid
//! signature, it does not check scopes or audiences, and it keeps its whole journal: it is not
//! for load tests that run for hours. It is a stand-in for tests and no authorization server.

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
