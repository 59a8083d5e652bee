//! Django OAuth Toolkit's own ways.

use std::time::Duration;

use http::StatusCode;
use tower_oauth2_client_credentials::{
    Dialect, ErrorClass, NotReplaced, credentials::RotatingSecret, endpoint::BodyEncoding,
};

use crate::{
    harness::{
        client::get,
        stand::{Plan, Provider, SECRET},
    },
    runner::Test,
    scenarios::{good, no_token},
};

pub(crate) fn add(tests: &mut Vec<Test>) {
    let json = Plan::new(Provider::DjangoJson);
    let form = Plan::new(Provider::DjangoForm);
    let mut add = |name: &str, body| tests.push(Test::new(format!("django::{name}"), body));
    add("a_missing_slash_is_named", boxed(missing_slash(json)));
    add("a_form_to_the_json_backend_is_told", boxed(other_body(json, BodyEncoding::Form)));
    add("json_to_the_form_backend_is_told", boxed(other_body(form, BodyEncoding::Json)));
    add("a_token_that_expires_unannounced_is_replaced", boxed(expires(json)));
    add("the_toolkits_views_answer_403_to_a_revoked_token", boxed(forbidding(json)));
    add("a_scope_too_few_is_the_callers_business", boxed(admin(json)));
    add("a_server_that_hangs_fails_attempts_and_no_call_with_a_token", boxed(frozen(json)));
    add("a_rotated_secret_is_used_by_the_next_renewal", boxed(rotation(json)));
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(body: impl Future<Output = ()> + Send + 'static) -> Boxed {
    Box::pin(body)
}

async fn missing_slash(plan: Plan) {
    let stand = plan.start().await;
    let url = stand.token_url();
    let caller = stand.caller(stand.builder().token_url(url.trim_end_matches('/')));
    let error = no_token(get(&caller, &stand.api_url()).await);
    assert_eq!(
        (error.class(), error.status()),
        (ErrorClass::Request, Some(StatusCode::MOVED_PERMANENTLY))
    );
    let text = error.to_string();
    assert!(text.contains("add the trailing slash to the token URL"), "{text}");
    assert!(text.contains("/oauth2/token/"), "{text}");
    // A redirect that was followed would have carried the secret along.
    assert_eq!(stand.server.token_requests().await, 1);
}

async fn other_body(plan: Plan, body: BodyEncoding) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder().dialect(Dialect::rfc6749().body(body)));
    let text = no_token(get(&caller, &stand.api_url()).await).to_string();
    assert!(text.contains("400 unsupported_grant_type"), "{text}");
    let other = match body {
        BodyEncoding::Form => "set `Dialect::body(BodyEncoding::Json)`",
        _ => "set `Dialect::body(BodyEncoding::Form)`",
    };
    assert!(text.contains(other), "{text}");
}

/// The client is not told of the lifetime, and learns of the end by a 401.
async fn expires(plan: Plan) {
    let stand = plan.lifetime(1).start().await;
    let dialect = stand.dialect().expires_in_field("nothing");
    let caller = stand.caller(stand.builder().dialect(dialect));
    good(get(&caller, &stand.api_url()).await);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        good(get(&caller, &stand.api_url()).await);
    }
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status["401"]), (3, 2), "{stats:?}");
}

async fn forbidding(plan: Plan) {
    let stand = plan.start().await;
    let url = format!("{}/api/forbidding/", stand.api_origin);
    let default = stand.caller(stand.builder());
    let told = stand.caller(stand.builder().forbidden_means_rejected());
    good(get(&default, &url).await);
    good(get(&told, &url).await);
    stand.server.revoke().await;
    assert_eq!(get(&default, &url).await.unwrap().status(), StatusCode::FORBIDDEN);
    good(get(&told, &url).await);
    assert_eq!(stand.server.token_requests().await, 3);
}

async fn admin(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder());
    let url = format!("{}/api/admin/", stand.api_origin);
    for _ in 0..5 {
        let answer = get(&caller, &url).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(answer.extensions().get::<NotReplaced>().is_none());
    }
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status["403"]), (1, 5), "{stats:?}");
}

/// Stopped by SIGSTOP: it accepts connections, and answers nothing.
async fn frozen(plan: Plan) {
    let stand = plan.start().await;
    let attempts = |seconds| {
        let (attempt, all) = (Duration::from_secs(seconds), Duration::from_secs(seconds + 1));
        stand.builder().attempt_timeout(attempt).renewal_timeout(all).build().unwrap().cache()
    };
    let (warm, cold, patient) = (attempts(1), attempts(1), attempts(60));
    warm.token().await.unwrap();
    stand.server.freeze();
    let error = cold.token().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
    warm.token().await.expect("the token at hand");
    let waiting = tokio::spawn(patient.token());
    tokio::task::yield_now().await;
    stand.server.thaw();
    waiting.await.unwrap().expect("a late answer is an answer");
}

async fn rotation(plan: Plan) {
    let stand = plan.start().await;
    let secret = RotatingSecret::new(plan.client_id(), SECRET);
    let caller = stand.caller(stand.without_credentials().credentials(secret.clone()));
    good(get(&caller, &stand.api_url()).await);

    stand.server.rotate_secret("c4n4ry, the next one").await;
    good(get(&caller, &stand.api_url()).await);
    stand.server.revoke().await;
    // The token is gone and the old secret is refused: the 401 comes as it is, with the reason.
    let answer = get(&caller, &stand.api_url()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let why = answer.extensions().get::<NotReplaced>().expect("the reason").clone();
    assert_eq!(why.error().map(|error| error.class()), Some(ErrorClass::Credentials), "{why}");

    secret.set("c4n4ry, the next one");
    good(get(&caller, &stand.api_url()).await);
    assert_eq!(stand.server.stats().await.token_by_status["200"], 2);
}
