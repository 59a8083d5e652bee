//! An axum backend that calls two third-party APIs, each with its own token. It has a handler that
//! uses one, a reverse proxy for the other, `/readyz`, and graceful shutdown.
//!
//! Without configuration, it runs against its own servers on loopback and tests itself: `cargo run
//! --example axum_backend --features axum,testing`
//!
//! With `REPORTS_URL` and `ORDERS_URL`, it serves until Ctrl-C. Configure the tokens with
//! `REPORTS_TOKEN_URL`, `REPORTS_CLIENT_ID`, `REPORTS_CLIENT_SECRET_FILE` and so on, and likewise
//! for `ORDERS`. (For `https` upstreams, replace the client's connector with one that supports
//! TLS.)
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that says what it does")]

use std::{env, future::Future, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{FromRef, Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{HeaderMap, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt, timeout::Timeout};
use tower_oauth2_client_credentials::{
    BoxError, Builder, OAuthClientCredentials, TokenCache,
    adapter::axum::{UpstreamError, error_for_rejected_token, forward, readiness, strip_response},
    testing::{Answer, AuthorizationServer, ProtectedApi},
};

// Configuration, parsed and checked before anything starts.

struct Config {
    listen: SocketAddr,
    reports: UpstreamConfig,
    orders: UpstreamConfig,
}

struct UpstreamConfig {
    url: Uri,
    /// The source of its tokens.
    auth: Builder,
}

impl Config {
    /// Returns `None` if nothing is configured.
    fn from_env() -> Result<Option<Self>, BoxError> {
        let (Ok(reports), Ok(orders)) = (env::var("REPORTS_URL"), env::var("ORDERS_URL")) else {
            return Ok(None);
        };
        let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into()).parse()?;
        Ok(Some(Self {
            listen,
            reports: UpstreamConfig::from_env("REPORTS", &reports)?,
            orders: UpstreamConfig::from_env("ORDERS", &orders)?,
        }))
    }
}

impl UpstreamConfig {
    fn from_env(name: &str, url: &str) -> Result<Self, BoxError> {
        Ok(Self { url: url.parse()?, auth: Builder::from_env_with_prefix(name) })
    }
}

// State: one client per API, distinguished by type.

type Client = Timeout<OAuthClientCredentials<HyperClient<HttpConnector, Body>>>;

#[derive(Clone)]
struct Upstream {
    url: Uri,
    client: Client,
    cache: TokenCache,
}

impl Upstream {
    fn new(config: UpstreamConfig) -> Result<Self, BoxError> {
        let origin = format!(
            "{}://{}",
            config.url.scheme_str().unwrap_or("http"),
            config.url.authority().ok_or("the upstream's URL has no host")?
        );
        // The token of one API is never sent to the other.
        let auth = config.auth.allowed_origin(origin).build()?;
        let cache = auth.cache();
        let client = ServiceBuilder::new()
            .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(20)))
            .layer(auth)
            .service(HyperClient::builder(TokioExecutor::new()).build_http());
        Ok(Self { url: config.url, client, cache })
    }
}

#[derive(Clone)]
struct Reports(Upstream);

#[derive(Clone)]
struct Orders(Upstream);

#[derive(Clone, FromRef)]
struct App {
    reports: Reports,
    orders: Orders,
}

fn router(config: Config) -> Result<Router, BoxError> {
    let app = App {
        reports: Reports(Upstream::new(config.reports)?),
        orders: Orders(Upstream::new(config.orders)?),
    };
    Ok(Router::new()
        .route("/summary", get(summary))
        .route("/orders/{*path}", any(orders))
        .route("/readyz", get(readyz))
        .layer(axum::middleware::map_response(log_failures))
        .with_state(app))
}

// Handlers.

