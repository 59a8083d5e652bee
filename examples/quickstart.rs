//! The main use case: calls to a protected API, each with a valid token.
//!
//! ```text
//! cargo run --example quickstart --all-features
//! ```
//!
//! Without configuration, it starts an authorization server and an API on loopback. Over real HTTP,
//! it shows the effect on calls when many start at once, when the token is revoked, when it
//! expires, and when the authorization server is down. It checks its figures and exits with an
//! error if one is wrong.
//!
//! With `API_URL` and the `OAUTH_*` variables of `Builder::from_env`, it calls that API once:
//!
//! ```text
//! API_URL=https://api.example.com/reports \
//! OAUTH_TOKEN_URL=https://auth.example.com/oauth/token \
//! OAUTH_CLIENT_ID=my-service OAUTH_CLIENT_SECRET_FILE=/run/secrets/my-service \
//! OAUTH_ALLOWED_ORIGINS=https://api.example.com \
//! cargo run --example quickstart --all-features
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::disallowed_methods, reason = "a program that shows how long things really take")]

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    Builder, NotReplaced, OAuthClientCredentials, OAuthClientCredentialsLayer, TokenError,
    testing::{AuthorizationServer, ProtectedApi, RunningServer},
};

type BoxError = Box<dyn Error + Send + Sync>;
type ApiRequest = Request<Full<Bytes>>;

/// An HTTP client with the layer. Clones share connections and token.
type ApiClient = OAuthClientCredentials<Client<HttpConnector, Full<Bytes>>>;

