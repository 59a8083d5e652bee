use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use http::{Extensions, StatusCode, header};
use reqwest::{Body, Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error, Middleware, Next};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::TracingMiddleware;
use tower_oauth2_client_credentials::{
    NotReplaced,
    adapter::reqwest_middleware::{OAuthMiddleware, token_error},
    testing::Answer,
};

use crate::adapter_support::{World, failing_stream};

fn client(world: &World) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new()).with(OAuthMiddleware::from(world.layer())).build()
}

/// Counts requests, and stores the count in the extensions for the next middleware.
#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl Count {
    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Passed(u32);

#[async_trait::async_trait]
impl Middleware for Count {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response, Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let before = extensions.get::<Passed>().map_or(0, |passed| passed.0);
        extensions.insert(Passed(before + 1));
        next.run(request, extensions).await
    }
}

fn retrying() -> RetryTransientMiddleware<ExponentialBackoff> {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(std::time::Duration::ZERO, std::time::Duration::from_millis(1))
        .build_with_max_retries(2);
    RetryTransientMiddleware::new_with_policy(policy)
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_the_response_is_reqwests_own() {
    let world = World::new().await;
    let layer = world.layer();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(OAuthMiddleware::from(layer.clone()))
        .build();
    let url = world.running.url("/reports?q=1");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    world.server.revoke_all();
    let response = client.post(&url).body("hello").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.url().as_str()), (200, &*url));
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert!(response.remote_addr().is_some());
    assert_eq!(response.text().await.unwrap(), r#"{"accepted":2}"#);
    assert_eq!(world.tokens(), [Some(1), Some(1), Some(2)]);
    assert_eq!(world.api.journal()[2].body(), "hello");
    assert_eq!(layer.cache().issued(), 2, "the layer has the same token");
    assert_eq!(world.running.connections(), 1);
}

#[tokio::test]
async fn a_request_that_cannot_be_cloned_passes_and_is_not_replayed() {
    let world = World::new().await;
    let client = client(&world);
    let url = world.running.url("/");
    let streaming = || {
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"hello"));
        client.post(&url).body(Body::wrap(body))
    };
    assert_eq!(streaming().send().await.unwrap().status(), 200);
    world.server.revoke_all();
    // So that the next call waits for the renewal; a stream could not be replayed either.
    world.api.reject_with(Answer::challenge(r#"Bearer error="invalid_token""#));
    let response = streaming().send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
    assert_eq!(streaming().send().await.unwrap().status(), 200);
    assert_eq!(world.tokens(), [Some(1), Some(1), Some(2)]);

    world.server.revoke_all();
    let error = client.post(&url).body(Body::wrap(failing_stream())).send().await.unwrap_err();
    assert!(error.is_request() || error.is_body(), "{error}");
    assert_eq!((world.api.calls(), world.server.issued()), (3, 2));
}

/// With retries outside, the second attempt uses the token that was renewed after the first.
#[tokio::test]
async fn every_attempt_of_an_outer_retry_asks_for_the_token_again() {
    let world = World::new().await;
    let (outer, inner) = (Count::default(), Count::default());
    let layer = world.layer();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(retrying())
        .with(outer.clone())
        .with(OAuthMiddleware::from(layer.clone()))
        .with(inner.clone())
        .build();
    // A 503, then a 401 to a token that was revoked meanwhile, followed by a replay that gets a
    // 503.
    world.api.respond_once(Answer::unavailable());
    world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
    world.api.respond_once(Answer::unavailable());
    assert_eq!(client.get(world.running.url("/")).send().await.unwrap().status(), 200);
    assert_eq!(world.tokens(), [Some(1), Some(1), Some(2), Some(2)]);
    assert_eq!((outer.count(), inner.count()), (3, 4));
}

#[tokio::test]
async fn a_retry_inside_repeats_what_it_got_and_a_401_is_cured_all_the_same() {
    let world = World::new().await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(OAuthMiddleware::from(world.layer()))
        .with(retrying())
        .build();
    world.api.respond_once(Answer::unavailable());
    world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
    assert_eq!(client.get(world.running.url("/")).send().await.unwrap().status(), 200);
    assert_eq!(world.tokens(), [Some(1), Some(1), Some(2)]);
}

/// The renewal has already made its attempts.
#[tokio::test]
async fn a_failure_to_get_a_token_is_a_middleware_error_that_is_not_retried() {
    let world = World::new().await;
    world.server.change_secret("test-client", "another");
    let count = Count::default();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(retrying())
        .with(count.clone())
        .with(OAuthMiddleware::from(world.layer()))
        .build();
    let error = client.get(world.running.url("/")).send().await.unwrap_err();
    assert!(error.is_middleware());
    assert!(token_error(&error).unwrap().is_rejected());
    assert_eq!((count.count(), world.server.requests(), world.api.calls()), (1, 1, 0));
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tracing_outside_has_a_span_for_the_call_and_inside_one_for_each_request() {
    for (outside, spans) in [(true, 1), (false, 2)] {
        let world = World::new().await;
        let auth = OAuthMiddleware::from(world.layer());
        let builder = ClientBuilder::new(reqwest::Client::new());
        let client = if outside {
            builder.with(TracingMiddleware::default()).with(auth).build()
        } else {
            builder.with(auth).with(TracingMiddleware::default()).build()
        };
        world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));

        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::NEW)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        assert_eq!(client.get(world.running.url("/")).send().await.unwrap().status(), 200);
        drop(guard);

        let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.matches("reqwest_otel_span_builder: new").count(), spans, "{log}");
        assert!(!log.contains(&world.server.last_token().unwrap()), "{log}");
    }
}

