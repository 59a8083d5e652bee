//! A generated gRPC client over a channel with the layer, against a server that checks tokens.
//!
//! Runs against its own servers on loopback: `cargo run --example tonic --features tonic,testing`
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceBuilder;
use tower_oauth2_client_credentials::{
    BoxError, OAuthClientCredentialsLayer,
    adapter::tonic::{StatusLayer, TokenInterceptor},
    testing::AuthorizationServer,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = AuthorizationServer::new();
    let token_endpoint = server.serve().await?;

    // A gRPC server that accepts only the last issued token.
    let refused = Arc::new(AtomicU32::new(0));
    let check = {
        let (server, refused) = (server.clone(), Arc::clone(&refused));
        move |request: Request<()>| {
            let line = server.last_token().map(|token| format!("Bearer {token}"));
            let shown = request.metadata().get("authorization").and_then(|line| line.to_str().ok());
            if shown == line.as_deref() {
                return Ok(request);
            }
            refused.fetch_add(1, Ordering::SeqCst);
            Err(Status::unauthenticated("not the token of the day"))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", listener.local_addr()?))?;
    let (_, health) = tonic_health::server::health_reporter();
    let service = InterceptedService::new(health, check);
    tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)),
    );

    let builder = || {
        OAuthClientCredentialsLayer::builder()
            .token_url(token_endpoint.url(server.token_path()))
            .client_id("test-client")
            .client_secret("test-secret")
    };
    let auth = builder().build()?;
    let channel = endpoint.connect_lazy();
    let stack = ServiceBuilder::new().layer(StatusLayer::new()).layer(&auth);
    let mut client = HealthClient::new(stack.service(channel.clone()));

    let answer = client.check(HealthCheckRequest::default()).await?;
    println!("status {}", answer.into_inner().status);
    // Another client has fetched a token, and the server has forgotten the cached one.
    builder().build()?.cache().token().await?;
    let answer = client.check(HealthCheckRequest::default()).await?;
    println!("status {} after UNAUTHENTICATED and one replay", answer.into_inner().status);

    // The same token with an interceptor.
    let interceptor = TokenInterceptor::new(auth.cache());
    let mut intercepted = HealthClient::with_interceptor(channel.clone(), interceptor);
    intercepted.check(HealthCheckRequest::default()).await?;

    server.change_secret("test-client", "another secret");
    let stack = ServiceBuilder::new().layer(StatusLayer::new()).layer(builder().build()?);
    let mut refused_client = HealthClient::new(stack.service(channel));
    let Err(status) = refused_client.check(HealthCheckRequest::default()).await else {
        return Err("there is a response although no token is available".into());
    };
    println!("without a token: {status}");

    let figures = (server.issued(), refused.load(Ordering::SeqCst), status.code());
    if figures != (3, 1, Code::Unauthenticated) {
        return Err(format!("expected 3 tokens and 1 refusal, not {figures:?}").into());
    }
    Ok(())
}