#[tokio::main]
async fn main() -> ExitCode {
    let configured = ["API_URL", "OAUTH_TOKEN_URL"].iter().any(|name| is_set(name));
    let outcome = if configured { call_configured_api().await } else { demonstrate().await };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

// ---------------------------------------------------------------------------------------------
// With configuration: one call to a real API.

async fn call_configured_api() -> Result<bool, BoxError> {
    if !is_set("API_URL") {
        return Err("set API_URL to the URL to call".into());
    }
    let url = std::env::var("API_URL")?;

    let auth = Builder::from_env().build()?;
    let mut cache = auth.cache();
    let mut client = ServiceBuilder::new().layer(auth).service(https_client()?);

    let started = Instant::now();
    let response = match client.ready().await?.call(get(&url)?).await {
        Ok(response) => response,
        Err(error) if error.is::<TokenError>() => return Err(error),
        Err(error) => return Err(format!("{}: {}", presentable(&url), chain(&*error)).into()),
    };
    let took = started.elapsed();
    let status = response.status();

    println!("GET {}", presentable(&url));
    println!("  status      {status}  ({}, with the token request)", in_words(took));
    if let Some(why) = response.extensions().get::<NotReplaced>() {
        println!("              {why}");
    }
    match cache.peek() {
        Some(token) => {
            let left = token.expires_at().map(|at| at.duration_since(SystemTime::now()));
            println!("  token type  {}", token.token_type());
            println!("  scope       {}", token.scope().unwrap_or("(the server names none)"));
            println!(
                "  lifetime    {}",
                match left {
                    Some(left) => format!("{} s left", grouped(left.unwrap_or_default().as_secs())),
                    None => "no expiry".to_owned(),
                }
            );
        }
        None => println!("  token       not cached: it could not be reused after this call"),
    }
    Ok(status.is_success())
}

/// Creates an HTTP client that trusts the platform's roots. `OAUTH_CA_FILE` applies to the token
/// endpoint.
fn https_client() -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, BoxError> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

// ---------------------------------------------------------------------------------------------
// Without configuration: everything on loopback.

async fn demonstrate() -> Result<bool, BoxError> {
    println!(
        "One layer on one HTTP client, with an authorization server and an API on loopback. Takes 7 s."
    );
    println!();
    print_row("", ["calls", "failed", "401s", "tokens", "slowest", "in all"].map(String::from));
    let mut all_hold = cold_start().await?.print();
    all_hold &= revoked_in_flight().await?.print();
    // These two take several seconds, and each has its own servers.
    let (expiry, outage) = tokio::join!(expiry(), outage());
    all_hold &= expiry?.print();
    all_hold &= outage?.print();
    println!();
    println!("  failed: for the caller   401s: seen by the layer   tokens: requested and issued");
    println!();
    println!(
        "{}",
        if all_hold { "All figures are as expected." } else { "Some figures are not as expected." }
    );
    Ok(all_hold)
}

/// Starts a thousand calls without a cached token.
async fn cold_start() -> Result<Scene, BoxError> {
    let world = World::start(HOUR).await?;
    world.server.delay_answers(Duration::from_millis(100));
    let mut scene = Scene::of("cold start: 1,000 calls at once");
    scene.watch(&world, crowd(&world, 1_000)?).await?;
    scene.expect("calls", scene.calls, 1_000..=1_000);
    scene.expect("tokens", scene.tokens, 1..=1);
    scene.expect("401s", scene.rejected, 0..=0);
    Ok(scene)
}

/// Revokes a token while five hundred requests that carry it are in flight.
async fn revoked_in_flight() -> Result<Scene, BoxError> {
    let world = World::start(HOUR).await?;
    call(world.client.clone(), world.request()?).await?;
    let mut scene = Scene::of("revoked token, 500 calls in flight");
    world.api.hold();
    let calls = crowd(&world, 500)?;
    world.api.held(500).await;
    world.server.revoke_all();
    world.api.release();
    scene.watch(&world, calls).await?;
    scene.expect("calls", scene.calls, 500..=500);
    scene.expect("tokens", scene.tokens, 1..=1);
    scene.expect("401s", scene.rejected, 500..=500);
    Ok(scene)
}

/// Calls an API that rejects expired tokens at a steady rate, over several lifetimes of the token.
async fn expiry() -> Result<Scene, BoxError> {
    let world = World::start(Duration::from_secs(2)).await?;
    call(world.client.clone(), world.request()?).await?;
    // A call that waited for a token would take at least this long.
    let slow = Duration::from_millis(300);
    world.server.delay_answers(slow);
    let mut scene = Scene::of("expiring tokens of 2 s, 100 calls a second");
    let calls = steady_calls(&world, Duration::from_millis(6_500)).await?;
    scene.watch(&world, calls).await?;
    scene.check(scene.calls > 100, "too few calls");
    scene.expect("tokens", scene.tokens, 3..=8);
    scene.expect("401s", scene.rejected, 0..=0);
    scene.check(scene.slowest < slow, "a call waited for a token");
    Ok(scene)
}

/// Takes the authorization server down while the token is due for renewal.
async fn outage() -> Result<Scene, BoxError> {
    let world = World::start(Duration::from_secs(5)).await?;
    call(world.client.clone(), world.request()?).await?;
    let mut scene = Scene::of("authorization server down for 2.9 s");
    world.server.down();
    let back_up = async {
        // A token that lives 5 s is due for renewal after 2.25 to 2.75 s. The renewal fails, and is
        // repeated within 1.2 s.
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        world.server.up();
    };
    let (calls, ()) = tokio::join!(steady_calls(&world, Duration::from_millis(6_000)), back_up);
    scene.watch(&world, calls?).await?;
    let refused = world.server.refused_connections();
    scene.check(scene.calls > 100, "too few calls");
    scene.expect("tokens", scene.tokens, 1..=2);
    scene.expect("401s", scene.rejected, 0..=0);
    scene.check(refused > 0, "no renewal met the outage");
    scene.note = format!("while it was down, {refused} token requests failed, and no call");
    Ok(scene)
}

const HOUR: Duration = Duration::from_secs(3600);

/// An authorization server, an API that accepts its tokens, and a client with the layer.
struct World {
    server: AuthorizationServer,
    api: ProtectedApi,
    client: ApiClient,
    api_url: String,
    _running: [RunningServer; 2],
}

impl World {
    async fn start(token_lifetime: Duration) -> Result<Self, BoxError> {
        let server = AuthorizationServer::builder()
            .client("my-service", "s3cr3t")
            .token_lifetime(token_lifetime)
            .build();
        let api = ProtectedApi::new(&server);
        let (auth_server, api_server) = (server.serve().await?, api.serve().await?);

        // Your program has this code, with its own URLs and secrets.
        let auth = OAuthClientCredentialsLayer::builder()
            .token_url(auth_server.url("/token"))
            .client_id("my-service")
            .client_secret("s3cr3t")
            .scope("read:reports")
            .allowed_origin(api_server.url(""))
            .build()?;
        // HTTP/2, so that a thousand concurrent calls do not need a thousand sockets.
        let http_client =
            Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new());
        let client = ServiceBuilder::new().layer(auth).service(http_client);

        let api_url = api_server.url("/reports");
        Ok(Self { server, api, client, api_url, _running: [auth_server, api_server] })
    }

    fn request(&self) -> Result<ApiRequest, http::Error> {
        get(&self.api_url)
    }
}