/// The layer calls the inner middlewares twice, and both calls see the extensions set before.
#[tokio::test]
async fn the_extensions_go_down_and_come_back_up() {
    let world = World::new().await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(OAuthMiddleware::from(world.layer()))
        .with(Count::default())
        .build();
    world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
    let request = client.get(world.running.url("/")).build().unwrap();
    let mut extensions = Extensions::new();
    extensions.insert("mine");
    let response = client.execute_with_extensions(request, &mut extensions).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(extensions.get(), Some(&Passed(2)));
    assert_eq!(extensions.get(), Some(&"mine"));

    world.api.hold();
    let request = client.get(world.running.url("/")).build().unwrap();
    tokio::select! {
        _ = client.execute_with_extensions(request, &mut extensions) => unreachable!("held"),
        () = world.api.held(1) => {}
    }
    assert_eq!(extensions.get(), Some(&Passed(3)), "given up half-way");
}

#[tokio::test]
async fn a_401_of_another_origin_after_a_redirect_rejects_no_token() {
    let (world, elsewhere) = (World::new().await, World::new().await);
    let client = client(&world);
    world.api.respond_once(
        Answer::status(StatusCode::TEMPORARY_REDIRECT)
            .with_header("location", &elsewhere.running.url("/file")),
    );
    let response = client.get(world.running.url("/")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.url().path()), (401, "/file"));
    assert_eq!((elsewhere.tokens(), world.server.issued()), (vec![None], 1));
}

#[tokio::test]
async fn a_post_is_not_repeated_after_a_redirect_to_its_own_url() {
    let world = World::new().await;
    let client = client(&world);
    let url = world.running.url("/orders");
    for status in [StatusCode::SEE_OTHER, StatusCode::TEMPORARY_REDIRECT] {
        let before = world.api.calls();
        world.api.respond_once(Answer::status(status).with_header("location", &url));
        world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
        let response = client.post(&url).body("one").send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
        assert_eq!(world.api.calls() - before, 2);
    }
}

#[tokio::test]
async fn odd_targets_are_sent_refused_or_named() {
    let world = World::new().await;
    let layer = world.builder().allowed_origin("https://xn--bcher-kva.example").build().unwrap();
    let client = ClientBuilder::new(reqwest::Client::new()).with(OAuthMiddleware::from(layer));
    let client = client.with(Answering).build();
    // reqwest writes international names in their DNS form, which the layer compares.
    let response = client.get("https://bücher.example:443/").send().await.unwrap();
    assert_eq!(response.headers()["x-token"], "Bearer");
    let refused = client.get("https://bücher.example.com/").send().await.unwrap_err();
    let refused = token_error(&refused).unwrap().to_string();
    assert!(refused.contains("allowed origins"), "{refused}");
    // reqwest turns this into an `Authorization` header, which belongs to the caller.
    let basic = client.get("https://user:pass@bücher.example/").send().await.unwrap();
    assert_eq!(basic.headers()["x-token"], "Basic");
    assert!(client.get("/relative").send().await.unwrap_err().is_builder());
    let no_authority = client.get("data:text/plain,hello").send().await.unwrap_err();
    assert!(no_authority.is_builder() || no_authority.is_middleware(), "{no_authority}");
}

/// Returns the authorization scheme of a request instead of sending it.
struct Answering;

#[async_trait::async_trait]
impl Middleware for Answering {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> Result<Response, Error> {
        let line = request.headers().get(header::AUTHORIZATION).map(|line| line.to_str().unwrap());
        let scheme = line.and_then(|line| line.split(' ').next()).unwrap_or("none").to_owned();
        let response = http::Response::builder().header("x-token", scheme);
        Ok(response.body("").unwrap().into())
    }
}

/// gRPC reports in a header of a 200 over HTTP/2 what other protocols report by a 401: the layer
/// must know the HTTP version.
#[tokio::test]
async fn a_call_that_grpc_does_not_authenticate_is_repeated() {
    /// Sends this response once, and counts requests.
    struct Grpc(Arc<AtomicU32>);

    #[async_trait::async_trait]
    impl Middleware for Grpc {
        async fn handle(
            &self,
            request: Request,
            _: &mut Extensions,
            _: Next<'_>,
        ) -> Result<Response, Error> {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            let response = http::Response::builder()
                .version(http::Version::HTTP_2)
                .header("grpc-status", if first { "16" } else { "0" });
            let response = reqwest::ResponseBuilderExt::url(response, request.url().clone());
            Ok(response.body("").unwrap().into())
        }
    }

    let world = World::new().await;
    let calls = Arc::default();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(OAuthMiddleware::from(world.layer()))
        .with(Grpc(Arc::clone(&calls)))
        .build();
    let response = client.get(world.running.url("/")).send().await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "0");
    assert_eq!((calls.load(Ordering::SeqCst), world.server.issued()), (2, 2));
}
