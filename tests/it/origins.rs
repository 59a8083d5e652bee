//! Allowed origins, end to end: a refused request fails before anything is sent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderName, HeaderValue, Request, Uri, header::AUTHORIZATION};
use tokio_test::{assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, OAuthClientCredentials, OAuthClientCredentialsLayer, Origin, TokenError,
};
use tower_test::mock::{self, Mock};

use crate::tap::{Body, LayerBuilder, Tap, ok, token_of};

type Client = mock::Spawn<OAuthClientCredentials<Mock<Request<Body>, http::Response<Body>>>>;

/// Sends a request to `uri` and returns the token that it carries, or the error.
async fn sent(
    layer: &OAuthClientCredentialsLayer,
    uri: &str,
) -> Result<Option<String>, TokenError> {
    let request = Request::get(uri.parse::<Uri>().unwrap()).body(Body::default()).unwrap();
    let sent = send(layer, request)?;
    Ok(token_of(sent.headers()).map(str::to_owned))
}

/// Returns the request as it reaches the inner service.
fn send(
    layer: &OAuthClientCredentialsLayer,
    request: Request<Body>,
) -> Result<Request<Body>, TokenError> {
    let (mut client, mut handle): (Client, _) = mock::spawn_layer(layer.clone());
    assert_ready_ok!(client.poll_ready());
    let mut response = task::spawn(client.call(request));
    let mut look = task::spawn(());
    let std::task::Poll::Ready(Some((request, respond))) = look.enter(|_, _| handle.poll_request())
    else {
        let error = assert_ready_err!(response.poll());
        return Err(error.downcast_ref::<TokenError>().unwrap().clone());
    };
    respond.send_response(ok());
    assert_ready_ok!(response.poll());
    Ok(request)
}

async fn layer(settings: impl FnOnce(LayerBuilder) -> LayerBuilder) -> OAuthClientCredentialsLayer {
    let layer = settings(Tap::open().builder()).build().unwrap();
    layer.cache().token().await.unwrap();
    layer
}

async fn assert_carries(layer: &OAuthClientCredentialsLayer, uris: &[&str]) {
    for uri in uris {
        assert_eq!(sent(layer, uri).await.unwrap().as_deref(), Some("t1"), "{uri}");
    }
}

async fn assert_refused(layer: &OAuthClientCredentialsLayer, uris: &[&str]) {
    for uri in uris {
        assert_eq!(sent(layer, uri).await.unwrap_err().class(), ErrorClass::Origin, "{uri}");
    }
}

/// Such a request carries the caller's own credentials, and no token.
#[tokio::test]
async fn a_request_with_its_own_authorization_is_sent_anywhere_as_it_is() {
    let tap = Tap::open();
    let listed = tap.builder().allowed_origin("https://api.example.com").build().unwrap();
    let own = |uri: &str| Request::get(uri).header("authorization", "Basic own");
    for at_hand in [false, true] {
        for layer in [tap.layer(), listed.clone()] {
            if at_hand {
                layer.cache().token().await.unwrap();
            }
            for uri in ["http://internal.example/", "https://other.example/", "ftp://c.example/"] {
                let sent = send(&layer, own(uri).body(Body::default()).unwrap()).unwrap();
                assert_eq!(sent.headers()["authorization"], "Basic own", "{uri}");
                assert_eq!(sent.headers().len(), 1, "{uri}");
            }
        }
        crate::tap::settle().await;
        assert_eq!(tap.asked() == 0, !at_hand, "such a request is no reason to ask for a token");
    }

    // Replacing the header would send the token.
    let replacing = tap.builder().replace_authorization().build().unwrap();
    replacing.cache().token().await.unwrap();
    let request = own("http://internal.example/").body(Body::default()).unwrap();
    assert_eq!(send(&replacing, request).unwrap_err().class(), ErrorClass::Origin);
}

/// `HeaderMap` takes 32,768 headers.
#[tokio::test]
async fn where_there_is_no_room_for_a_header_only_a_request_that_needs_one_fails() {
    let tap = Tap::open();
    let full = |own: Option<&'static str>| {
        let mut request = Request::get("https://api.example.com/").body(Body::default()).unwrap();
        let headers = request.headers_mut();
        headers.extend(own.map(|own| (AUTHORIZATION, HeaderValue::from_static(own))));
        for number in 0.. {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            if headers.try_append(name, HeaderValue::from_static("1")).is_err() {
                break;
            }
        }
        request
    };
    let layer = tap.layer();
    layer.cache().token().await.unwrap();
    let sent = send(&layer, full(Some("Basic own"))).unwrap();
    assert_eq!(sent.headers()["authorization"], "Basic own");
    assert_eq!(send(&layer, full(None)).unwrap_err().class(), ErrorClass::Headers);
    let replacing = tap.builder().replace_authorization().build().unwrap();
    replacing.cache().token().await.unwrap();
    let sent = send(&replacing, full(Some("Basic own"))).unwrap();
    assert_eq!(token_of(sent.headers()), Some("t2"));
}

