use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use http::{Request, header};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, Scope, TokenResponse as _,
    TokenUrl, basic::BasicClient,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    adapter::oauth2::{HttpClient, OAuth2Transport, builder},
    endpoint::{RustlsTransport, Transport},
    testing::{Answer, AuthorizationServer, BasicDecoding, TokenRequest},
};

use crate::adapter_support::World;

fn transport() -> Arc<dyn Transport> {
    Arc::new(RustlsTransport::new())
}

/// Everything in a token request that a server examines.
fn seen(request: &TokenRequest) -> (String, Vec<(String, String)>, BTreeSet<String>) {
    let names =
        [header::ACCEPT, header::CONTENT_TYPE, header::AUTHORIZATION, header::CONTENT_LENGTH];
    let headers = names.iter().filter_map(|name| {
        let value = request.headers().get(name)?;
        Some((name.to_string(), value.to_str().unwrap().to_owned()))
    });
    let body = String::from_utf8(request.body().to_vec()).unwrap();
    (
        format!("{} {}", request.method(), request.uri()),
        headers.collect(),
        body.split('&').map(str::to_owned).collect(),
    )
}

/// Returns the request that the oauth2 crate sends, and the one that the layer sends with the same
/// client's settings.
#[tokio::test]
async fn our_token_request_is_the_oauth2_crates_own() {
    let secrets = ["test-secret", "s/e+c:r&e=t%25ä\u{1f511}", "\"quoted\"", "plus+plus"];
    for (auth_type, secret) in
        [AuthType::BasicAuth, AuthType::RequestBody].iter().flat_map(|a| secrets.map(|s| (a, s)))
    {
        // The encoding of the oauth2 crate.
        let server = AuthorizationServer::builder()
            .client("my:client", secret)
            .basic_decoding(BasicDecoding::Form)
            .build();
        let running = server.serve().await.unwrap();
        let client = BasicClient::new(ClientId::new("my:client".into()))
            .set_client_secret(ClientSecret::new(secret.into()))
            .set_auth_type(auth_type.clone())
            .set_token_uri(TokenUrl::new(running.url("/token")).unwrap());
        let request = || {
            client
                .exchange_client_credentials()
                .add_scope(Scope::new("read:a".into()))
                .add_scope(Scope::new("write".into()))
                .add_extra_param("audience", "https://api.example.com/")
                .add_extra_param("tenant", "a b&c=ä~*+")
        };
        let token = request().request_async(&HttpClient::new(transport())).await.unwrap();
        assert_eq!(Some(token.access_token().secret()), server.last_token().as_ref());

        let cache = builder(request()).build().unwrap().cache();
        cache.token().await.unwrap();
        let journal = server.journal();
        assert_eq!(journal.len(), 2);
        assert_eq!(seen(&journal[0]), seen(&journal[1]), "{auth_type:?} {secret}");
    }
}

/// The exception is a space in HTTP Basic. Servers that decode forms understand both.
#[tokio::test]
async fn a_secret_with_spaces_is_understood_as_well() {
    let server = AuthorizationServer::builder()
        .client("my client", "a ~*b")
        .basic_decoding(BasicDecoding::Form)
        .build();
    let running = server.serve().await.unwrap();
    let client = BasicClient::new(ClientId::new("my client".into()))
        .set_client_secret(ClientSecret::new("a ~*b".into()))
        .set_token_uri(TokenUrl::new(running.url("/token")).unwrap());
    let request = || client.exchange_client_credentials();
    request().request_async(&HttpClient::new(transport())).await.unwrap();
    builder(request()).build().unwrap().cache().token().await.unwrap();
    assert_eq!(server.issued(), 2);
}

#[test]
fn settings_that_the_oauth2_crate_takes_are_checked() {
    let client = || BasicClient::new(ClientId::new("me".into()));
    let url = |url: &str| TokenUrl::new(url.into()).unwrap();
    let secret = || ClientSecret::new("s3cr3t".into());
    let plain = client().set_client_secret(secret()).set_token_uri(url("http://a.example/t"));
    let error = builder(plain.exchange_client_credentials()).build().unwrap_err();
    assert_eq!(error.setting(), "token_url");
    let no_secret = client().set_token_uri(url("https://a.example/t"));
    let error = builder(no_secret.exchange_client_credentials()).build().unwrap_err();
    assert_eq!(error.setting(), "client_secret");
    let good = client().set_client_secret(secret()).set_token_uri(url("https://a.example/t?k=v"));
    let twice = good.exchange_client_credentials().add_extra_param("scope", "x");
    builder(twice).build().unwrap();
    let twice =
        good.exchange_client_credentials().add_extra_param("a", "1").add_extra_param("a", "2");
    assert_eq!(builder(twice).build().unwrap_err().setting(), "param");
    assert!(!format!("{:?}", builder(good.exchange_client_credentials())).contains("s3cr3t"));
}

