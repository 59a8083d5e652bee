//! Moves the settings of an `oauth2::Client` to the layer, and uses the layer's transport for the
//! client's other grants.
//!
//! Runs against its own servers on loopback: `cargo run --example oauth2 --features oauth2,testing`
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use oauth2::{ClientId, ClientSecret, Scope, TokenResponse, TokenUrl, basic::BasicClient};
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError,
    adapter::oauth2::{HttpClient, builder},
    endpoint::RustlsTransport,
    testing::{AuthorizationServer, ProtectedApi},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let (token_endpoint, running) = (server.serve().await?, api.serve().await?);

    // The existing code of the program.
    let client = BasicClient::new(ClientId::new("test-client".into()))
        .set_client_secret(ClientSecret::new("test-secret".into()))
        .set_token_uri(TokenUrl::new(token_endpoint.url(server.token_path()))?);
    let request = || {
        let scope = Scope::new("read:reports".into());
        client.exchange_client_credentials().add_scope(scope).add_extra_param("audience", "reports")
    };

    // A call of the oauth2 crate, over the layer's transport.
    let http_client = HttpClient::new(Arc::new(RustlsTransport::new()));
    let token = request().request_async(&http_client).await?;
    let lifetime = token.expires_in().unwrap_or_default();
    println!("the oauth2 crate has a token that lives for {} seconds", lifetime.as_secs());

    // A layer with the same settings.
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = ServiceBuilder::new().layer(builder(request()).build()?).service(http);
    for _ in 0..2 {
        let call = http::Request::get(running.url("/reports")).body(Empty::new())?;
        println!("{}", client.clone().oneshot(call).await?.status());
    }

    let journal = server.journal();
    let [by_client, by_layer] = &*journal else {
        return Err(format!("expected 2 token requests, not {}", journal.len()).into());
    };
    if (by_client.body(), by_client.basic()) != (by_layer.body(), by_layer.basic())
        || api.accepted() != 2
    {
        return Err("the two token requests are not the same".into());
    }
    println!("both token requests: {}", String::from_utf8_lossy(by_layer.body()));
    Ok(())
}