/// A token sent over plain HTTP can be read on the path.
#[tokio::test]
async fn by_default_the_token_goes_by_https_or_nowhere_else_than_this_machine() {
    let layer = layer(|builder| builder).await;
    let good = [
        "https://api.example.com/",
        "https://api.example.com:8443/v1",
        "https://[2001:db8::1]/",
        "http://localhost/",
        "http://127.0.0.1:3000/",
        "http://127.1.2.3/",
        "http://[::1]:3000/",
        "HTTPS://API.EXAMPLE.COM/",
        "http://LOCALHOST/",
    ];
    assert_carries(&layer, &good).await;
    let bad = [
        "http://api.example.com/",
        "http://localhost.example.com/",
        "http://api.localhost:8080/",
        "http://127.0.0.1.example.com/",
        "http://localhost@example.com/",
        "http://example.com@localhost.evil/",
        "http://[2001:db8::1]/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "ftp://localhost/",
        "api.example.com:443",
    ];
    assert_refused(&layer, &bad).await;
}

/// The inner service determines the origin, such as a base URL or a Unix socket.
#[tokio::test]
async fn a_target_without_an_authority_is_trusted() {
    for allowing in [false, true] {
        let layer = layer(|builder| {
            if allowing { builder.allowed_origin("https://api.example.com") } else { builder }
        })
        .await;
        assert_carries(&layer, &["/v1?q=1", "*"]).await;
    }
}

#[tokio::test]
async fn with_allowed_origins_the_token_goes_there_only() {
    let origins = ["https://api.example.com", "http://internal:8080", "https://[2001:db8::1]:8443"];
    let layer = layer(|builder| builder.allowed_origins(origins)).await;
    let good = [
        "https://api.example.com/v1",
        "https://api.example.com:443/v1",
        "https://API.example.COM/",
        "http://internal:8080/",
        "https://[2001:db8::1]:8443/",
        "https://[2001:0db8:0::0001]:8443/",
    ];
    assert_carries(&layer, &good).await;
    let bad = [
        "http://api.example.com/",
        "https://api.example.com:444/",
        "https://www.api.example.com/",
        "https://api.example.com.evil/",
        "https://api.example.com@evil.example/",
        "https://api.example.com./",
        "http://internal/",
        "https://internal:8080/",
        "https://[2001:db8::1]/",
        // Loopback is no exception once there is a list.
        "http://localhost/",
    ];
    assert_refused(&layer, &bad).await;
}

#[tokio::test]
async fn the_default_port_is_the_schemes() {
    let layer =
        layer(|builder| builder.allowed_origins(["https://a.example:443", "http://b.example:80"]))
            .await;
    assert_carries(&layer, &["https://a.example/", "http://b.example/"]).await;
    assert_refused(&layer, &["https://a.example:80/", "http://b.example:443/"]).await;
}

#[tokio::test]
async fn other_origins_get_their_requests_without_the_token_where_that_is_asked_for() {
    let layer = layer(|builder| {
        builder.allowed_origin("https://api.example.com").pass_other_origins_without_token()
    })
    .await;
    assert_carries(&layer, &["https://api.example.com/"]).await;
    for uri in ["https://other.example/", "http://localhost/", "http://api.example.com/"] {
        assert_eq!(sent(&layer, uri).await.unwrap(), None, "{uri}");
    }
}

#[tokio::test]
async fn plain_http_is_allowed_by_its_dangerous_name() {
    let layer = layer(LayerBuilder::dangerously_allow_plain_http).await;
    assert_carries(&layer, &["http://api.example.com/", "https://api.example.com/"]).await;
    assert_refused(&layer, &["ftp://api.example.com/"]).await;
}

