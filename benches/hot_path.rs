//! What the layer costs a request whose token is at hand, in instructions and allocations, beside
//! the bare service and tower's own layers: `cargo bench --bench hot_path --features testing`.
//!
//! Instructions are counted by callgrind, as the difference between a long and a short run of the
//! same loop, so they repeat. The figures are held to limits: a change that adds an allocation, or
//! five per cent of instructions, is to fail. (The first limit is not reached yet.)
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that measures and prints"
)]

use std::{
    alloc::System,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    process::{Command, ExitCode},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    retry::{Policy, RetryLayer},
};
use tower_http::auth::AddAuthorizationLayer;
use tower_oauth2_client_credentials::{
    OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Body = Full<Bytes>;

/// What is compared. The first is what all others are held against.
const VARIANTS: [&str; 8] = [
    "bare",
    "add-authorization",
    "watch",
    "retry",
    "replay",
    "oneshot-bare",
    "oneshot-retry",
    "oneshot-replay",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", variant, rounds] => {
            run(variant, rounds.parse().unwrap_or(0));
            ExitCode::SUCCESS
        }
        _ => report(),
    }
}

/// One line of the report.
struct Row {
    instructions: i64,
    allocations: i64,
}

fn report() -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed: `apt-get install valgrind`");
        return ExitCode::FAILURE;
    }
    println!("{:<20} {:>12} {:>12}", "over the bare service", "instructions", "allocations");
    let mut rows = std::collections::BTreeMap::new();
    for variant in VARIANTS {
        let row = Row { instructions: instructions(variant), allocations: allocations(variant) };
        let base: &Row =
            match rows.get(if variant.starts_with("oneshot") { "oneshot-bare" } else { "bare" }) {
                Some(base) => base,
                None => &Row { instructions: 0, allocations: 0 },
            };
        println!(
            "{variant:<20} {:>12} {:>12}",
            row.instructions - base.instructions,
            row.allocations - base.allocations
        );
        rows.insert(variant, row);
    }
    let over = |variant: &str, base: &str| {
        (
            rows[variant].instructions - rows[base].instructions,
            rows[variant].allocations - rows[base].allocations,
        )
    };
    let (fixed, _) = over("add-authorization", "bare");
    let (watch, watch_allocations) = over("watch", "bare");
    let (retry, retry_allocations) = over("retry", "bare");
    let (replay, replay_allocations) = over("replay", "bare");
    let (oneshot, oneshot_allocations) = over("oneshot-replay", "oneshot-bare");

    let mut failed = false;
    let mut hold = |what: &str, value: i64, limit: i64| {
        let holds = value <= limit;
        failed |= !holds;
        println!("{} {what}: {value}, at most {limit}", if holds { "ok  " } else { "FAIL" });
    };
    println!();
    hold("watch, instructions, 1.25 x add-authorization", watch, fixed * 5 / 4);
    hold("watch, allocations", watch_allocations, 0);
    hold("replay, instructions, 1.00 x tower's retry", replay, retry);
    hold("replay, allocations, as tower's retry", replay_allocations, retry_allocations);
    hold("oneshot replay, instructions, 1.15 x replay", oneshot, replay * 23 / 20);
    hold("oneshot replay, allocations", oneshot_allocations, replay_allocations);
    hold("watch, bytes of the future over the inner one", sizes().0, 16);
    hold("replay, bytes of the future, as tower's retry", sizes().1, sizes().2);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Instructions for one request: what 2,000 more of them cost, by callgrind.
fn instructions(variant: &str) -> i64 {
    let count = |rounds: i64| -> i64 {
        let program = std::env::current_exe().expect("the path of this program");
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .args(["child", variant, &rounds.to_string()])
            .output()
            .expect("valgrind runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the run under callgrind failed: {text}");
        let line = text.lines().find_map(|line| line.split("Collected :").nth(1));
        line.and_then(|count| count.trim().parse().ok())
            .unwrap_or_else(|| panic!("callgrind counted nothing: {text}"))
    };
    (count(3_000) - count(1_000)) / 2_000
}

