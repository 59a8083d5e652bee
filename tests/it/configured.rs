//! The effect of settings on the behavior and messages of a client.

use std::time::Duration;

use tower_oauth2_client_credentials::{
    BoxError, ErrorClass, TokenCache, TokenError, TokenResponse,
    credentials::{ClientCredentials, CredentialsProvider, RotatingSecret},
    endpoint::TokenEndpoint,
    source_fn,
    testing::{Answer, AuthorizationServer},
    token::{Attempt, BoxFuture},
};

use crate::tap::settle;

struct Sealed;

impl CredentialsProvider for Sealed {
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
        Box::pin(std::future::ready(Err("the vault is sealed".into())))
    }
}

/// Fails with the first response, and again from memory.
async fn errors(cache: &TokenCache) -> [TokenError; 2] {
    [cache.token().await.unwrap_err(), cache.token().await.unwrap_err()]
}

// In one log of twelve clients, it must be clear which one was refused.
#[tokio::test(start_paused = true)]
async fn an_error_says_which_client_it_is_of() {
    let server = AuthorizationServer::new();
    let url: http::Uri = server.token_url().parse().unwrap();
    let host = url.authority().unwrap().as_str();
    let plain = || TokenCache::builder().token_url(server.token_url()).transport(server.service());

    server.script((0..20).map(|_| Answer::invalid_client()));
    let with_secret = plain().client_id("reports").client_secret("s").build().unwrap();
    for error in errors(&with_secret).await {
        let client = format!("reports at {host}");
        assert_eq!(error.client(), Some(&*client));
        let text = error.to_string();
        assert!(text.contains(" 401 invalid_client"), "{text}");
        assert!(text.contains(&format!(" [client {client}]")), "{text}");
        assert!(format!("{error:?}").contains(&client), "{error:?}");
    }
    let rotating = plain().credentials(RotatingSecret::new("mail", "s")).build().unwrap();
    for error in errors(&rotating).await {
        assert_eq!(error.client(), Some(&*format!("mail at {host}")));
    }
    let sealed = plain().credentials(Sealed).build().unwrap();
    for error in errors(&sealed).await {
        assert_eq!(error.client(), Some(&*format!("at {host}")));
    }
    let named = plain().client_id("reports").client_secret("s").name("crm").build().unwrap();
    for error in errors(&named).await {
        assert_eq!(error.client(), Some("crm"));
    }
    let endpoint = TokenEndpoint::builder().token_url(server.token_url());
    let endpoint = endpoint.transport(server.service()).credentials(Sealed).name("crm");
    let unnamed = TokenCache::new(endpoint.build().unwrap());
    for error in errors(&unnamed).await {
        assert_eq!(error.client(), Some("crm"), "the endpoint's own name");
    }
}

// Errors that do not come from the source: its attempt timed out, it panicked, or the budget is
// used up.
#[tokio::test(start_paused = true)]
async fn an_error_that_is_not_the_sources_says_which_client_too() {
    let named = |source: Source| {
        let builder = TokenCache::builder_from(source_fn(source)).name("crm");
        builder
            .renewal_timeout(Duration::from_secs(2))
            .issuance_budget(1, Duration::from_secs(3600))
    };
    let never = named(Box::new(|_| Box::pin(std::future::pending()))).build().unwrap();
    for error in errors(&never).await {
        assert_eq!((error.client(), error.class()), (Some("crm"), ErrorClass::Transient));
    }
    let gone = named(Box::new(|_| panic!("as the test wants it"))).build().unwrap();
    assert_eq!(gone.token().await.unwrap_err().client(), Some("crm"));
    let once = || async { Ok(TokenResponse::bearer("t")?.expires_in(Duration::ZERO)) };
    let spent = named(Box::new(move |_| Box::pin(once()))).build().unwrap();
    spent.token().await.unwrap();
    let error = spent.token().await.unwrap_err();
    assert_eq!((error.client(), error.class()), (Some("crm"), ErrorClass::Budget));

    let nameless = source_fn(|_| async { Err(TokenError::new(ErrorClass::Request, "no")) });
    for error in errors(&TokenCache::new(nameless)).await {
        assert_eq!(error.client(), None);
        assert!(error.to_string().starts_with("no") && !error.to_string().contains('['), "{error}");
    }
}

/// Returns a source for any of these closures.
type Answering = BoxFuture<'static, Result<TokenResponse, TokenError>>;
type Source = Box<dyn Fn(Attempt) -> Answering + Send + Sync>;

// A hook may report the header that was sent long after the token was replaced.
#[tokio::test(start_paused = true)]
async fn a_rejected_header_renews_its_own_token_and_no_other() {
    let server = AuthorizationServer::new();
    let cache = TokenCache::builder()
        .token_url(server.token_url())
        .transport(server.service())
        .client_id("test-client")
        .client_secret("test-secret")
        .build()
        .unwrap();
    cache.rejected_header(&"Bearer nobody's".parse().unwrap());
    let first = cache.token().await.unwrap();
    for foreign in ["Bearer nobody's", "Basic bWU6bWU="] {
        cache.rejected_header(&foreign.parse().unwrap());
    }
    assert_eq!(cache.token().await.unwrap().expose_secret(), first.expose_secret());

    for _ in 0..3 {
        cache.rejected_header(first.header());
        settle().await;
        assert_ne!(cache.token().await.unwrap().expose_secret(), first.expose_secret());
    }
    assert_eq!(server.requests(), 2, "the second and third say nothing of the current token");
}