/// Passwords in URLs end up in logs through errors; paths and queries may be secret as well.
#[tokio::test]
async fn the_error_names_the_origin_and_nothing_else_of_the_target() {
    let layer = layer(|builder| builder).await;
    let uri = "http://us3r:c4n4ry@api.example.com:8080/p4th?qu3ry=1";
    let error = sent(&layer, uri).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("http://api.example.com:8080"), "{text}");
    assert!(text.contains("https"), "says what to do: {text}");
    for secret in ["us3r", "c4n4ry", "p4th", "qu3ry"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_target_that_is_refused_asks_for_no_token() {
    let tap = Tap::open();
    assert_refused(&tap.layer(), &["http://api.example.com/"]).await;
    crate::tap::settle().await;
    assert_eq!(tap.asked(), 0);
}

// An empty list from a configuration file let the token go everywhere.
#[test]
fn an_empty_list_of_allowed_origins_is_an_error() {
    let builder = || Builder::basic("id", "secret");
    let error = builder().allowed_origins(Vec::<String>::new()).build().unwrap_err();
    assert_eq!(error.setting(), "allowed_origin");
    assert!(error.to_string().starts_with("allowed_origin names no origin"), "{error}");
    assert!(builder().allowed_origins(["https://api.example.com"]).build().is_ok());
}

/// `http::Uri` and `url::Url` print an origin with a trailing slash, which used to be rejected.
#[tokio::test]
async fn an_allowed_origin_may_be_a_printed_url_or_an_origin_that_was_read_before() {
    let uri: Uri = "https://api.example.com".parse().unwrap();
    let url = reqwest::Url::parse("https://api.example.com").unwrap();
    let origin: Origin = "https://api.example.com".parse().unwrap();
    let text = String::from("https://api.example.com");
    for layer in [
        layer(|builder| builder.allowed_origin(uri.to_string())).await,
        layer(|builder| builder.allowed_origin(&url)).await,
        layer(|builder| builder.allowed_origin(&text)).await,
        layer(|builder| builder.allowed_origin(&origin)).await,
        layer(|builder| builder.allowed_origins([origin.clone()])).await,
        layer(|builder| builder.allowed_origins([&origin])).await,
    ] {
        assert_carries(&layer, &["https://api.example.com/v1"]).await;
        assert_refused(&layer, &["https://www.api.example.com/v1"]).await;
    }
}

/// Two parsers that interpret a URL differently can bypass a list of origins: the layer checks an
/// `http::Uri`, and reqwest sends to a `url::Url`.
#[tokio::test]
async fn no_url_goes_elsewhere_with_the_token_by_another_parser() {
    const PIECES: [&str; 52] = [
        "https",
        "http",
        "://",
        ":",
        "/",
        "//",
        "@",
        "\\",
        "?",
        "#",
        "api.example.com",
        "evil.com",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[",
        "]",
        "%40",
        "%2e",
        "%",
        "0x7f.1",
        "443",
        "80",
        "99999",
        ".",
        "..",
        "user",
        ";",
        "&",
        "*",
        "a",
        "-",
        "_",
        "~",
        "!",
        "$",
        "'",
        "(",
        ",",
        "=",
        "|",
        "^",
        "`",
        "{",
        "\"",
        "xn--",
        "::",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]",
        "2130706433",
        "0127.0.0.1",
        "127.1",
    ];
    let seed = crate::kit::from_env("FUZZ_SEED").unwrap_or(88_172_645_463_325_252);
    let rounds = crate::kit::from_env("FUZZ_ITERATIONS").unwrap_or(600_000);
    let mut state = seed;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let tap = Tap::open();
    let listed = ["https://api.example.com", "http://localhost:80", "https://[::1]:443"];
    let listed = tap.builder().allowed_origins(listed).build().unwrap();
    let any = tap.layer();
    // The decision about a request is made in `call`.
    let sent = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for layer in [any, listed] {
        layer.cache().token().await.unwrap();
        let sent = Arc::clone(&sent);
        clients.push(layer.layer(tower::service_fn(move |request: Request<Body>| {
            sent.store(request.headers().contains_key(AUTHORIZATION), Ordering::Relaxed);
            std::future::ready(Ok::<_, std::convert::Infallible>(ok::<Body>()))
        })));
    }
    let mut compared = 0;
    for _ in 0..rounds {
        let mut text = ["https://", "http://", "HTTPS://", ""][random(4)].to_owned();
        for _ in 0..=random(7) {
            text.push_str(PIECES[random(PIECES.len())]);
        }
        let Ok(uri) = text.parse::<Uri>() else { continue };
        assert!(uri.authority().is_some() || uri.scheme().is_none(), "{text:?}, seed {seed}");
        for (client, listed) in clients.iter_mut().zip([false, true]) {
            sent.store(false, Ordering::Relaxed);
            drop(client.call(Request::get(uri.clone()).body(Body::default()).unwrap()));
            if !sent.load(Ordering::Relaxed) {
                continue;
            }
            // Relative URIs are not URLs.
            let Ok(url) = reqwest::Url::parse(&uri.to_string()) else { continue };
            compared += 1;
            let host = url.host_str().unwrap_or_default();
            let loopback = ["localhost", "[::1]"].contains(&host) || host.starts_with("127.");
            let port = url.port_or_known_default();
            let good = match (url.scheme(), host, port) {
                ("https", ..) if !listed => true,
                ("http", ..) if !listed => loopback,
                ("https", "api.example.com" | "[::1]", Some(443)) => listed,
                ("http", "localhost", Some(80)) => listed,
                _ => false,
            };
            assert!(good, "{text:?} goes to {url} with the token, seed {seed}");
        }
    }
    assert!(compared > rounds / 100, "{compared} compared");
}
