//! The public API of the test servers, in memory.

use std::{io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

use super::*;

const FORM: &str = "grant_type=client_credentials";
const FORM_WITH_CLIENT: &str =
    "grant_type=client_credentials&client_id=test-client&client_secret=test-secret";

struct Ask {
    path: &'static str,
    content_type: &'static str,
    basic: Option<&'static str>,
    body: &'static str,
}

impl Ask {
    fn form(body: &'static str) -> Self {
        Self { path: "/token", content_type: FORM_TYPE, basic: None, body }
    }

    fn json(path: &'static str, body: &'static str) -> Self {
        Self { path, content_type: "application/json", basic: None, body }
    }

    fn basic(self, plain: &'static str) -> Self {
        Self { basic: Some(plain), ..self }
    }

    fn typed(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::post(format!("http://localhost{}", self.path))
            .header("content-type", self.content_type);
        if let Some(plain) = self.basic {
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(plain)));
        }
        request.body(Full::from(self.body)).unwrap()
    }

    async fn of(&self, server: &AuthorizationServer) -> (StatusCode, Value) {
        let response = server.service().oneshot(self.request()).await.unwrap();
        (response.status(), json(response).await)
    }
}

const FORM_TYPE: &str = "application/x-www-form-urlencoded";

async fn json(response: Response<ResponseBody>) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

