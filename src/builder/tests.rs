//! Tests of the settings, for all targets.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header};
use http_body_util::Full;
use tower_service::Service;

use super::{
    base::Builder,
    target::{
        ForCache, ForEndpoint, ForLayer, FromEndpoint, HasCache, MakesCache,
        sealed::{self, Target},
    },
};
use crate::{
    cache::TokenCache,
    credentials::{ClientCredentials, RotatingSecret},
    endpoint::{
        ClientAuthentication, Dialect, TokenEndpoint, Transport, TransportRequestBody, preset,
    },
    error::BoxError,
    token::{BoxFuture, TokenResponse, source_fn},
};

/// A transport that must not be called.
pub(super) fn unreachable() -> Arc<dyn Transport> {
    struct Unreachable;

    impl Transport for Unreachable {
        fn send<'a>(
            &'a self,
            _: http::Request<TransportRequestBody>,
        ) -> BoxFuture<'a, Result<http::Response<crate::endpoint::TransportResponseBody>, BoxError>>
        {
            Box::pin(std::future::ready(Err("unreachable".into())))
        }
    }

    Arc::new(Unreachable)
}

fn bare() -> Builder<ForEndpoint> {
    bare_for()
}

fn good() -> Builder<ForEndpoint> {
    good_for()
}

fn bare_for<T: Target + Default>() -> Builder<T> {
    let builder = Builder::with(FromEndpoint::default());
    builder.token_url("https://a.example/t").shared_transport(unreachable())
}

fn good_for<T: Target + Default>() -> Builder<T> {
    bare_for().client_id("me").client_secret("c4n4ry")
}

#[test]
fn good_settings_make_a_source() {
    let file = || bare().client_id("me").client_secret_file("/nonexistent");
    let provider = || bare().credentials(RotatingSecret::new("me", "c4n4ry"));
    for builder in [good(), file(), provider(), good().client_id("other")] {
        assert!(builder.build().is_ok());
    }
    let many = good()
        .scope("a b")
        .scopes(["b", "c"])
        .audience("x")
        .resource("urn:a")
        .resource("urn:b")
        .param("tenant", "c4n4ry")
        .param("empty", "")
        .header("X-Api-Key", "c4n4ry")
        .dangerously_allow_insecure_token_url()
        .token_url("http://a.internal/t?key=c4n4ry");
    let debug = format!("{many:?}") + &format!("{:?}", many.build().unwrap());
    assert!(debug.contains("\"a b c\""), "{debug}");
    assert!(!debug.contains("c4n4ry"), "{debug}");
}

