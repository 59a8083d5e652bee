//! Where the token may go, end to end: what is refused is refused before anything is sent.

use http::{Request, Uri};
use tokio_test::{assert_ready_err, assert_ready_ok, task};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, OAuthClientCredentials, OAuthClientCredentialsLayer, Origin, TokenError,
};
use tower_test::mock::{self, Mock};

use crate::tap::{Body, LayerBuilder, Tap, ok, token_of};

type Client = mock::Spawn<OAuthClientCredentials<Mock<Request<Body>, http::Response<Body>>>>;

/// What becomes of a request for `uri`: the token it carries, or the error.
async fn sent(
    layer: &OAuthClientCredentialsLayer,
    uri: &str,
) -> Result<Option<String>, TokenError> {
    let (mut client, mut handle): (Client, _) = mock::spawn_layer(layer.clone());
    assert_ready_ok!(client.poll_ready());
    let uri: Uri = uri.parse().unwrap();
    let mut response = task::spawn(client.call(Request::get(uri).body(Body::default()).unwrap()));
    let mut look = task::spawn(());
    let std::task::Poll::Ready(Some((request, respond))) = look.enter(|_, _| handle.poll_request())
    else {
        let error = assert_ready_err!(response.poll());
        return Err(error.downcast_ref::<TokenError>().unwrap().clone());
    };
    respond.send_response(ok());
    assert_ready_ok!(response.poll());
    Ok(token_of(request.headers()).map(str::to_owned))
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

/// Whoever is on the way reads a token that goes out by plain HTTP.
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

/// The origin is fixed by what is below the layer, a base URL or a Unix socket.
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

/// Passwords in URLs end in logs by way of errors; paths and queries may be secret as well.
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

// A list from a configuration file was empty, and the token went everywhere.
#[test]
fn an_empty_list_of_allowed_origins_is_an_error() {
    let builder = || Builder::basic("id", "secret");
    let error = builder().allowed_origins(Vec::<String>::new()).build().unwrap_err();
    assert_eq!(error.setting(), "allowed_origin");
    assert!(error.to_string().starts_with("allowed_origin names no origin"), "{error}");
    assert!(builder().allowed_origins(["https://api.example.com"]).build().is_ok());
}

/// `http::Uri` and `url::Url` print an origin with a slash, and it was no origin then.
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
