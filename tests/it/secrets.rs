//! A canary secret and a canary token pass through everything, and appear in no output.

use std::{error::Error, fmt::Debug, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_oauth2_client_credentials::{
    BoxError, Builder, Dialect, ErrorClass, NotReplaced, OAuthClientCredentialsLayer, TokenError,
    TokenResponse,
    credentials::RotatingSecret,
    endpoint::{TokenEndpoint, preset},
    testing::{AuthorizationServer, ProtectedApi},
};

use crate::tap::{Body, get, settle};
#[cfg(feature = "tracing")]
use crate::telemetry::Log;

const ID: &str = "my client";
/// A secret that looks different in every encoding.
const SECRET: &str = "c4n4ry s3cr3t+/%\"&é~";
const TOKEN: &str = "c4n4ry.t0k3n+/~-_==";

/// A secret whose unreserved characters stay unencoded.
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Returns all encodings of the secret and the token.
fn canaries() -> Vec<String> {
    let mut all = Vec::new();
    for text in [SECRET, TOKEN] {
        let json = serde_json::to_string(text).unwrap();
        all.extend([
            text.to_owned(),
            percent(text),
            percent(text).to_lowercase(),
            percent(text).replace("%20", "+"),
            json.trim_matches('"').to_owned(),
            text.escape_debug().to_string(),
            format!("{:?}", text.as_bytes()),
        ]);
        // Inside other data, base64 may start at any of three offsets.
        for lead in ["", "x", "xx"] {
            let encoded = STANDARD.encode(format!("{lead}{text}"));
            all.push(encoded.get(4..encoded.len() - 4).unwrap().to_owned());
        }
    }
    for (id, secret) in [(ID, SECRET), (&*percent(ID), &*percent(SECRET))] {
        all.push(STANDARD.encode(format!("{id}:{secret}")));
    }
    // And recognizable parts of either.
    all.extend(["c4n4ry".to_owned(), "s3cr3t".to_owned(), "t0k3n".to_owned()]);
    all
}

#[track_caller]
fn assert_clean(text: &str) {
    for canary in canaries() {
        assert!(!text.contains(&canary), "{canary} is in {text}");
    }
}

#[track_caller]
fn assert_debug_clean(value: impl Debug) {
    assert_clean(&format!("{value:?} {value:#?}"));
}

/// Formats the error and all its sources.
#[track_caller]
fn assert_error_clean(error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert_clean(&format!("{error} {error:?} {error:#?}"));
        next = error.source();
    }
}

/// Checks that `secrets` finds the canaries where they do appear.
#[test]
fn the_canaries_are_found_where_they_are() {
    let basic = STANDARD.encode(format!("{}:{}", percent(ID), percent(SECRET)));
    let texts = [
        format!("secret={SECRET}"),
        format!("client_secret={}", percent(SECRET)),
        format!("Basic {basic}"),
        STANDARD.encode(format!("anything:{TOKEN}")),
        format!("{:?}", Bytes::from(SECRET)),
    ];
    for text in texts {
        assert!(std::panic::catch_unwind(|| assert_clean(&text)).is_err(), "{text}");
    }
}

