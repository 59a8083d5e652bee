//! The layer over real sockets, with hyper-util's client: both versions of HTTP, and the token
//! endpoints of providers.
//!
//! These tests run in real time, but nothing sleeps: they wait for events, with a time limit for
//! each test.

mod connections;
#[cfg(feature = "rustls")]
mod endpoint;
#[cfg(all(feature = "rustls", feature = "testing-tls"))]
mod tls;
mod uploads;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body::Body;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    Builder, Dialect, OAuthClientCredentialsLayer,
    endpoint::preset,
    testing::{AuthorizationServer, Flavor, ProtectedApi},
};

type HttpClient<B> = Client<HttpConnector, B>;

/// A lost wake-up shows as a hang.
async fn limited<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
}

fn http1<B>() -> HttpClient<B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

fn http2<B>() -> HttpClient<B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

/// Creates a layer whose tokens come from `server` in memory, for tests of other parts.
fn layer(server: &AuthorizationServer) -> OAuthClientCredentialsLayer {
    let builder = test_client(server.token_url());
    builder.transport(server.service()).build().unwrap()
}

fn test_client(token_url: impl Into<String>) -> Builder {
    OAuthClientCredentialsLayer::builder()
        .token_url(token_url)
        .client_id("test-client")
        .client_secret("test-secret")
}

#[cfg(feature = "rustls")]
#[tokio::test]
async fn every_flavor_of_token_endpoint_serves_an_api_over_both_versions_of_http() {
    type Configure = fn(Builder) -> Builder;
    let presets: [(Flavor, Configure, u64); 4] = [
        (Flavor::Rfc6749, |builder| builder, 3600),
        (Flavor::Auth0, |b| b.dialect(Dialect::auth0()).audience("https://api"), 86_400),
        (Flavor::Podero, |builder| builder.dialect(preset::podero()), 36_000),
        (Flavor::Dadi, |builder| builder.dialect(preset::dadi()), 1800),
    ];
    limited(async {
        for (flavor, configure, lifetime) in presets {
            let server = AuthorizationServer::builder().flavor(flavor).build();
            let api = ProtectedApi::new(&server);
            let (auth_server, api_server) =
                (server.serve().await.unwrap(), api.serve().await.unwrap());
            let builder = test_client(auth_server.url(server.token_path()));
            let layer = configure(builder).build().unwrap();
            let url = api_server.url("/");
            for (client, version) in [(http1(), Version::HTTP_11), (http2(), Version::HTTP_2)] {
                let response = layer.layer(client).oneshot(get(&url)).await.unwrap();
                assert_eq!((response.status(), response.version()), (StatusCode::OK, version));
            }
            assert_eq!(server.requests(), 1, "{flavor:?}");

            server.revoke_all();
            let response = layer.layer(http1()).oneshot(get(&url)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{flavor:?}");
            assert_eq!((server.issued(), api.rejected()), (2, 1), "{flavor:?}");

            let token = layer.cache().token().await.unwrap();
            let left = token.expires_at().unwrap().elapsed().unwrap_err().duration();
            let lifetime = Duration::from_secs(lifetime);
            assert!(left <= lifetime && left > lifetime - Duration::from_secs(60), "{left:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_under_a_crowd_is_renewed_once_over_both_versions_of_http() {
    limited(async {
        for client in [http1(), http2()] {
            let server = AuthorizationServer::new();
            let api = ProtectedApi::new(&server);
            let running = api.serve().await.unwrap();
            let client = layer(&server).layer(client);
            client.clone().oneshot(get(&running.url("/"))).await.unwrap();

            api.hold();
            let mut calls = JoinSet::new();
            for _ in 0..300 {
                calls.spawn(client.clone().oneshot(get(&running.url("/"))));
            }
            api.held(300).await;
            server.revoke_all();
            api.release();
            while let Some(response) = calls.join_next().await {
                assert_eq!(response.unwrap().unwrap().status(), StatusCode::OK);
            }
            assert_eq!((server.requests(), api.rejected(), api.accepted()), (2, 300, 301));
        }
    })
    .await;
}