/// Calls the reports API and summarizes its response.
async fn summary(State(Reports(reports)): State<Reports>) -> Result<Response, UpstreamError> {
    let request = Request::get(format!("{}reports", reports.url)).body(Body::empty())?;
    let response = error_for_rejected_token(reports.client.oneshot(request).await?)?;
    if !response.status().is_success() {
        // A failure of the API itself.
        return Err(format!("the API for reports says {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), 1024 * 1024).collect().await?.to_bytes();
    let report: serde_json::Value = serde_json::from_slice(&body)?;
    Ok(Json(serde_json::json!({ "reports": report })).into_response())
}

/// Forwards every request to the orders API.
async fn orders(
    State(Orders(orders)): State<Orders>,
    mut request: Request,
) -> Result<Response, UpstreamError> {
    forward(&mut request, &orders.url)?;
    // A 401 to the backend's token does not concern the caller.
    let response = error_for_rejected_token(orders.client.oneshot(request).await?)?;
    let mut response = response.map(Body::new);
    strip_response(response.headers_mut());
    Ok(response)
}

async fn readyz(State(app): State<App>) -> StatusCode {
    let all = [&app.reports.0.cache, &app.orders.0.cache].map(readiness);
    all.into_iter().find(|status| !status.is_success()).unwrap_or(StatusCode::OK)
}

/// Logs the error, which the caller does not see.
async fn log_failures(response: Response) -> Response {
    if let Some(error) = response.extensions().get::<std::sync::Arc<UpstreamError>>() {
        eprintln!("{}: {error:?}", response.status());
    }
    response
}

async fn serve(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), BoxError> {
    // Requests in flight are answered before the server stops.
    Ok(axum::serve(listener, router(config)?).with_graceful_shutdown(shutdown).await?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    match Config::from_env()? {
        Some(config) => {
            let listener = TcpListener::bind(config.listen).await?;
            println!("listening on {}", listener.local_addr()?);
            serve(listener, config, async { _ = tokio::signal::ctrl_c().await }).await
        }
        None => check_itself().await,
    }
}

// The example's own test.

async fn check_itself() -> Result<(), BoxError> {
    let (reports_auth, orders_auth) = (AuthorizationServer::new(), AuthorizationServer::new());
    let (reports_api, orders_api) =
        (ProtectedApi::new(&reports_auth), ProtectedApi::new(&orders_auth));
    let running = (reports_auth.serve().await?, orders_auth.serve().await?);
    let apis = (reports_api.serve().await?, orders_api.serve().await?);
    let auth = |token_url: String| {
        Builder::new().token_url(token_url).client_id("test-client").client_secret("test-secret")
    };
    let config = Config {
        listen: "127.0.0.1:0".parse()?,
        reports: UpstreamConfig {
            url: apis.0.url("/").parse()?,
            auth: auth(running.0.url(reports_auth.token_path())),
        },
        orders: UpstreamConfig {
            url: apis.1.url("/").parse()?,
            auth: auth(running.1.url(orders_auth.token_path())),
        },
    };
    let listener = TcpListener::bind(config.listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let backend = tokio::spawn(serve(listener, config, async { _ = stopped.await }));

    // The first token request is answered with `Retry-After`.
    reports_auth.respond_once(Answer::too_many_requests("30"));
    // The probe starts the renewal and does not wait for it.
    expect("ready before the first call", get_from(&url, "/readyz").await?.0, 200)?;
    let (status, headers, body) = get_from(&url, "/summary").await?;
    expect("no token yet", (status, &*body), (503, "Service Unavailable"))?;
    let wait: u64 = headers[header::RETRY_AFTER].to_str()?.parse()?;
    expect("come back in a while", (20..=30).contains(&wait), true)?;
    expect("not ready", get_from(&url, "/readyz").await?.0, 503)?;

    let caller = |body: &'static str| {
        Request::post(format!("{url}/orders/42?dry=1"))
            .header("authorization", "Bearer of-the-caller")
            .header("cookie", "session=secret")
            .body(Body::from(body))
    };
    expect("forwarded", send(caller("one")?).await?.0, 200)?;
    orders_auth.revoke_all();
    expect("forwarded, and replayed", send(caller("two")?).await?.0, 200)?;
    let journal = orders_api.journal();
    let seen: Vec<_> =
        journal.iter().map(|call| (call.uri().path(), call.is_authorized())).collect();
    let path = "/orders/42";
    expect("calls of orders", seen, vec![(path, true), (path, false), (path, true)])?;
    let leaked = journal.iter().any(|call| call.headers().contains_key(header::COOKIE));
    expect("cookies forwarded", leaked, false)?;

    // There is no newer token, so the API's 401 is final and occurs once. The caller would mistake
    // it for its own.
    orders_auth.change_secret("test-client", "another");
    orders_auth.revoke_all();
    expect("the API's 401", send(caller("three")?).await?.0, 502)?;
    expect("never sent twice", orders_api.calls(), 4)?;

    // A request that is in flight when the backend is told to stop is answered.
    orders_auth.change_secret("test-client", "test-secret");
    orders_api.hold();
    let under_way = tokio::spawn(send(caller("four")?));
    orders_api.held(1).await;
    stop.send(()).map_err(|()| "the backend is gone")?;
    orders_api.release();
    let (status, ..) = under_way.await??;
    expect("answered while shutting down", status, 502)?;
    backend.await??;
    expect("the server no longer listens", get_from(&url, "/readyz").await.is_err(), true)?;
    expect("tokens", (reports_auth.issued(), orders_auth.issued()), (0, 2))
}

fn expect<T, U>(what: &str, is: T, should_be: U) -> Result<(), BoxError>
where
    T: std::fmt::Debug + PartialEq<U>,
    U: std::fmt::Debug,
{
    println!("{what}: {is:?}");
    if is == should_be { Ok(()) } else { Err(format!("{what}: expected {should_be:?}").into()) }
}

async fn get_from(url: &str, path: &str) -> Result<(u16, HeaderMap, String), BoxError> {
    send(Request::get(format!("{url}{path}")).body(Body::empty())?).await
}

async fn send(request: Request) -> Result<(u16, HeaderMap, String), BoxError> {
    let client = HyperClient::builder(TokioExecutor::new()).build_http::<Body>();
    let (parts, body) = client.request(request).await?.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    Ok((parts.status.as_u16(), parts.headers, body))
}
