//! reqwest as the service below the layer, and as the transport of token requests.
//!
//! Runs against its own servers on loopback: `cargo run --example reqwest --features
//! reqwest,testing`
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use std::time::Duration;

use tower::{Service, ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, OAuthClientCredentialsLayer,
    adapter::reqwest::{ReqwestService, ReqwestTransport},
    testing::{AuthorizationServer, ProtectedApi},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let (token_endpoint, running) = (server.serve().await?, api.serve().await?);

    let transport = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
    let auth = OAuthClientCredentialsLayer::builder()
        .token_url(token_endpoint.url(server.token_path()))
        .client_id("test-client")
        .client_secret("test-secret")
        .transport(ReqwestTransport::new(transport)?)
        .build()?;
    let http = reqwest::Client::new();
    let mut client = ServiceBuilder::new().layer(auth).service(ReqwestService::new(http.clone()));

    for round in 1..=3 {
        let request = http.post(running.url("/reports")).timeout(Duration::from_secs(5));
        let request = request.body(format!("report {round}")).build()?;
        let response = client.ready().await?.call(request.try_into()?).await?;
        let response = reqwest::Response::from(response);
        println!("{} {}", response.status(), response.text().await?);
        // The next request gets a 401, which the caller never sees.
        server.revoke_all();
    }

    let (issued, accepted, rejected) = (server.issued(), api.accepted(), api.rejected());
    println!("{issued} tokens issued, {accepted} calls accepted, {rejected} rejected and repeated");
    if (issued, accepted, rejected) != (3, 3, 2) {
        return Err("expected 3 tokens, 3 calls accepted, 2 rejected".into());
    }
    Ok(())
}