/// Guards against two headers of a name of which the last silently wins, where the oauth2 crate
/// sends both.
#[test]
fn a_parameter_that_is_there_twice_is_an_error_and_none_is_dropped() {
    for auth_type in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = BasicClient::new(ClientId::new("me".into()))
            .set_client_secret(ClientSecret::new("s3cr3t".into()))
            .set_auth_type(auth_type.clone())
            .set_token_uri(TokenUrl::new("https://a.example/t".into()).unwrap());
        let request = || client.exchange_client_credentials();
        let audience = |value: &'static str| request().add_extra_param("audience", value);
        for (name, twice) in [
            ("audience", audience("a").add_extra_param("audience", "b")),
            ("scope", request().add_scope(Scope::new("a".into())).add_extra_param("scope", "b")),
            ("client_id", request().add_extra_param("client_id", "a")),
            ("client_secret", request().add_extra_param("client_secret", "a")),
            ("grant_type", request().add_extra_param("grant_type", "password")),
        ] {
            let in_header = matches!(auth_type, AuthType::BasicAuth) && name.starts_with("client_");
            let twice = if in_header { twice.add_extra_param(name, "b") } else { twice };
            let error = builder(twice).build().expect_err(name);
            assert_eq!(error.setting(), "param", "{name}");
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        // A token request may name several resources (RFC 8707 section 2).
        let resources =
            audience("a").add_extra_param("resource", "b").add_extra_param("resource", "c");
        builder(resources).build().unwrap();
    }
}

/// Guards against an id in the body that replaces the one in the header.
#[tokio::test]
async fn with_basic_an_id_in_the_body_is_one_more_parameter() {
    let server = AuthorizationServer::builder()
        .client("test-client", "test-secret")
        .basic_decoding(BasicDecoding::Form)
        .build();
    let running = server.serve().await.unwrap();
    let client = BasicClient::new(ClientId::new("test-client".into()))
        .set_client_secret(ClientSecret::new("test-secret".into()))
        .set_token_uri(TokenUrl::new(running.url("/token")).unwrap());
    let request =
        || client.exchange_client_credentials().add_extra_param("client_id", "another in the body");
    let _ = request().request_async(&HttpClient::new(transport())).await;
    let _ = builder(request()).build().unwrap().cache().token().await;
    let journal = server.journal();
    assert_eq!(journal.len(), 2);
    assert_eq!(seen(&journal[0]), seen(&journal[1]));
}

/// Any client of the oauth2 crate; here a function that wraps a transport of this crate.
#[tokio::test]
async fn an_http_client_of_the_oauth2_crate_carries_our_token_requests() {
    let world = World::new().await;
    let calls = Arc::new(AtomicU32::new(0));
    let client = {
        let calls = Arc::clone(&calls);
        let inner = HttpClient::new(transport());
        move |request: HttpRequest| {
            calls.fetch_add(1, Ordering::SeqCst);
            let inner = inner.clone();
            async move {
                oauth2::AsyncHttpClient::call(&inner, request).await as Result<HttpResponse, _>
            }
        }
    };
    let layer =
        world.builder().shared_transport(Arc::new(OAuth2Transport::new(client))).build().unwrap();
    let service = ServiceBuilder::new().layer(layer).service(world.api.service());
    let request = Request::get("http://localhost/").body(String::new()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!((calls.load(Ordering::SeqCst), world.server.requests()), (1, 1));
}

#[tokio::test]
async fn an_answer_without_end_is_an_error_of_ours_to_the_oauth2_crate() {
    let world = World::new().await;
    world.server.respond_once(Answer::html(http::StatusCode::OK).with_body_of(300 * 1024));
    let client = BasicClient::new(ClientId::new("test-client".into()))
        .set_client_secret(ClientSecret::new("test-secret".into()))
        .set_token_uri(TokenUrl::new(world.token_endpoint.url("/token")).unwrap());
    let http_client = HttpClient::new(transport());
    let error = client.exchange_client_credentials().request_async(&http_client).await.unwrap_err();
    let oauth2::RequestTokenError::Request(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains("256 KiB"), "{error}");
}