/// The calls in flight, and the start of the first one.
struct Calls {
    started: Instant,
    /// The numbers of tokens and rejections before the calls.
    before: (u64, u64),
    running: JoinSet<Result<Duration, BoxError>>,
}

impl Calls {
    fn none(world: &World) -> Self {
        let before = (world.server.issued(), world.api.rejected());
        Self { started: Instant::now(), before, running: JoinSet::new() }
    }

    fn add(&mut self, world: &World) -> Result<(), BoxError> {
        self.running.spawn(call(world.client.clone(), world.request()?));
        Ok(())
    }
}

fn crowd(world: &World, count: usize) -> Result<Calls, BoxError> {
    let mut calls = Calls::none(world);
    (0..count).try_for_each(|_| calls.add(world))?;
    Ok(calls)
}

async fn steady_calls(world: &World, period: Duration) -> Result<Calls, BoxError> {
    let mut calls = Calls::none(world);
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while calls.started.elapsed() < period {
        ticks.tick().await;
        calls.add(world)?;
    }
    Ok(calls)
}

/// Makes one call and reads the whole response. Returns how long it took, or why it failed.
async fn call(mut client: ApiClient, request: ApiRequest) -> Result<Duration, BoxError> {
    let started = Instant::now();
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    if status == StatusCode::OK { Ok(started.elapsed()) } else { Err(status.to_string().into()) }
}

/// The observed figures, compared with the expected ones.
struct Scene {
    title: &'static str,
    calls: usize,
    failed: usize,
    rejected: usize,
    tokens: usize,
    slowest: Duration,
    in_all: Duration,
    note: String,
    wrong: Vec<String>,
}

impl Scene {
    fn of(title: &'static str) -> Self {
        Self {
            title,
            calls: 0,
            failed: 0,
            rejected: 0,
            tokens: 0,
            slowest: Duration::ZERO,
            in_all: Duration::ZERO,
            note: String::new(),
            wrong: Vec::new(),
        }
    }

    /// Waits for the calls to finish, and counts their results.
    async fn watch(&mut self, world: &World, mut calls: Calls) -> Result<(), BoxError> {
        self.calls = calls.running.len();
        while let Some(ended) = calls.running.join_next().await {
            match ended? {
                Ok(took) => self.slowest = self.slowest.max(took),
                Err(error) => {
                    self.failed += 1;
                    if self.failed == 1 {
                        self.wrong.push(format!("a call failed: {}", chain(&*error)));
                    }
                }
            }
        }
        self.in_all = calls.started.elapsed();
        self.tokens = usize::try_from(world.server.issued() - calls.before.0)?;
        self.rejected = usize::try_from(world.api.rejected() - calls.before.1)?;
        Ok(())
    }

    fn expect(&mut self, what: &str, seen: usize, expected: std::ops::RangeInclusive<usize>) {
        let holds = expected.contains(&seen);
        self.check(holds, &format!("{what}: {seen} instead of {expected:?}"));
    }

    fn check(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.wrong.push(otherwise.to_owned());
        }
    }

    /// Prints the figures. Returns `true` if all are as expected.
    fn print(&self) -> bool {
        let counts = [self.calls, self.failed, self.rejected, self.tokens];
        let [calls, failed, rejected, tokens] = counts.map(|count| grouped(count as u64));
        let [slowest, in_all] = [self.slowest, self.in_all].map(in_words);
        print_row(self.title, [calls, failed, rejected, tokens, slowest, in_all]);
        if !self.note.is_empty() && self.wrong.is_empty() {
            println!("    {}", self.note);
        }
        for wrong in &self.wrong {
            println!("    unexpected: {wrong}");
        }
        self.wrong.is_empty()
    }
}

// ---------------------------------------------------------------------------------------------
// Helpers.

fn print_row(title: &str, [calls, failed, rejected, tokens, slowest, in_all]: [String; 6]) {
    println!("  {title:<44}{calls:>7}{failed:>8}{rejected:>6}{tokens:>8}{slowest:>9}{in_all:>8}");
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn get(url: &str) -> Result<ApiRequest, http::Error> {
    Request::get(url).body(Full::default())
}

/// Returns a URL without the parts that may be secret: user info and query.
fn presentable(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Formats an error and its causes on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

fn in_words(time: Duration) -> String {
    match time.as_millis() {
        0..1_000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// Formats 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
