//! Five providers, each used as documented, and an older client of one of them.
//!
//! ```text
//! cargo run --example providers --all-features
//! ```
//!
//! Each client calls an authorization server on loopback, over real HTTP, that accepts only
//! requests in that provider's format. The request is compared with the provider's documentation.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{error::Error, process::ExitCode, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    AccessToken, Builder, Dialect, OAuthClientCredentialsLayer,
    endpoint::preset,
    testing::{Answer, AuthorizationServer, Flavor, ProtectedApi, TokenRequest},
};

type BoxError = Box<dyn Error + Send + Sync>;

const ID: &str = "my-service";
const SECRET: &str = "s3cr3t";
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => {
            println!("\nAll was sent as documented, and one token served three calls each.");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("\nNot all was as documented.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, BoxError> {
    let mut all_hold = true;
    for provider in providers() {
        all_hold &= meet(&provider).await?;
    }
    all_hold &= meet_older_client().await?;
    Ok(all_hold)
}

/// The settings of a client, and the expected request and response.
struct Provider {
    name: &'static str,
    flavor: Flavor,
    /// All differences between the providers. You can also build a dialect by hand: see the
    /// documentation of each preset.
    configure: fn(Builder) -> Builder,
    sends: &'static str,
    gets: &'static str,
}

fn providers() -> [Provider; 5] {
    [
        Provider {
            name: "RFC 6749",
            flavor: Flavor::Rfc6749,
            // The default is `Dialect::rfc6749()`.
            configure: |builder| builder.scope("read:reports"),
            sends: "POST /token · application/x-www-form-urlencoded · Basic *** · \
                    grant_type=client_credentials&scope=read%3Areports",
            gets: "Bearer, 3600 s, scope read:reports",
        },
        Provider {
            name: "Auth0 (Probable Futures)",
            flavor: Flavor::Auth0,
            configure: |builder| {
                builder.dialect(Dialect::auth0()).audience("https://graphql.example.com")
            },
            sends: "POST /oauth/token · application/json · \
                    {\"grant_type\":\"client_credentials\",\"client_id\":\"my-service\",\
                    \"client_secret\":\"***\",\"audience\":\"https://graphql.example.com\"}",
            gets: "Bearer, 86400 s",
        },
        Provider {
            name: "An API with a daily limit on tokens",
            flavor: Flavor::Auth0,
            // Like Auth0. The budget keeps a faulty program below the provider's limit.
            configure: |builder| {
                builder
                    .dialect(Dialect::auth0())
                    .audience("https://api.example.com")
                    .issuance_budget(20, DAY)
            },
            sends: "POST /oauth/token · application/json · \
                    {\"grant_type\":\"client_credentials\",\"client_id\":\"my-service\",\
                    \"client_secret\":\"***\",\"audience\":\"https://api.example.com\"}",
            gets: "Bearer, 86400 s",
        },
        Provider {
            name: "Podero",
            flavor: Flavor::Podero,
            // The token URL ends with a slash.
            configure: |builder| builder.dialect(preset::podero()),
            sends: "POST /oauth2/token/ · application/json · no-cache · Basic *** · \
                    {\"grant_type\":\"client_credentials\"}",
            gets: "Bearer, 36000 s, scope read write",
        },
        Provider {
            name: "DADI API",
            flavor: Flavor::Dadi,
            // The documentation uses plain http. Outside loopback, this must be allowed explicitly:
            // `dangerously_allow_insecure_token_url` and `dangerously_allow_plain_http`.
            configure: |builder| builder.dialect(preset::dadi()),
            sends: "POST /token · application/json · \
                    {\"clientId\":\"my-service\",\"secret\":\"***\"}",
            gets: "Bearer, 1800 s",
        },
    ]
}

/// Calls an API of the provider three times, which must cost one token request.
async fn meet(provider: &Provider) -> Result<bool, BoxError> {
    let server = AuthorizationServer::builder()
        .flavor(provider.flavor)
        .client(ID, SECRET)
        .daily_limit(25)
        .build();
    let api = ProtectedApi::new(&server);
    let (auth_server, api_server) = (server.serve().await?, api.serve().await?);

    let builder = OAuthClientCredentialsLayer::builder()
        .token_url(auth_server.url(server.token_path()))
        .client_id(ID)
        .client_secret(SECRET);
    let auth = (provider.configure)(builder).build()?;
    let mut cache = auth.cache();
    let statuses = call_three_times(auth, &api_server.url("/reports")).await?;

    let journal = server.journal();
    let sent = journal.first().map(as_sent).unwrap_or_default();
    let got = cache.peek().map(as_got).unwrap_or_default();
    println!("{}", provider.name);
    let mut holds = line("sent", &sent, provider.sends);
    holds &= line("got", &got, provider.gets);
    holds &= line("API", &statuses, "200, 200, 200");
    if journal.len() != 1 {
        println!("  does not hold: {} token requests, and not 1", journal.len());
        holds = false;
    }
    Ok(holds)
}

/// A client that predates the API's tokens: a static id and secret on each call, by HTTP Basic.
async fn meet_older_client() -> Result<bool, BoxError> {
    let api = ProtectedApi::new(&AuthorizationServer::new());
    for _ in 0..3 {
        api.respond_once(Answer::json(StatusCode::OK, r#"{"reports":[]}"#));
    }
    let api_server = api.serve().await?;

    let auth = OAuthClientCredentialsLayer::basic("token-id", "token-secret")?;
    let statuses = call_three_times(auth, &api_server.url("/reports")).await?;

    let sent: Vec<_> = api.journal().iter().map(|call| authorization(call.headers())).collect();
    let expected = format!("Basic {}", STANDARD.encode("token-id:token-secret"));
    let as_expected = sent.len() == 3 && sent.iter().all(|value| *value == expected);
    println!("The API with a daily limit: its older clients");
    let sent = if as_expected { "Basic *** with each call" } else { "something else" };
    let mut holds = line("sent", sent, "Basic *** with each call");
    holds &= line("API", &statuses, "200, 200, 200");
    Ok(holds)
}

async fn call_three_times(
    auth: OAuthClientCredentialsLayer,
    url: &str,
) -> Result<String, BoxError> {
    let http_client = Client::builder(TokioExecutor::new()).build_http();
    let mut client = ServiceBuilder::new().layer(auth).service(http_client);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = Request::get(url).body(Full::<Bytes>::default())?;
        let response = client.ready().await?.call(request).await?;
        statuses.push(response.status().as_u16().to_string());
        response.into_body().collect().await?;
    }
    Ok(statuses.join(", "))
}

/// Formats a token request on one line, with its secrets masked.
fn as_sent(request: &TokenRequest) -> String {
    let headers = request.headers();
    let mut parts = vec![format!("{} {}", request.method(), request.uri().path())];
    parts.push(text(headers, header::CONTENT_TYPE));
    if headers.contains_key(header::CACHE_CONTROL) {
        parts.push(text(headers, header::CACHE_CONTROL));
    }
    if let Some(credentials) = request.basic() {
        let right = credentials == (ID, SECRET);
        parts.push(if right { "Basic ***" } else { "Basic with wrong credentials" }.to_owned());
    }
    parts.push(String::from_utf8_lossy(request.body()).replace(SECRET, "***"));
    parts.join(" · ")
}

/// Formats the result of the response, without the token.
fn as_got(token: &AccessToken) -> String {
    // Rounded to minutes, since some time has passed since the request.
    let left = token.expires_at().and_then(|at| at.elapsed().err());
    let minutes = left.map(|left| (left.duration().as_secs_f64() / 60.0).round());
    let lifetime = minutes.map_or("no end".to_owned(), |minutes| format!("{} s", minutes * 60.0));
    let scope = token.scope().map(|scope| format!(", scope {scope}")).unwrap_or_default();
    format!("{}, {lifetime}{scope}", token.token_type())
}

/// Prints the observed value. Returns `true` if it is the expected one.
fn line(what: &str, seen: &str, expected: &str) -> bool {
    println!("  {what:<5} {seen}");
    if seen != expected {
        println!("  does not hold, expected:\n        {expected}");
    }
    seen == expected
}

fn authorization(headers: &HeaderMap) -> String {
    text(headers, header::AUTHORIZATION)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
