//! nginx's own ways: TLS with a private CA, redirects, a rate limit, and 502 while the server behind
//! it restarts.

use std::time::Duration;

use http::StatusCode;
use tower_oauth2_client_credentials::{Builder, ErrorClass};

use crate::{
    harness::{
        cache,
        client::{get, hyper},
        stand::{Plan, Provider, Stand},
    },
    runner::Test,
    scenarios::{good, no_token},
};

pub(crate) fn add(tests: &mut Vec<Test>) {
    for (name, provider) in [("django", Provider::DjangoJson), ("oidc", Provider::OidcJwt)] {
        let plan = Plan::new(provider).behind_nginx();
        let mut add =
            |what: &str, body| tests.push(Test::new(format!("nginx_{name}::{what}"), body));
        add("a_certificate_of_another_ca_is_refused", boxed(other_ca(plan)));
        add("a_redirect_to_https_is_told_and_not_followed", boxed(to_https(plan)));
        add("https_to_the_port_of_plain_http_is_told", boxed(https_to_plain(plan)));
        add("a_rate_limit_is_waited_for", boxed(rate_limit(plan)));
        add("no_call_waits_for_an_endpoint_that_trickles", boxed(slow(plan, Slow::Trickles)));
        add("no_call_waits_for_an_endpoint_that_hangs", boxed(slow(plan, Slow::Hangs)));
        add("a_502_during_a_restart_is_not_seen_with_a_token_at_hand", boxed(bad_gateway(plan)));
    }
    let django = Plan::new(Provider::DjangoJson).behind_nginx();
    tests.push(Test::new("nginx_django::a_missing_slash_is_named", missing_slash(django)));
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(body: impl Future<Output = ()> + Send + 'static) -> Boxed {
    Box::pin(body)
}

/// The settings of `stand`, but for the CA.
fn untrusting(stand: &Stand) -> Builder {
    Builder::new()
        .token_url(stand.token_url())
        .dialect(stand.dialect())
        .client_id(stand.plan.client_id())
        .client_secret(crate::harness::stand::SECRET)
}

async fn other_ca(plan: Plan) {
    let stand = plan.start().await;
    let other = cache().join("keys/other-ca.pem");
    for builder in [untrusting(&stand).ca_file(&other), untrusting(&stand)] {
        let error = no_token(get(&stand.caller(builder), &stand.api_url()).await);
        assert_eq!(error.class(), ErrorClass::Transient);
        let debug = format!("{error:?}");
        assert!(
            debug.contains("invalid peer certificate: UnknownIssuer")
                || debug.contains("UnknownIssuer"),
            "{debug}"
        );
    }
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status.len()), (0, 0));
}

async fn to_https(plan: Plan) {
    let stand = plan.start().await;
    let url = format!("{}{}", stand.plain_origin, stand.token_path());
    let error =
        no_token(get(&stand.caller(stand.builder().token_url(url)), &stand.api_url()).await);
    assert_eq!(error.status(), Some(StatusCode::MOVED_PERMANENTLY));
    let text = error.to_string();
    assert!(text.contains(&stand.token_url()), "{text}");
    assert_eq!(stand.server.token_requests().await, 0);
}

async fn https_to_plain(plan: Plan) {
    let stand = plan.start().await;
    let url =
        format!("{}{}", stand.plain_origin.replace("http://", "https://"), stand.token_path());
    let error =
        no_token(get(&stand.caller(stand.builder().token_url(url)), &stand.api_url()).await);
    assert_eq!(error.class(), ErrorClass::Transient);
    let text = error.to_string();
    assert!(text.contains("does not speak TLS"), "{text}");
}

async fn missing_slash(plan: Plan) {
    let stand = plan.start().await;
    let url = stand.token_url();
    let caller = stand.caller(stand.builder().token_url(url.trim_end_matches('/')));
    let error = no_token(get(&caller, &stand.api_url()).await);
    assert_eq!(error.status(), Some(StatusCode::MOVED_PERMANENTLY));
    let text = error.to_string();
    assert!(text.contains("add the trailing slash to the token URL"), "{text}");
    assert_eq!(stand.server.token_requests().await, 0);
}

/// Two clients at once, where one token request in two seconds is allowed: one of them is told to
/// wait for three, and does.
async fn rate_limit(plan: Plan) {
    let stand = plan.start().await;
    let url = format!("{}/limited{}", stand.auth_origin, stand.token_path());
    let caller = || stand.caller(stand.builder().token_url(url.clone()));
    let (one, other, api) = (caller(), caller(), stand.api_url());
    let (one, other) = tokio::join!(get(&one, &api), get(&other, &api));
    good(one);
    good(other);
    assert_eq!(stand.server.token_requests().await, 2);
    let said = std::fs::read_to_string(&stand.front.as_ref().unwrap().log).unwrap();
    assert!(said.contains("limiting requests"), "{said}");
}

/// The way in which a token endpoint does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slow {
    /// A byte a second.
    Trickles,
    Hangs,
}

/// Calls go on with the token until just before it expires, and soon after the endpoint is well.
#[allow(clippy::disallowed_methods, reason = "the servers' clock is the system's")]
async fn slow(plan: Plan, slow: Slow) {
    let stand = plan.lifetime(8).start().await;
    let second = Duration::from_secs(1);
    let builder = stand.builder().attempt_timeout(second).renewal_timeout(3 * second);
    let layer = builder.build().unwrap();
    let mut cache = layer.cache();
    let caller = hyper(layer, stand.http(), 64);
    let url = stand.api_url();
    good(get(&caller, &url).await);
    let file = stand.front.as_ref().unwrap().run.join("trickle");
    match slow {
        Slow::Trickles => std::fs::write(&file, "").unwrap(),
        Slow::Hangs => assert!(stand.server.fault("delay_ms=60000").await),
    }
    let requests = stand.server.token_requests().await;
    let expires = cache.peek().unwrap().expires_at().unwrap();
    while expires
        .duration_since(std::time::SystemTime::now())
        .is_ok_and(|left| left > Duration::from_millis(1500))
    {
        good(get(&caller, &url).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = stand.server.token_requests().await - requests;
    assert!((1..=4).contains(&asked), "{asked}");
    match slow {
        Slow::Trickles => std::fs::remove_file(&file).unwrap(),
        Slow::Hangs => assert!(stand.server.fault("").await),
    }
    for _ in 0..400 {
        if get(&caller, &url).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
            && cache.issued() > 1
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not served: {:?}", cache.last_error());
}

/// The token expires on the way, and the API (here: behind another door) is up all the time.
async fn bad_gateway(plan: Plan) {
    let mut stand = plan.lifetime(8).start().await;
    let cache = stand.builder().build().unwrap().cache();
    cache.token().await.unwrap();
    stand.server.kill();
    // Past the soft point, at 4 to 5 seconds, renewals fail behind the scenes.
    for _ in 0..60 {
        cache.token().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if cache.last_error().is_some() {
            break;
        }
    }
    let error = cache.last_error().expect("a renewal has failed");
    let text = error.to_string();
    assert!(text.starts_with("the token endpoint failed: 502 [client "), "{text}");
    cache.token().await.expect("the token at hand");
    stand.server.start_again().await;
    for _ in 0..80 {
        cache.token().await.expect("the token at hand, or the next one");
        if cache.issued() > 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not renewed");
}
