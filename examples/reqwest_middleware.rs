//! A reqwest-middleware chain: retries outside, then the token, then tracing.
//!
//! Runs against its own servers on loopback: `cargo run --example reqwest_middleware --features
//! reqwest-middleware,testing`
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::TracingMiddleware;
use tower_oauth2_client_credentials::{
    BoxError, OAuthClientCredentialsLayer,
    adapter::reqwest_middleware::{OAuthMiddleware, token_error},
    testing::{Answer, AuthorizationServer, ProtectedApi},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let (token_endpoint, running) = (server.serve().await?, api.serve().await?);

    let builder = || {
        OAuthClientCredentialsLayer::builder()
            .token_url(token_endpoint.url(server.token_path()))
            .client_id("test-client")
            .client_secret("test-secret")
    };
    let chain = |auth: OAuthClientCredentialsLayer| {
        let policy = ExponentialBackoff::builder().build_with_max_retries(2);
        ClientBuilder::new(reqwest::Client::new())
            .with(RetryTransientMiddleware::new_with_policy(policy))
            .with(OAuthMiddleware::from(auth))
            .with(TracingMiddleware::default())
            .build()
    };
    let client = chain(builder().build()?);

    client.get(running.url("/")).send().await?.error_for_status()?;
    server.revoke_all();
    // A 503, then a 401: the former is retried outside the layer, the latter handled inside.
    api.respond_once(Answer::unavailable());
    let response = client.get(running.url("/")).send().await?.error_for_status()?;
    println!("{} {}", response.status(), response.text().await?);

    server.change_secret("test-client", "another secret");
    let Err(error) = chain(builder().build()?).get(running.url("/")).send().await else {
        return Err("there is a response although no token is available".into());
    };
    let why = token_error(&error).ok_or("the error does not say that it is about the token")?;
    println!("without a token: {why}");

    let (issued, requests, calls) = (server.issued(), server.requests(), api.calls());
    println!("{issued} tokens issued by {requests} token requests, {calls} calls of the API");
    if (issued, requests, calls, why.is_rejected()) != (2, 3, 4, true) {
        return Err("expected 2 tokens by 3 requests, 4 calls, and a refused client".into());
    }
    Ok(())
}
