//! The test servers on loopback. These tests use real sockets, so the clock is not paused.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};

use super::*;

type HttpClient = Client<HttpConnector, Full<Bytes>>;

fn http1() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn http2() -> HttpClient {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

fn token_request(running: &RunningServer, server: &AuthorizationServer) -> Request<Full<Bytes>> {
    Request::post(running.url(server.token_path()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(
            "grant_type=client_credentials&client_id=test-client&client_secret=test-secret",
        ))
        .unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let server = AuthorizationServer::new();
    let running = server.serve().await.unwrap();
    for (client, version) in [(http1(), Version::HTTP_11), (http2(), Version::HTTP_2)] {
        let response = client.request(token_request(&running, &server)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        response.into_body().collect().await.unwrap();
    }
    assert_eq!((server.issued(), running.connections()), (2, 2));
}

#[tokio::test]
async fn a_connection_is_kept_and_counted_once() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let running = api.serve().await.unwrap();
    // Without a pool, which might open a second connection before the first is returned.
    let stream = tokio::net::TcpStream::connect(running.addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("/").header("host", "localhost").body(Full::<Bytes>::default());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 401);
        response.into_body().collect().await.unwrap();
        sender.ready().await.unwrap();
    }
    assert_eq!((running.connections(), running.open_connections(), api.calls()), (1, 1, 3));

    drop(sender);
    connection.await.unwrap().unwrap();
    while running.open_connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_is_down_closes_connections_old_and_new() {
    let server = AuthorizationServer::new();
    let running = server.serve().await.unwrap();
    let old = http1();
    old.request(token_request(&running, &server)).await.unwrap().collect().await.unwrap();
    server.down();
    for client in [&old, &http1()] {
        assert!(client.request(token_request(&running, &server)).await.is_err());
    }
    assert!(server.refused_connections() >= 2);
    server.up();
    assert_eq!(old.request(token_request(&running, &server)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_closed_connection_and_a_body_cut_short_are_errors_at_the_client() {
    let server = AuthorizationServer::new();
    let running = server.serve().await.unwrap();
    server.script([Answer::connection_closed(), Answer::html(http::StatusCode::OK).cut_short()]);
    assert!(http1().request(token_request(&running, &server)).await.is_err());
    let response = http1().request(token_request(&running, &server)).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn dropping_the_running_server_closes_its_connections() {
    let server = AuthorizationServer::new();
    let running = server.serve().await.unwrap();
    server.respond_once(Answer::never());
    let request = token_request(&running, &server);
    let waiting = tokio::spawn(async move { http1().request(request).await });
    while server.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let request = token_request(&running, &server);
    drop(running);
    assert!(waiting.await.unwrap().is_err());
    assert!(http1().request(request).await.is_err());
}