/// Allocations for one request.
fn allocations(variant: &str) -> i64 {
    let count = |rounds: u32| {
        let region = Region::new(ALLOCATOR);
        run(variant, rounds);
        i64::try_from(region.change().allocations).unwrap_or(i64::MAX)
    };
    (count(300) - count(100)) / 200
}

fn run(variant: &str, rounds: u32) {
    match variant {
        "bare" => drive(Inner, rounds),
        "add-authorization" => drive(AddAuthorizationLayer::bearer(&token()).layer(Inner), rounds),
        "watch" => drive(layer().never_replay().layer(Inner), rounds),
        "retry" => drive(retry(), rounds),
        "replay" => drive(layer().layer(Inner), rounds),
        "oneshot-bare" => drive_clones(Inner, rounds),
        "oneshot-retry" => drive_clones(retry(), rounds),
        "oneshot-replay" => drive_clones(warm(layer().layer(Inner)), rounds),
        other => panic!("no variant {other}"),
    }
}

/// Calls one service value again and again.
fn drive<S, E>(mut service: S, rounds: u32)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E>,
    E: std::fmt::Debug,
{
    for _ in 0..rounds {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let future = service.call(request());
        finish(future);
    }
}

/// Calls a clone for each request, as handlers with a client in their state do.
fn drive_clones<S, E>(service: S, rounds: u32)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E> + Clone,
    E: std::fmt::Debug,
{
    for _ in 0..rounds {
        finish(service.clone().oneshot(request()));
    }
}

fn finish<F, E>(future: F)
where
    F: Future<Output = Result<Response<Body>, E>>,
    E: std::fmt::Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut cx) {
        Poll::Ready(Ok(response)) => drop(black_box(response)),
        other => panic!("not served at once: {:?}", other.map(|result| result.map(|_| ()))),
    }
}

/// The service that a handler's state holds has seen requests before.
fn warm<S>(mut service: S) -> S
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    finish(service.call(request()));
    service
}

fn token() -> String {
    "t".repeat(1200)
}

/// A layer whose token is at hand.
fn layer() -> OAuthClientCredentialsLayer {
    let cache = TokenCache::new(source_fn(|_| async {
        Ok(TokenResponse::bearer(token())?.expires_in(Duration::from_secs(86_400)))
    }));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(cache.token()).expect("a token");
    OAuthClientCredentialsLayer::from_cache(&cache)
}

/// tower's way to the same: a fixed header, and a clone of each request for a second try.
fn retry() -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    let header = HeaderValue::from_str(&format!("Bearer {}", token())).expect("a header");
    ServiceBuilder::new()
        .layer(RetryLayer::new(On401))
        .map_request(move |mut request: Request<Body>| {
            request.headers_mut().insert(header::AUTHORIZATION, header.clone());
            request
        })
        .service(Inner)
}

#[derive(Clone)]
struct On401;

impl<E> Policy<Request<Body>, Response<Body>, E> for On401 {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<Body>, E>,
    ) -> Option<Ready<()>> {
        match result {
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => Some(ready(())),
            _ => None,
        }
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

/// Answers at once.
#[derive(Clone)]
struct Inner;

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Body::default())))
    }
}

/// A POST with eight headers, five of them static, as clients send them.
fn request() -> Request<Body> {
    let mut request = Request::new(Full::new(Bytes::from_static(b"{\"report\":1}")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("https://api.example.com/v1/reports");
    let headers: &mut HeaderMap = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("api.example.com"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("reports/1.0"));
    for (name, value) in
        [("x-request-id", "7f3c1a"), ("traceparent", "00-4bf92f3577b34da6"), ("x-tenant", "acme")]
    {
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value.as_bytes()));
        headers.insert(name, value.expect("a header"));
    }
    black_box(request)
}

/// Bytes of a future over the inner one; with replay; tower's.
fn sizes() -> (i64, i64, i64) {
    fn size<S: Service<Request<Body>>>(_: &S) -> i64 {
        i64::try_from(size_of::<S::Future>()).unwrap_or(i64::MAX)
    }
    let inner = size(&Inner);
    (
        size(&layer().never_replay().layer(Inner)) - inner,
        size(&layer().layer(Inner)),
        size(&RetryLayer::new(On401).layer(Inner)),
    )
}