async fn new_token(server: &AuthorizationServer) -> String {
    let (status, answer) = Ask::form(FORM_WITH_CLIENT).of(server).await;
    assert_eq!(status, StatusCode::OK);
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn call(api: &ProtectedApi, path: &str, token: &str) -> io::Result<Response<ResponseBody>> {
    let request = Request::get(format!("http://localhost{path}"))
        .header("authorization", format!("Bearer {token}"))
        .body(Full::<Bytes>::default())
        .unwrap();
    api.service().oneshot(request).await
}

async fn status(api: &ProtectedApi, path: &str, token: &str) -> u16 {
    call(api, path, token).await.unwrap().status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn rfc_6749_takes_basic_or_the_body_but_not_both() {
    let server = AuthorizationServer::builder().client("a b", "s+e:c/r%t").build();
    for (ask, expected) in [
        (Ask::form(FORM).basic("a%20b:s%2Be%3Ac%2Fr%25t"), 200),
        (Ask::form(FORM).basic("a%20b:s+e:c/r%25t"), 200),
        (Ask::form(FORM).basic("a+b:s%2Be%3Ac%2Fr%25t"), 401),
        (
            Ask::form(
                "grant_type=client_credentials&client_id=a+b&client_secret=s%2Be%3Ac%2Fr%25t",
            ),
            200,
        ),
        (
            Ask::form("grant_type=client_credentials&client_secret=x")
                .basic("a%20b:s%2Be%3Ac%2Fr%25t"),
            400,
        ),
        (Ask::form(FORM), 401),
        (Ask::form("grant_type=password").basic("a%20b:s%2Be%3Ac%2Fr%25t"), 400),
        (Ask::json("/token", r#"{"grant_type":"client_credentials"}"#).basic("a%20b:x"), 400),
        (Ask { path: "/tokens", ..Ask::form(FORM) }, 404),
    ] {
        let (status, answer) = ask.of(&server).await;
        assert_eq!(status, expected, "{} {:?}: {answer}", ask.body, ask.basic);
    }
    assert_eq!((server.issued(), server.requests()), (3, 9));
}

#[tokio::test(start_paused = true)]
async fn basic_is_decoded_as_told() {
    for (decoding, plus_is) in [
        (BasicDecoding::Percent, "a+b%20c:secret"),
        (BasicDecoding::Form, "a+b%20c:secret"),
        (BasicDecoding::Raw, "a+b%20c:secret"),
    ] {
        let id = match decoding {
            BasicDecoding::Percent => "a+b c",
            BasicDecoding::Form => "a b c",
            BasicDecoding::Raw => "a+b%20c",
        };
        let server =
            AuthorizationServer::builder().client(id, "secret").basic_decoding(decoding).build();
        assert_eq!(Ask::form(FORM).basic(plus_is).of(&server).await.0, 200, "{decoding:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn auth0_wants_json_with_an_audience_and_issues_a_jwt() {
    let server = AuthorizationServer::builder().flavor(Flavor::Auth0).build();
    let good = r#"{"grant_type":"client_credentials","client_id":"test-client",
        "client_secret":"test-secret","audience":"https://api.example.com"}"#;
    let (status, answer) = Ask::json("/oauth/token", good).of(&server).await;
    assert_eq!((status, &answer["expires_in"]), (StatusCode::OK, &Value::from(86_400)));
    assert_eq!(answer["access_token"].as_str().unwrap().split('.').count(), 3);

    let no_audience = r#"{"grant_type":"client_credentials","client_id":"test-client",
        "client_secret":"test-secret"}"#;
    assert_eq!(Ask::json("/oauth/token", no_audience).of(&server).await.0, 403);
    let form = Ask { path: "/oauth/token", ..Ask::form(FORM_WITH_CLIENT) };
    assert_eq!(form.of(&server).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn podero_wants_basic_json_and_the_slash() {
    let server = AuthorizationServer::builder().flavor(Flavor::Podero).build();
    let body = r#"{"grant_type": "client_credentials"}"#;
    let good = Ask::json("/oauth2/token/", body).basic("test-client:test-secret");
    let (status, answer) = good.of(&server).await;
    assert_eq!(status, 200);
    assert_eq!((&answer["expires_in"], &answer["scope"]), (&36_000.into(), &"read write".into()));

    let no_slash = Ask { path: "/oauth2/token", ..good };
    let response = server.service().oneshot(no_slash.request()).await.unwrap();
    assert_eq!(response.status(), 301);
    assert_eq!(response.headers()[header::LOCATION], "/oauth2/token/");

    let form = Ask { path: "/oauth2/token/", ..Ask::form(FORM_WITH_CLIENT) };
    let (status, answer) = form.of(&server).await;
    assert_eq!((status.as_u16(), &answer["error"]), (400, &"unsupported_grant_type".into()));
}

#[tokio::test(start_paused = true)]
async fn dadi_has_names_of_its_own_and_echoes_what_it_cannot_read() {
    let server = AuthorizationServer::builder().flavor(Flavor::Dadi).build();
    let body = r#"{"clientId":"test-client","secret":"test-secret"}"#;
    let (status, answer) = Ask::json("/token", body).of(&server).await;
    assert_eq!((status.as_u16(), &answer["expiresIn"]), (200, &1800.into()));
    assert!(answer["accessToken"].is_string() && answer["tokenType"] == "Bearer");

    let charset = Ask::json("/token", body).typed("application/json; charset=utf-8");
    let (status, answer) = charset.of(&server).await;
    assert!(status == 400 && answer["body"].as_str().unwrap().contains("test-secret"));

    let wrong = Ask::json("/token", r#"{"clientId":"test-client","secret":"x"}"#);
    let response = server.service().oneshot(wrong.request()).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()[header::WWW_AUTHENTICATE],
        r#"Bearer, error="invalid_credentials""#
    );
    assert_eq!(json(response).await, serde_json::json!({ "statusCode": 401 }));
}

#[tokio::test(start_paused = true)]
async fn a_daily_limit_ends_after_as_long_as_it_says() {
    let server = AuthorizationServer::builder().daily_limit(2).build();
    let ask = Ask::form(FORM_WITH_CLIENT);
    new_token(&server).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    new_token(&server).await;
    let response = server.service().oneshot(ask.request()).await.unwrap();
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(wait, 23 * 3600);
    tokio::time::advance(Duration::from_secs(wait)).await;
    new_token(&server).await;
}

#[tokio::test(start_paused = true)]
async fn expires_in_says_what_it_is_told_to_say() {
    let server = AuthorizationServer::new();
    let ask = Ask::form(FORM_WITH_CLIENT);
    server.issue_for(Duration::ZERO);
    assert_eq!(ask.of(&server).await.1["expires_in"], 0);
    server.leave_out_expires_in();
    assert!(ask.of(&server).await.1.get("expires_in").is_none());
    server.announce_expires_in(r#""3600""#);
    assert_eq!(ask.of(&server).await.1["expires_in"], "3600");
    server.issue_for(Duration::from_secs(60));
    assert_eq!(ask.of(&server).await.1["expires_in"], 60);
}

#[tokio::test(start_paused = true)]
async fn a_script_comes_before_the_usual_answers() {
    let server = AuthorizationServer::new();
    server.script([Answer::unavailable(), Answer::as_usual(), Answer::connection_closed()]);
    let ask = Ask::form(FORM_WITH_CLIENT);
    assert_eq!(ask.of(&server).await.0, 503);
    assert_eq!(ask.of(&server).await.0, 200);
    let error = server.service().oneshot(ask.request()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(ask.of(&server).await.0, 200);

    server.respond_once(Answer::never());
    let minute = Duration::from_secs(60);
    assert!(tokio::time::timeout(minute, ask.of(&server)).await.is_err());

    server.respond_once(Answer::json(StatusCode::OK, r#"{"access_"#).cut_short());
    let response = server.service().oneshot(ask.request()).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_issues_nothing_and_counts_the_attempts() {
    let server = AuthorizationServer::new();
    server.down();
    let ask = Ask::form(FORM_WITH_CLIENT);
    let error = server.service().oneshot(ask.request()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((server.issued(), server.requests(), server.refused_connections()), (0, 0, 1));
    server.up();
    new_token(&server).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_issued_before_a_slow_answer_ages_on_the_way() {
    let server = AuthorizationServer::builder().token_lifetime(Duration::from_secs(10)).build();
    let api = ProtectedApi::new(&server);
    server.delay_answers(Duration::from_secs(9));
    let token = new_token(&server).await;
    assert_eq!(status(&api, "/", &token).await, 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(status(&api, "/", &token).await, 401);
}

#[tokio::test(start_paused = true)]
async fn tokens_expire_when_the_host_sleeps_but_not_when_its_clock_is_set() {
    let clock = ManualClock::new();
    let server = AuthorizationServer::builder().clock(clock.clone()).build();
    let api = ProtectedApi::new(&server);
    let token = new_token(&server).await;
    clock.step_wall_forward(Duration::from_secs(7200));
    assert_eq!(status(&api, "/", &token).await, 200);
    clock.suspend(Duration::from_secs(3600));
    assert_eq!(status(&api, "/", &token).await, 401);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_is_the_same_with_what_is_left_of_its_life() {
    let server = AuthorizationServer::new();
    let first = new_token(&server).await;
    server.repeat_token();
    tokio::time::advance(Duration::from_secs(600)).await;
    let (_, answer) = Ask::form(FORM_WITH_CLIENT).of(&server).await;
    assert_eq!((&answer["access_token"], &answer["expires_in"]), (&first.into(), &3000.into()));
    server.issue_new_tokens();
    assert_ne!(answer["access_token"], new_token(&server).await);
    assert_eq!(server.issued(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_api_lets_in_valid_tokens_only_and_counts() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let (first, second) = (new_token(&server).await, new_token(&server).await);
    server.revoke(&first);
    api.misuse_401("/odd");
    for (path, token, expected) in [
        ("/a", first.as_str(), 401),
        ("/a", &second, 200),
        ("/odd", &second, 401),
        ("/a", "unknown", 401),
    ] {
        assert_eq!(status(&api, path, token).await, expected, "{path} {token}");
    }
    let of_another_server = new_token(&AuthorizationServer::new()).await;
    assert_eq!(status(&api, "/a", &of_another_server).await, 401);

    assert_eq!((api.calls(), api.accepted(), api.rejected()), (5, 1, 4));
    let journal = api.journal();
    let numbers: Vec<_> = journal.iter().map(ApiCall::token_number).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(2), None, None]);
    assert!(journal[2].is_authorized() && journal[2].status() == Some(StatusCode::UNAUTHORIZED));
}

#[tokio::test(start_paused = true)]
async fn rejections_look_as_told() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let token = new_token(&server).await;
    api.reject_everything();
    let bare = call(&api, "/", &token).await.unwrap();
    assert!(bare.status() == 401 && bare.headers().get("www-authenticate").is_none());

    api.reject_with(Answer::challenge(r#"Bearer error="invalid_token""#).with_body_of(1000));
    let response = call(&api, "/", &token).await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], r#"Bearer error="invalid_token""#);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1000);

    api.reject_with(Answer::status(StatusCode::FORBIDDEN));
    assert_eq!(status(&api, "/", &token).await, 403);
    api.accept_valid_tokens();
    assert_eq!(status(&api, "/", &token).await, 200);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_held_are_judged_when_they_are_released() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let token = new_token(&server).await;
    api.hold();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (api, token) = (api.clone(), token.clone());
            tokio::spawn(async move { status(&api, "/", &token).await })
        })
        .collect();
    api.held(50).await;
    server.revoke_all();
    api.release();
    for call in calls {
        assert_eq!(call.await.unwrap(), 401);
    }
    assert_eq!((api.rejected(), api.accepted()), (50, 0));
}

#[tokio::test(start_paused = true)]
async fn a_held_request_that_is_given_up_is_no_longer_counted() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    api.hold();
    let abandoned = call(&api, "/", "x");
    assert!(tokio::time::timeout(Duration::from_secs(1), abandoned).await.is_err());
    let held = tokio::time::timeout(Duration::from_secs(1), api.held(1));
    assert!(held.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn secrets_and_tokens_are_in_the_journals_but_in_no_debug() {
    let server = AuthorizationServer::builder().client("id", "canary-secret").build();
    let api = ProtectedApi::new(&server);
    let ask = Ask::form(FORM).basic("id:canary-secret");
    assert_eq!(ask.of(&server).await.0, 200);
    let in_body = Ask::form(
        "grant_type=client_credentials&client_id=id&client_secret=canary-secret&scope=a+b",
    );
    assert_eq!(in_body.of(&server).await.1["scope"], "a b");
    // Declared as a form, so the whole body becomes the name of one parameter.
    let mistyped = Ask::json("/token", r#"{"client_secret":"canary-secret"}"#).typed(FORM_TYPE);
    assert_eq!(mistyped.of(&server).await.0, 401);
    let token = server.last_token().unwrap();
    status(&api, &format!("/?access_token={token}"), &token).await;

    let journal = server.journal();
    assert_eq!(journal[0].basic(), Some(("id", "canary-secret")));
    assert_eq!(journal[1].parameter("client_secret"), Some("canary-secret"));
    let debug = format!(
        "{server:?} {api:?} {journal:?} {:?} {:?} {:?}",
        api.journal(),
        Answer::json(StatusCode::OK, token.clone()).with_header("x", "canary-secret"),
        AuthorizationServer::builder().client("id", "canary-secret"),
    );
    let encoded = STANDARD.encode("id:canary-secret");
    for secret in ["canary-secret", token.as_str(), encoded.as_str()] {
        assert!(!debug.contains(secret), "{debug}");
    }
}
