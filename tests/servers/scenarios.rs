//! What holds with every server, tried with each.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, Version};
use tower_oauth2_client_credentials::{BoxError, ErrorClass, TokenError};

use crate::{
    harness::{
        client::{Caller, get},
        stand::{Plan, Provider, Stand},
    },
    runner::Test,
};

pub(crate) fn add(tests: &mut Vec<Test>) {
    let plans = [
        ("django", Plan::new(Provider::DjangoJson)),
        ("django_form", Plan::new(Provider::DjangoForm)),
        ("oidc_jwt", Plan::new(Provider::OidcJwt)),
        ("oidc_opaque", Plan::new(Provider::OidcOpaque)),
        ("nginx_django", Plan::new(Provider::DjangoJson).behind_nginx()),
        ("nginx_oidc", Plan::new(Provider::OidcOpaque).behind_nginx()),
    ];
    for (name, plan) in plans {
        let mut add = |what: &str, body| tests.push(Test::new(format!("{name}::{what}"), body));
        add("the_first_call_gets_a_token", boxed(first_token(plan)));
        add("a_thousand_calls_cost_one_token_request", boxed(thousand(plan)));
        add("no_call_fails_over_several_lifetimes", boxed(lifetimes(plan)));
        if plan.provider != Provider::OidcJwt {
            // A JWT cannot be withdrawn.
            add("a_revocation_under_calls_costs_one_renewal", boxed(revocation(plan)));
        }
        add("a_wrong_secret_is_told_as_such", boxed(wrong_secret(plan)));
        add("an_unknown_scope_is_told_or_dropped_by_the_server", boxed(unknown_scope(plan)));
        add("a_server_that_is_down_is_told_and_found_again", boxed(restart(plan)));
    }
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(body: impl Future<Output = ()> + Send + 'static) -> Boxed {
    Box::pin(body)
}

/// The answer, which must be a good one.
pub(crate) fn good(answer: Result<Response<Bytes>, BoxError>) -> Response<Bytes> {
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    answer
}

/// Why there is no token.
pub(crate) fn no_token(answer: Result<Response<Bytes>, BoxError>) -> TokenError {
    *answer.expect_err("no token").downcast::<TokenError>().expect("a TokenError")
}

/// `count` calls at once; all answers are good ones.
async fn crowd(caller: &Caller, url: &str, count: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (caller, url) = (caller.clone(), url.to_owned());
        tasks.spawn(async move { good(get(&caller, &url).await) });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic");
    }
}

async fn first_token(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder());
    for _ in 0..3 {
        let answer = good(get(&caller, &stand.api_url()).await);
        let version = if plan.behind_nginx { Version::HTTP_2 } else { Version::HTTP_11 };
        assert_eq!(answer.version(), version);
        let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(json["client"], plan.client_id());
        assert_eq!(json["scope"], "read write");
    }
    assert_eq!(stand.server.token_requests().await, 1);
}

async fn thousand(plan: Plan) {
    let stand = plan.start().await;
    // All of them are there before the first token is.
    stand.server.fault("delay_ms=500").await;
    let caller = stand.caller(stand.builder());
    crowd(&caller, &stand.api_url(), 1000).await;
    let stats = stand.server.stats().await;
    assert_eq!(stats.token_requests, 1);
    assert_eq!(stats.api_by_status["200"], 1000, "{stats:?}");
}