/// The way a server answers a token request, given the request.
type Server = fn(&str) -> (StatusCode, &'static str, String);

/// Servers that echo everything.
const GOSSIPS: &[(ErrorClass, Server)] = &[
    (ErrorClass::Request, |read| {
        let text = serde_json::json!({"error": "invalid_scope", "error_description": read});
        (StatusCode::BAD_REQUEST, "application/json", text.to_string())
    }),
    (ErrorClass::Credentials, |read| {
        let text = serde_json::json!({"error": "invalid_client", "error_description": read});
        (StatusCode::UNAUTHORIZED, "application/json", text.to_string())
    }),
    (ErrorClass::Credentials, |read| {
        (StatusCode::FORBIDDEN, "text/html", format!("<h1>No</h1>{read}"))
    }),
    (ErrorClass::Request, |read| {
        let text = serde_json::json!({"error": read});
        (StatusCode::BAD_REQUEST, "application/json", text.to_string())
    }),
    (ErrorClass::Request, |read| {
        (
            StatusCode::BAD_REQUEST,
            "application/json",
            serde_json::json!({"detail": read}).to_string(),
        )
    }),
    (ErrorClass::Transient, |read| (StatusCode::BAD_GATEWAY, "text/plain", read.to_owned())),
    (ErrorClass::Throttled, |read| (StatusCode::TOO_MANY_REQUESTS, "text/plain", read.to_owned())),
    (ErrorClass::Malformed, |read| (StatusCode::OK, "text/plain", read.to_owned())),
    (ErrorClass::Malformed, |_| {
        let text = format!(r#"{{"access_token": "{TOKEN}", "token_type": "mac"}}"#);
        (StatusCode::OK, "application/json", text)
    }),
    (ErrorClass::Malformed, |_| {
        let text = format!(r#"{{"access_token": "{TOKEN}\n", "token_type": "Bearer"}}"#);
        (StatusCode::OK, "application/json", text)
    }),
    (ErrorClass::Malformed, |_| {
        let text = format!(r#"{{"access_token": "{TOKEN}", "expires_in": "#);
        (StatusCode::OK, "application/json", text)
    }),
    (ErrorClass::Malformed, |_| {
        let text = format!(r#"{{"access_token": ["{TOKEN}"]}}"#);
        (StatusCode::OK, "application/json", text)
    }),
];

/// Returns everything in a request, raw and decoded.
async fn read<B>(request: Request<B>) -> String
where
    B: http_body::Body,
    B::Error: Debug,
{
    let basic = request.headers().get("authorization").map(|value| {
        let text = value.to_str().unwrap().to_owned();
        let decoded = text.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok());
        format!("{text} {}", String::from_utf8(decoded.unwrap_or_default()).unwrap())
    });
    let body = request.into_body().collect().await.unwrap().to_bytes();
    format!("{} {} {SECRET}", basic.unwrap_or_default(), String::from_utf8_lossy(&body))
}

fn dialects() -> [Dialect; 4] {
    [Dialect::rfc6749(), Dialect::auth0(), preset::podero(), preset::dadi()]
}

fn bare(dialect: Dialect) -> Builder {
    Builder::new()
        .token_url("https://auth.example.com/token")
        .client_id(ID)
        .client_secret(SECRET)
        .dialect(dialect)
        .param("api_key", SECRET)
        .header("x-api-key", "c4n4ry")
        .audience("https://api.example.com/")
}

fn client<S>(
    layer: &OAuthClientCredentialsLayer,
    inner: S,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Debug
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Debug,
    S::Error: Into<BoxError>,
{
    layer.layer(inner)
}

/// A server's response is the only external text that the crate repeats.
#[tokio::test(start_paused = true)]
async fn a_server_that_repeats_everything_is_not_repeated() {
    #[cfg(feature = "tracing")]
    let (log, _guard) = Log::here();
    for dialect in dialects() {
        for (class, server) in GOSSIPS {
            let transport = service_fn(move |request: Request<_>| async move {
                let (status, content_type, body) = server(&read(request).await);
                let response = Response::builder()
                    .status(status)
                    .header("content-type", content_type)
                    .header("www-authenticate", format!("Basic realm={TOKEN}"))
                    .body(Full::new(Bytes::from(body)));
                Ok::<_, std::io::Error>(response.unwrap())
            });
            let builder = bare(dialect.clone()).transport(transport);
            assert_debug_clean(&builder);
            let layer = builder.build().unwrap();
            let inner = service_fn(|_: Request<Body>| async {
                Ok::<_, std::io::Error>(Response::new(Body::default()))
            });
            let client = client(&layer, inner);
            let error = client.clone().oneshot(get()).await.unwrap_err();
            let error = error.downcast_ref::<TokenError>().unwrap();
            assert_eq!(error.class(), *class, "{error}");
            assert_error_clean(error);
            for text in [error.oauth_error(), error.oauth_error_description()] {
                assert_clean(text.unwrap_or_default());
            }
            assert_error_clean(&layer.cache().last_error().unwrap());
            assert_debug_clean((&layer, &client, layer.cache()));
        }
    }
    #[cfg(feature = "tracing")]
    assert_clean(&log.text());
}

/// A redirect with the secret in its target: the error shows the target.
#[tokio::test(start_paused = true)]
async fn a_redirect_of_the_token_request_does_not_show_the_secret() {
    for location in [
        format!("https://auth.example.com/token/?client_secret={}", percent(SECRET)),
        format!("https://me:{}@auth.example.com/", percent(SECRET)),
        format!("/{}", percent(SECRET)),
    ] {
        let transport = service_fn(move |_: Request<_>| {
            let response = Response::builder()
                .status(StatusCode::PERMANENT_REDIRECT)
                .header("location", &location)
                .body(Body::default());
            async move { Ok::<_, std::io::Error>(response.unwrap()) }
        });
        let cache = bare(Dialect::rfc6749()).transport(transport).build().unwrap().cache();
        assert_error_clean(&cache.token().await.unwrap_err());
    }
}

/// Covers everything that a token passes through, including a rejection.
#[tokio::test(start_paused = true)]
async fn nothing_that_holds_a_token_shows_it() {
    #[cfg(feature = "tracing")]
    let (log, _guard) = Log::here();
    for dialect in dialects() {
        let transport = service_fn(|_: Request<_>| async {
            let text = format!(
                r#"{{"access_token": "{TOKEN}", "accessToken": "{TOKEN}", "token_type": "Bearer"}}"#
            );
            Ok::<_, std::io::Error>(Response::new(Full::new(Bytes::from(text))))
        });
        let layer = bare(dialect).transport(transport).build().unwrap();
        let cache = layer.cache();
        let waiting = cache.token();
        assert_debug_clean(&waiting);
        let token = waiting.await.unwrap();
        assert_eq!(token.expose_secret(), TOKEN);
        assert_debug_clean((&token, token.header(), &cache, &layer));

        let inner = service_fn(|request: Request<Body>| async move {
            assert_debug_clean(request.headers());
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok::<_, std::io::Error>(response)
        });
        let mut client = layer.layer(inner);
        let call = client.ready().await.unwrap().call(get::<Body>());
        assert_debug_clean((&client, &call));
        let response = call.await.unwrap();
        let why = response.extensions().get::<NotReplaced>().unwrap();
        assert!(why.is_futile());
        assert_error_clean(why);
        assert_debug_clean((&response, &client));
        let replacement = cache.rejected(&token);
        assert_debug_clean(&replacement);
        drop(replacement);
        settle().await;
    }
    #[cfg(feature = "tracing")]
    assert_clean(&log.text());
}

#[tokio::test(start_paused = true)]
async fn the_other_places_of_a_secret_do_not_show_it() {
    assert_debug_clean(RotatingSecret::new(ID, SECRET));
    assert_debug_clean(Builder::basic(ID, SECRET));
    let basic = OAuthClientCredentialsLayer::basic(ID, SECRET).unwrap();
    let token = basic.cache().token().await.unwrap();
    assert_debug_clean((&basic, &token, token.header(), basic.cache()));
    assert_debug_clean(TokenResponse::bearer(TOKEN).unwrap().expires_in(Duration::from_secs(9)));
    let endpoint = TokenEndpoint::builder().client_id(ID).client_secret(SECRET);
    assert_debug_clean(&endpoint);
    assert_debug_clean(endpoint.token_url("https://auth.example.com/token").build().unwrap());

    // The error describes the problem without the secret.
    for secret in [format!("{SECRET}\n"), format!("{SECRET}\0")] {
        let error = bare(Dialect::rfc6749()).client_secret(secret.clone()).build().unwrap_err();
        assert_error_clean(&error);
        assert_error_clean(&OAuthClientCredentialsLayer::basic(ID, &secret).unwrap_err());
    }
    assert_error_clean(&TokenResponse::bearer(format!("{TOKEN} ")).unwrap_err());
    for url in [
        format!("https://me:{SECRET}@auth.example.com/"),
        format!("https://me:{}@auth.example.com/", percent(SECRET)),
        format!("http://auth.example.com/?key={}", percent(SECRET)),
        format!("https://auth.example.com/#{}", percent(SECRET)),
    ] {
        let builder = bare(Dialect::rfc6749()).token_url(url);
        assert_debug_clean(&builder);
        assert_error_clean(&builder.build().unwrap_err());
    }
}

/// The test servers appear in test output, hence in CI logs, which may be public.
#[tokio::test(start_paused = true)]
async fn the_testing_kit_shows_none_either() {
    let builder = AuthorizationServer::builder().client(ID, SECRET);
    assert_debug_clean(&builder);
    let server = builder.build();
    let api = ProtectedApi::new(&server);
    let layer = Builder::new()
        .token_url(server.token_url())
        .client_id(ID)
        .client_secret(SECRET)
        .transport(server.service())
        .build()
        .unwrap();
    layer.layer(api.service()).oneshot(get::<Body>()).await.unwrap();
    let token = server.last_token().unwrap();
    assert_debug_clean((&server, &api, server.service(), server.journal(), api.journal()));
    let text = format!("{server:?} {api:?} {:?} {:?}", server.journal(), api.journal());
    assert!(!text.contains(&token));
}
