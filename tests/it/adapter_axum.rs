use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::{any, get},
};
use http::{StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    OAuthClientCredentials, TokenCache, TokenError,
    adapter::axum::{UpstreamError, error_for_rejected_token, forward, readiness, strip_response},
    testing::Answer,
};

use crate::adapter_support::{World, failing_stream};

type Http<B> = Client<HttpConnector, B>;

fn http<B>() -> Http<B>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

#[derive(Clone)]
struct Backend {
    upstream: Uri,
    client: OAuthClientCredentials<Http<Body>>,
    cache: TokenCache,
}

async fn proxy(
    State(backend): State<Backend>,
    mut request: Request,
) -> Result<Response, UpstreamError> {
    forward(&mut request, &backend.upstream)?;
    let mut response = backend.client.oneshot(request).await?.map(Body::new);
    strip_response(response.headers_mut());
    Ok(response)
}

/// Starts a reverse proxy on a socket, and returns its URL.
async fn serve(world: &World) -> String {
    serve_with(world, 16).await
}

async fn serve_with(world: &World, replay_limit: usize) -> String {
    let layer = world.builder().replay_limit(replay_limit).build().unwrap();
    let cache = layer.cache();
    let client = ServiceBuilder::new().layer(layer).service(http());
    let backend = Backend { upstream: world.running.url("").parse().unwrap(), client, cache };
    let app = Router::new()
        .route(
            "/readyz",
            get(|State(backend): State<Backend>| async move { readiness(&backend.cache) }),
        )
        .fallback(any(proxy))
        .with_state(backend);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn incoming(url: &str, body: Body) -> Request {
    Request::post(url).body(body).unwrap()
}

#[tokio::test]
async fn an_incoming_request_is_forwarded_without_what_is_the_callers() {
    let world = World::new().await;
    let url = serve(&world).await;
    let mut request = incoming(&format!("{url}/a%20b?c=d"), Body::from("hello"));
    for (name, value) in [
        ("authorization", "Bearer a"),
        ("authorization", "Basic b"),
        ("cookie", "session=1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("x-end-to-end", "1"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let response = http().request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let call = &world.api.journal()[0];
    assert_eq!(
        (call.uri().to_string(), call.body().to_vec()),
        ("/a%20b?c=d".into(), b"hello".to_vec())
    );
    assert!(call.is_authorized());
    assert_eq!(call.headers().get_all(header::AUTHORIZATION).iter().count(), 1);
    assert_eq!(call.headers()[header::HOST], world.running.addr().to_string());
    for gone in ["cookie", "x-hop"] {
        assert!(!call.headers().contains_key(gone));
    }
    assert!(call.headers().contains_key("x-end-to-end"));
}

/// Sends `request` as it is. Returns the first line of the response.
async fn send_raw(url: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = BufReader::new(socket);
    let mut line = String::new();
    response.read_line(&mut line).await.unwrap();
    line
}

/// The announced length was reserved, and a process that cannot have as much memory is aborted.
#[tokio::test]
async fn a_caller_that_announces_more_than_there_is_memory_aborts_no_proxy() {
    let world = World::new().await;
    let url = serve_with(&world, usize::MAX).await;
    let mut socket = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 70368744177664\r\n\r\nabc";
    socket.write_all(head.as_bytes()).await.unwrap();
    // Cut off: what has come so far has passed the layer.
    socket.shutdown().await.unwrap();
    let mut response = String::new();
    let _ended = BufReader::new(socket).read_line(&mut response).await;
    assert!(!response.contains(" 200 "), "{response}");
    let line = send_raw(&url, "GET /after HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    assert_eq!(world.api.journal().last().unwrap().path(), "/after");
}

/// Two servers that disagree on where a request ends take its rest for another caller's request.
#[tokio::test]
async fn a_request_with_two_lengths_is_forwarded_with_one() {
    let world = World::new().await;
    let url = serve(&world).await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: x\r\n\r\n";
    let chunks = format!("3\r\nabc\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    let body = format!("abc{hidden}");
    let length = body.len();
    for (head, rest) in [
        ("content-length: 3\r\ntransfer-encoding: chunked".to_owned(), &chunks),
        ("transfer-encoding: chunked\r\ncontent-length: 3".to_owned(), &chunks),
        ("transfer-encoding: chunked\r\nconnection: transfer-encoding".to_owned(), &chunks),
        (format!("connection: content-length\r\ncontent-length: {length}"), &body),
    ] {
        let before = world.api.calls();
        let request = format!("POST /seen HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{rest}");
        let line = send_raw(&url, &request).await;
        assert!(line.starts_with("HTTP/1.1 200"), "{head}: {line}");
        let journal = &world.api.journal()[before..];
        assert_eq!(journal.len(), 1, "{head}");
        assert_eq!((journal[0].path(), &journal[0].body()[..]), ("/seen", body.as_bytes()));
        let lengths = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        let lengths = lengths.iter().filter(|name| journal[0].headers().contains_key(*name));
        assert_eq!(lengths.count(), 1, "{head}");
    }
}

/// A length of its own is what a chunked request must not have (RFC 9112 section 6.3).
#[test]
fn a_length_beside_a_transfer_encoding_is_not_forwarded() {
    let upstream = Uri::from_static("https://api.example.com");
    let request = |headers: &[(&str, &str)]| {
        let mut request = http::Request::post("/").body(()).unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        forward(&mut request, &upstream).unwrap();
        request
            .headers()
            .get(header::CONTENT_LENGTH)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(request(&[("content-length", "3")]).as_deref(), Some("3"));
    let both = [("content-length", "3"), ("transfer-encoding", "chunked")];
    assert_eq!(request(&both), None);
    let named = [("connection", "transfer-encoding"), both[0], both[1]];
    assert_eq!(request(&named), None);
}

/// The scheme and authority that a caller writes are not those of the upstream.
#[tokio::test]
async fn a_target_that_names_another_host_is_forwarded_to_the_upstream() {
    let world = World::new().await;
    let url = serve(&world).await;
    for (target, seen) in [
        ("http://169.254.169.254/latest?a", "/latest?a"),
        ("//evil.example/x", "//evil.example/x"),
        ("/@evil.example", "/@evil.example"),
    ] {
        let before = world.api.calls();
        let line = send_raw(&url, &format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!(line.starts_with("HTTP/1.1 200"), "{target}: {line}");
        let journal = &world.api.journal()[before..];
        assert_eq!(journal.len(), 1);
        assert_eq!(journal[0].uri().to_string(), seen);
        assert_eq!(journal[0].headers()[header::HOST], world.running.addr().to_string());
    }
}

/// A body that arrives from a socket is a stream.
#[tokio::test]
async fn a_forwarded_body_is_replayed_up_to_the_limit() {
    let world = World::new().await;
    let url = serve(&world).await;
    for (body, status) in [("0123456789abcdef", 200), ("0123456789abcdefg", 401)] {
        http().request(incoming(&url, Body::empty())).await.unwrap();
        world.server.revoke_all();
        let before = world.api.calls();
        let response = http().request(incoming(&url, Body::from(body))).await.unwrap();
        assert_eq!(response.status(), status);
        let calls = &world.api.journal()[before..];
        assert_eq!(calls.len(), if status == 200 { 2 } else { 1 });
        assert!(calls.iter().all(|call| call.body() == body));
    }
}

#[tokio::test]
async fn a_caller_that_breaks_off_is_a_502_and_nothing_is_sent_twice() {
    let world = World::new().await;
    let url = serve(&world).await;
    http().request(incoming(&url, Body::empty())).await.unwrap();
    world.server.revoke_all();
    // The caller's connection ends with its body, so the caller does not see the 502.
    assert!(http().request(incoming(&url, Body::new(failing_stream()))).await.is_err());
    let layer = world.layer();
    let client = ServiceBuilder::new().layer(layer).service(http());
    let error = client.oneshot(incoming(&world.running.url("/"), Body::new(failing_stream())));
    let response =
        axum::response::IntoResponse::into_response(UpstreamError::from(error.await.unwrap_err()));
    assert_eq!((response.status(), world.api.calls()), (StatusCode::BAD_GATEWAY, 1));
}

#[tokio::test]
async fn a_failure_to_get_a_token_is_502_or_503_without_details() {
    for (answer, status, retry_after) in
        [(Answer::invalid_client(), 502, None), (Answer::too_many_requests("42"), 503, Some("42"))]
    {
        let world = World::new().await;
        let url = serve(&world).await;
        world.server.respond_once(answer);
        let response = http().request(incoming(&url, Body::empty())).await.unwrap();
        assert_eq!(response.status(), status);
        let header = response.headers().get(header::RETRY_AFTER);
        assert_eq!(header.map(|value| value.to_str().unwrap()), retry_after);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(["Bad Gateway", "Service Unavailable"].iter().any(|text| body == text));
        let ready =
            http().request(Request::get(format!("{url}/readyz")).body(Body::empty()).unwrap());
        assert_eq!(ready.await.unwrap().status(), 503);
    }
}

/// Calls a backend whose only handler is `handle`. Returns the status and `Retry-After` of its
/// response.
#[cfg(any(feature = "reqwest-middleware", feature = "tonic"))]
async fn answer_of<H, T>(handle: H) -> (u16, Option<String>)
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    let backend = Router::new().route("/", get(handle));
    let response = backend.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    status_and_retry_after(&response)
}

fn status_and_retry_after(response: &Response) -> (u16, Option<String>) {
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), retry_after)
}

/// Guards against a 502 for any error that is not the outermost one.
#[cfg(feature = "reqwest-middleware")]
#[tokio::test]
async fn a_token_error_behind_reqwest_middlewares_error_is_the_same_503() {
    use reqwest_middleware::ClientBuilder;
    use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
    use tower_oauth2_client_credentials::adapter::reqwest_middleware::OAuthMiddleware;

    for retries in [false, true] {
        let world = World::new().await;
        let mut client = ClientBuilder::new(reqwest::Client::new());
        if retries {
            let policy = ExponentialBackoff::builder().build_with_max_retries(1);
            client = client.with(RetryTransientMiddleware::new_with_policy(policy));
        }
        let client = client.with(OAuthMiddleware::from(world.layer())).build();
        let call = |url: String| {
            let client = client.clone();
            answer_of(move || async move {
                Ok::<_, UpstreamError>(client.get(url).send().await?.text().await?)
            })
        };
        world.server.respond_once(Answer::too_many_requests("42"));
        assert_eq!(call(world.running.url("/")).await, (503, Some("42".into())));
        // Another error is inside.
        assert_eq!(call("http://".into()).await, (502, None));
    }
}

#[cfg(feature = "reqwest-middleware")]
#[tokio::test]
async fn a_rejection_behind_reqwest_middleware_is_one_of_ours_as_well() {
    use tower_oauth2_client_credentials::adapter::reqwest_middleware::OAuthMiddleware;

    let world = World::new().await;
    world.api.reject_everything();
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(OAuthMiddleware::from(world.layer()))
        .build();
    let response = client.get(world.running.url("/")).send().await.unwrap();
    let error = error_for_rejected_token(http::Response::from(response)).unwrap_err();
    assert!(error.not_replaced().unwrap().is_futile());
}

/// Guards against a plain 502 for gRPC, where the error is inside a status.
#[cfg(feature = "tonic")]
#[tokio::test]
async fn a_token_error_in_a_grpc_status_is_the_same_503() {
    use tonic::transport::Endpoint;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tower_oauth2_client_credentials::adapter::tonic::StatusLayer;

    // With a token but without a server, the status is `UNAVAILABLE` as well, but not because of
    // the token.
    for (with_status, has_token, answer) in [
        (true, false, (503, Some("42".to_owned()))),
        (false, false, (503, Some("42".to_owned()))),
        (true, true, (502, None)),
        (false, true, (502, None)),
    ] {
        let world = World::new().await;
        let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let channel = ServiceBuilder::new()
            .option_layer(with_status.then(StatusLayer::new))
            .layer(world.layer())
            .service(nowhere);
        if !has_token {
            world.server.respond_once(Answer::too_many_requests("42"));
        }
        let mut client = HealthClient::new(channel);
        let handler = move || async move {
            client.check(HealthCheckRequest::default()).await?;
            Ok::<_, UpstreamError>(())
        };
        assert_eq!(answer_of(handler).await, answer, "{with_status} {has_token}");
        assert_eq!(world.server.issued(), u64::from(has_token));
    }
}

/// Guards against a browser application that logs its user out because the backend's token was
/// rejected.
#[tokio::test]
async fn a_rejection_that_was_not_cured_is_not_the_callers_to_answer() {
    let unauthorized = || Answer::status(StatusCode::UNAUTHORIZED);
    let in_a_minute = Some("60");
    for (what, status, retry_after) in [
        ("no newer token for a while", 503, in_a_minute),
        ("no newer token before somebody acts", 502, None),
        ("not replayable: the next call has a newer one", 503, Some("1")),
        ("rejected after the replay as well", 502, None),
    ] {
        let world = World::new().await;
        let layer = world.builder().replay_limit(4).build().unwrap();
        layer.cache().token().await.unwrap();
        world.api.respond_once(unauthorized());
        let mut body = "";
        match what {
            "no newer token for a while" => {
                world.server.respond_once(Answer::too_many_requests("60"));
            }
            "no newer token before somebody acts" => {
                world.server.change_secret("test-client", "another");
            }
            "not replayable: the next call has a newer one" => body = "too long",
            _ => world.api.respond_once(unauthorized()),
        }
        let client = ServiceBuilder::new().layer(layer).service(http());
        let request = incoming(&world.running.url("/"), Body::from(body));
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 401, "{what}");
        let error = error_for_rejected_token(response).unwrap_err();
        assert!(error.not_replaced().is_some(), "{what}");
        let refused = retry_after == in_a_minute || what.contains("somebody");
        assert_eq!(error.token_error().is_some(), refused, "{what}");
        let response = axum::response::IntoResponse::into_response(error);
        assert_eq!(
            status_and_retry_after(&response),
            (status, retry_after.map(str::to_owned)),
            "{what}"
        );
        assert!(!response.headers().contains_key(header::WWW_AUTHENTICATE), "{what}");
    }
}

#[tokio::test]
async fn while_no_newer_token_is_asked_for_the_caller_is_told_until_when() {
    let world = World::new().await;
    world.api.reject_everything();
    let client = ServiceBuilder::new().layer(world.layer()).service(http());
    let error = async || {
        let request = incoming(&world.running.url("/"), Body::empty());
        error_for_rejected_token(client.clone().oneshot(request).await.unwrap()).unwrap_err()
    };
    assert!(error().await.not_replaced().unwrap().is_futile());
    let error = error().await;
    assert!(error.not_replaced().unwrap().is_cooling_down());
    let (status, retry_after) =
        status_and_retry_after(&axum::response::IntoResponse::into_response(error));
    assert_eq!(status, 503);
    assert!(retry_after.unwrap().parse::<u64>().unwrap() > 1);
}

/// A response that the settings treat as a rejection is one, whatever its status.
#[tokio::test]
async fn a_403_that_means_rejected_is_not_the_callers_to_answer_either() {
    let world = World::new().await;
    let layer = world.builder().forbidden_means_rejected().build().unwrap();
    let client = ServiceBuilder::new().layer(layer).service(http());
    let forbidden = || Answer::status(StatusCode::FORBIDDEN);
    world.api.respond_once(forbidden());
    world.api.respond_once(forbidden());
    let request = incoming(&world.running.url("/"), Body::empty());
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 403);
    let error = error_for_rejected_token(response).unwrap_err();
    assert!(error.not_replaced().unwrap().is_futile());
}

#[tokio::test]
async fn a_response_that_does_not_reject_our_token_passes() {
    let world = World::new().await;
    let client = ServiceBuilder::new().layer(world.layer()).service(http());
    for (what, answer) in [
        ("accepted", Answer::as_usual()),
        ("too little scope", Answer::challenge(r#"Bearer error="insufficient_scope""#)),
        ("proof of possession", Answer::challenge(r#"DPoP algs="ES256""#)),
        ("forbidden", Answer::status(StatusCode::FORBIDDEN)),
        ("broken", Answer::status(StatusCode::INTERNAL_SERVER_ERROR)),
        ("the caller's own token", Answer::challenge("Bearer")),
    ] {
        world.api.respond_once(answer);
        let mut request = incoming(&world.running.url("/"), Body::empty());
        if what == "the caller's own token" {
            request.headers_mut().insert("authorization", "Bearer mine".parse().unwrap());
        }
        let response = client.clone().oneshot(request).await.unwrap();
        let before = (response.status(), response.headers().clone());
        let response = error_for_rejected_token(response).unwrap();
        assert_eq!((response.status(), response.headers().clone()), before, "{what}");
        assert!(response.into_body().collect().await.is_ok());
    }
    assert_eq!(world.server.issued(), 1);
}

#[tokio::test]
async fn readiness_starts_the_renewal_that_it_waits_for() {
    let world = World::new().await;
    let cache = world.layer().cache();
    assert_eq!(readiness(&cache), StatusCode::OK, "never tried");
    cache.token().await.unwrap();
    assert_eq!((readiness(&cache), world.server.requests()), (StatusCode::OK, 1));

    let clock = tower_oauth2_client_credentials::testing::ManualClock::new();
    let cache = world.builder().clock(clock.clone()).build().unwrap().cache();
    world.server.respond_once(Answer::invalid_client());
    let error: TokenError = cache.token().await.unwrap_err();
    assert!(error.is_rejected());
    assert_eq!((readiness(&cache), world.server.requests()), (StatusCode::SERVICE_UNAVAILABLE, 2));
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    tokio::time::resume();
    // Only the probe calls it.
    assert_eq!(readiness(&cache), StatusCode::SERVICE_UNAVAILABLE);
    while cache.issued() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(readiness(&cache), StatusCode::OK);
}