async fn lifetimes(plan: Plan) {
    let lifetime = if plan.provider == Provider::OidcJwt { 2 } else { 3 };
    let stand = plan.lifetime(lifetime).start().await;
    let caller = stand.caller(stand.builder());
    let until = tokio::time::sleep(Duration::from_secs(u64::from(lifetime) * 3));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (caller, url) = (caller.clone(), stand.api_url());
            tokio::spawn(async move {
                loop {
                    good(get(&caller, &url).await);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    until.await;
    for client in clients {
        assert!(!client.is_finished(), "{:?}", client.await);
        client.abort();
        let _aborted = client.await;
    }
    let stats = stand.server.stats().await;
    // Each is used for 45 % of its lifetime at least, but for the last.
    assert!((3..=8).contains(&stats.token_requests), "{stats:?}");
    assert_eq!(stats.token_by_status["200"], stats.token_requests);
}

async fn revocation(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder());
    let (url, enough) = (stand.api_url(), Arc::new(tokio::sync::Semaphore::new(0)));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (caller, url, enough) = (caller.clone(), url.clone(), Arc::clone(&enough));
        calls.spawn(async move {
            good(get(&caller, &url).await);
            enough.add_permits(1);
        });
    }
    enough.acquire_many(100).await.expect("open").forget();
    stand.server.revoke().await;
    while let Some(result) = calls.join_next().await {
        result.expect("no panic");
    }
    good(get(&caller, &url).await);
    let stats = stand.server.stats().await;
    assert_eq!(stats.token_requests, 2, "{stats:?}");
    assert!(stats.api_by_status["401"] >= 1, "{stats:?}");
    // Once more, soon after.
    stand.server.revoke().await;
    crowd(&caller, &url, 50).await;
    assert_eq!(stand.server.token_requests().await, 3);
}

async fn wrong_secret(plan: Plan) {
    let stand = plan.start().await;
    let builder = stand.builder().client_secret("c4n4ry, an old one");
    let caller = stand.caller(builder);
    let error = no_token(get(&caller, &stand.api_url()).await);
    assert_eq!(error.class(), ErrorClass::Credentials, "{error:?}");
    assert_eq!(error.oauth_error(), Some("invalid_client"));
    let text = error.to_string();
    assert!(
        text.starts_with("the token endpoint refused the client: 401 invalid_client"),
        "{text}"
    );
    assert!(!text.contains("c4n4ry"), "{text}");
    let in_basic = plan.provider != Provider::OidcOpaque;
    assert_eq!(
        text.contains("try the client authentication `client_secret_basic_raw`"),
        in_basic,
        "{text}"
    );
    assert!(error.retry_at().is_some());
    // Remembered: a thousand callers with a wrong secret must not get the client locked out.
    no_token(get(&caller, &stand.api_url()).await);
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status.len()), (1, 0), "{stats:?}");
}

async fn unknown_scope(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder().scope("nonsense"));
    let answer = get(&caller, &stand.api_url()).await;
    if plan.is_django() {
        let error = no_token(answer);
        assert_eq!(error.class(), ErrorClass::Request, "{error:?}");
        let text = error.to_string();
        assert!(
            text.starts_with("the token endpoint refused the request: 400 invalid_scope"),
            "{text}"
        );
    } else {
        // Dropped in silence by the server: RFC 6749 section 3.3 lets it.
        let answer = good(answer);
        let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(json["scope"], "read write");
    }
}

async fn restart(plan: Plan) {
    let mut stand = plan.start().await;
    let (warm, cold) = (stand.caller(stand.builder()), stand.caller(stand.builder()));
    good(get(&warm, &stand.api_url()).await);

    stand.server.kill();
    let error = no_token(get(&cold, &stand.api_url()).await);
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
    let text = error.to_string();
    if plan.behind_nginx {
        assert!(text.starts_with("the token endpoint failed: 502 [client "), "{text}");
    } else {
        assert!(text.contains("no answer came"), "{text}");
        assert!(format!("{error:?}").contains("ConnectionRefused"), "{error:?}");
    }
    // With a token at hand it is the API that is down, and its failure comes as it is.
    match get(&warm, &stand.api_url()).await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::BAD_GATEWAY),
        Err(error) => assert!(error.downcast_ref::<TokenError>().is_none(), "{error}"),
    }

    stand.server.start_again().await;
    let before = stand.server.token_requests().await;
    good(get(&warm, &stand.api_url()).await);
    // Django keeps its tokens, a JWT needs none to be kept; oidc-provider's store was in memory.
    let lost = u64::from(plan.provider == Provider::OidcOpaque);
    assert_eq!(stand.server.token_requests().await - before, lost);
    found_again(&stand, &cold).await;
}

/// Within the time that the failure is remembered for.
async fn found_again(stand: &Stand, caller: &Caller) {
    for _ in 0..50 {
        match get(caller, &stand.api_url()).await {
            Err(error) => {
                let error = error.downcast::<TokenError>().expect("a TokenError");
                assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
            }
            answer => {
                good(answer);
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not found again");
}
