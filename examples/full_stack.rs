//! A complete stack around the layer, in the order that the page `layer_order` of the documentation
//! explains.
//!
//! Runs against its own servers on loopback: `cargo run --example full_stack --features testing`
#![allow(clippy::print_stdout, reason = "a program that says what it does")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{BoxError, ServiceBuilder, ServiceExt, retry::Policy, timeout::TimeoutLayer};
use tower_http::{
    compression::CompressionLayer, decompression::DecompressionLayer,
    follow_redirect::FollowRedirectLayer, trace::TraceLayer,
};
use tower_oauth2_client_credentials::{OAuthClientCredentialsLayer, testing::AuthorizationServer};

/// Retries twice after a 503.
#[derive(Clone)]
struct Twice(u32);

impl<B> Policy<Request<Empty<Bytes>>, Response<B>, BoxError> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Empty<Bytes>>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Self::Future> {
        let unavailable =
            result.as_ref().is_ok_and(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE);
        if !unavailable || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Empty<Bytes>>) -> Option<Request<Empty<Bytes>>> {
        Some(request.clone())
    }
}

/// An upstream that redirects, fails, forgets tokens, and compresses its responses.
#[derive(Clone, Default)]
struct Upstream {
    calls: Arc<AtomicU32>,
    with_token: Arc<AtomicU32>,
}

impl Upstream {
    async fn answer(self, server: AuthorizationServer, headers: HeaderMap) -> (StatusCode, String) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let current = server.last_token().map(|token| format!("Bearer {token}"));
        let shown = headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
        if shown != current.as_deref() {
            return (StatusCode::UNAUTHORIZED, "who are you?".into());
        }
        self.with_token.fetch_add(1, Ordering::SeqCst);
        match call {
            // The first request was redirected.
            1 => (StatusCode::SERVICE_UNAVAILABLE, "in a moment".into()),
            2 => (StatusCode::UNAUTHORIZED, "that token is gone".into()),
            _ => (StatusCode::OK, "report ".repeat(1000)),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stdout).init();
    let server = AuthorizationServer::new();
    let token_endpoint = server.serve().await?;
    let (upstream, issuing) = (Upstream::default(), server.clone());
    let counters = upstream.clone();
    let app = Router::new()
        .route("/old", get(|| async { (StatusCode::FOUND, [("location", "/new")]) }))
        .route("/new", get(move |headers| upstream.clone().answer(issuing.clone(), headers)))
        .layer(CompressionLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/old", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let auth = OAuthClientCredentialsLayer::builder()
        .token_url(token_endpoint.url(server.token_path()))
        .client_id("test-client")
        .client_secret("test-secret")
        .build()?;
    let client = ServiceBuilder::new()
        // One span per call.
        .layer(TraceLayer::new_for_http())
        // Timeout of the whole call, including the wait for a token and all attempts.
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        // Each hop is a separate request, admitted by its own origin.
        .layer(FollowRedirectLayer::new())
        // The layer reads a rejected response to its end, and does not need it decompressed.
        .layer(DecompressionLayer::new())
        // Every attempt fetches the token from the cache. The policy does not retry a 401, which
        // the layer handles below.
        .retry(Twice(2))
        .layer(auth)
        // Requests on the wire hold a permit; requests that wait for a token do not.
        .concurrency_limit(8)
        // Timeout of one request: an attempt that hangs is given up.
        .layer(TimeoutLayer::new(Duration::from_secs(10)))
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    let response = client.oneshot(Request::get(&url).body(Empty::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let calls = counters.calls.load(Ordering::SeqCst);
    let with_token = counters.with_token.load(Ordering::SeqCst);
    println!("{status}: {} bytes after {calls} calls, {} tokens", body.len(), server.issued());
    // A redirect, a 503, a retry that gets a 401, and its replay with a newer token.
    if (status.as_u16(), body.len(), calls, with_token, server.issued()) != (200, 7000, 3, 3, 2) {
        return Err("expected 200, 7,000 bytes, 3 calls with the current token, 2 tokens".into());
    }
    Ok(())
}