// This was found by the first token request or not at all: templates leave trailing newlines.
#[test]
fn space_around_a_token_url_is_not_part_of_it() {
    for url in [" https://a.example/t", "https://a.example/t\n", "\thttps://a.example/t "] {
        let debug = format!("{:?}", good().token_url(url).build().unwrap());
        assert!(debug.contains(r#"path: "/t""#), "{debug}");
    }
    assert!(good().token_url("https://a.example/t t").build().is_err());
}

#[test]
fn a_dialect_that_needs_an_audience_says_so_when_the_client_is_built() {
    let error = good().dialect(Dialect::auth0()).build().unwrap_err();
    assert_eq!(error.setting(), "audience");
    assert!(error.to_string().starts_with("audience is not set, and the provider's"), "{error}");
    let api = "https://api.example.com";
    assert!(good().dialect(Dialect::auth0()).audience(api).build().is_ok());
    assert!(good().dialect(Dialect::auth0()).param("audience", api).build().is_ok());
    let renamed = Dialect::auth0().audience_field("api");
    assert!(good().dialect(renamed.clone()).param("audience", api).build().is_err());
    assert!(good().dialect(renamed).audience(api).build().is_ok());
}

#[test]
fn client_authentication_counts_whether_it_is_set_before_the_dialect_or_after() {
    let post = ClientAuthentication::ClientSecretPost;
    for builder in [
        good().client_authentication(post).dialect(Dialect::rfc6749()),
        good().dialect(Dialect::rfc6749()).client_authentication(post),
    ] {
        let debug = format!("{:?}", builder.build().unwrap());
        assert!(debug.contains("client_authentication: ClientSecretPost"), "{debug}");
    }
}

const CREDENTIALS_TWICE: &str = "credentials cannot be set together with client_id, \
                                 client_secret or client_secret_file: leave out";

#[test]
fn what_is_wrong_is_named_and_no_secret_is_shown() {
    let headers = |name, value| good().header(name, value);
    for (builder, said) in [
        (TokenEndpoint::builder().client_id("me").client_secret("x"), "token_url is not set"),
        (good().token_url("http://a.example/t"), "token_url would send the secret over plain"),
        (good().token_url("https://u:c4n4ry@a.example"), "token_url has credentials in it"),
        (good().client_id(""), "client_id is empty"),
        (good().client_id("a\u{7}b"), r#"client_id has a control character: "a\u{7}b""#),
        (bare().client_secret("c4n4ry"), "client_id is not set"),
        (bare().client_id("me"), "client_secret is not set"),
        (good().client_secret(""), "client_secret is empty"),
        (good().client_secret("c4n4ry\n"), "client_secret has a newline at its end"),
        (good().client_secret("c4n4ry\0c4n4ry"), "client_secret has a control character"),
        (good().client_secret_file("/x"), "client_secret and client_secret_file are both set"),
        (bare().client_id("me").client_secret_file(""), "client_secret_file is empty"),
        (good().credentials(ClientCredentials::new("a", "b")), CREDENTIALS_TWICE),
        (good().scope("a\"b"), r#"scope has '"', which RFC 6749 section 3.3 forbids: "a\"b""#),
        (good().scopes(["ok", "a\\b"]), r"scope has '\\'"),
        (good().scope("é"), "scope has 'é'"),
        (good().scope("a\nb"), "scope has '\\n'"),
        (good().audience(""), "audience is empty"),
        (good().resource("a\nb"), "resource has a control character"),
        (good().param("", "x"), "param has an empty name"),
        (good().param("grant_type", "x"), r#"param puts "grant_type" into the token request"#),
        (good().param("a", "x").param("a", "y"), r#"param puts "a" into"#),
        (good().dialect(preset::dadi().client_id_field("secret")), r#"dialect puts "secret" into"#),
        (good().dialect(preset::dadi().client_id_field("")), "dialect has a field with an"),
        (headers("a b", "x"), r#"header has an invalid name: "a b""#),
        (headers("x-a", "c4n4ry\n"), "header x-a has a value with invalid characters"),
        (headers("Authorization", "c4n4ry"), "header authorization must not be set"),
        (
            good().dialect(preset::dadi().header(header::HOST, HeaderValue::from_static("a"))),
            "header host must not be set",
        ),
        (good().ca_file("/ca.pem"), "ca_file is for the default transport"),
        (good().ca_pem("x"), "ca_pem is for the default transport"),
        (good().scope("\"first\"").client_id(""), "scope has"),
    ] {
        let error = builder.build().unwrap_err();
        let text = format!("{error}");
        assert!(text.starts_with(said), "{said}: {text}");
        assert!(!format!("{text} {error:?}").contains("c4n4ry"), "{text}");
    }
}

// A setting equal to its default counted as unset, and a builder for something else accepted it
// silently.
#[test]
fn every_kind_of_client_takes_the_settings_that_it_has() {
    fn of_layer<S: sealed::Source>(builder: Builder<ForLayer, S>) -> Builder<ForLayer, S> {
        builder
            .allowed_origin("https://a.example")
            .pass_other_origins_without_token()
            .dangerously_allow_plain_http()
            .replace_authorization()
            .forbidden_means_rejected()
            .rejected_when(|_| false)
            .replay_limit(crate::policy::REPLAY_LIMIT)
    }
    fn of_cache<T: HasCache, S: MakesCache>(builder: Builder<T, S>) -> Builder<T, S> {
        builder
            .attempt_timeout(Duration::from_secs(1))
            .renewal_timeout(Duration::from_secs(60))
            .default_lifetime(Duration::from_secs(60))
            .max_lifetime(Duration::from_secs(3600))
            .issuance_budget(1, Duration::from_secs(60))
            .keep_warm()
    }
    let source = || source_fn(|_| async { TokenResponse::bearer("t0k3n") });
    assert!(of_layer(of_cache(good_for())).build().is_ok());
    assert!(of_layer(of_cache(Builder::from_source(source()))).build().is_ok());
    let cache = of_cache(good_for::<ForCache>()).build().unwrap();
    assert!(of_layer(Builder::from_cache(cache)).build().is_ok());
    assert!(of_layer(Builder::basic("id", "secret")).build().is_ok());
    assert!(of_cache(TokenCache::builder_from(source())).build().is_ok());
}

// An attempt with a longer timeout than its renewal was cut off by the renewal's deadline.
#[test]
fn an_attempt_may_not_take_longer_than_its_renewal() {
    let secs = Duration::from_secs;
    for builder in [
        good_for::<ForCache>().attempt_timeout(secs(31)),
        good_for().attempt_timeout(secs(2)).renewal_timeout(secs(1)),
        good_for().renewal_timeout(secs(1)).attempt_timeout(secs(2)),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.setting(), "attempt_timeout");
        assert!(error.to_string().contains("renewal_timeout"), "{error}");
    }
    for builder in [
        good_for::<ForCache>().attempt_timeout(secs(30)),
        good_for().renewal_timeout(secs(1)),
        good_for().attempt_timeout(secs(60)).renewal_timeout(secs(60)),
    ] {
        assert!(builder.build().is_ok());
    }
}

#[test]
fn what_a_cache_cannot_do_is_named() {
    let zero = Duration::ZERO;
    for (builder, said) in [
        (good_for::<ForCache>().attempt_timeout(zero), "attempt_timeout must be longer than zero"),
        (good_for().issuance_budget(1, zero), "issuance_budget has a period of zero"),
        (
            good_for().issuance_budget(0, Duration::from_secs(1)),
            "issuance_budget must allow at least one token",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), said);
    }
}

#[test]
fn a_static_id_and_secret_that_basic_cannot_carry_are_named() {
    for (id, secret, said) in [
        ("", "", "basic has neither an id nor a secret"),
        (" \t", "c4n4ry", "basic has an id or a secret of nothing but blanks"),
        ("me", "  ", "basic has an id or a secret of nothing but blanks"),
        ("c4n:4ry", "x", "basic has an id with a colon, which RFC 7617 forbids"),
        ("me", "c4n4ry\n", "basic has a control character in the id or the secret"),
        ("me", &"c4n4ry".repeat(2100), "basic has an id and a secret of more than 12 KiB"),
    ] {
        let error = Builder::basic(id, secret).build().unwrap_err();
        assert_eq!(error.setting(), "basic");
        let text = error.to_string();
        assert!(text.starts_with(said), "{text}");
        assert!(!text.contains("c4n"), "{text}");
    }
    assert!(Builder::basic("a id", "b é ").build().is_ok());
}

/// The endpoint reads the clock as well.
#[cfg(feature = "testing")]
#[test]
fn a_clock_is_for_the_source_too() {
    let clock = crate::testing::ManualClock::new();
    assert!(good().clock(clock.clone()).build().is_ok());
    assert!(good_for::<ForCache>().jitter_seed(7).clock(clock).build().is_ok());
}

#[test]
fn without_a_transport_the_feature_is_named() {
    let mut builder = good();
    builder.source.transport = None;
    if cfg!(not(feature = "rustls")) {
        let text = builder.build().unwrap_err().to_string();
        assert!(text.contains("feature `rustls`") && text.contains("Builder::transport"));
    }
}

#[test]
fn a_service_that_is_not_sync_is_a_transport() {
    #[derive(Clone)]
    struct NotSync(std::cell::Cell<u8>);

    impl Service<http::Request<TransportRequestBody>> for NotSync {
        type Response = http::Response<Full<std::io::Cursor<Vec<u8>>>>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            self.0.set(1);
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<TransportRequestBody>) -> Self::Future {
            std::future::ready(Err(std::io::Error::other("no")))
        }
    }

    assert!(good().transport(NotSync(0.into())).build().is_ok());
}
