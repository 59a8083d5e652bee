//! Responses of a token endpoint that contain no token: the caller gets an error that says how to
//! fix the problem and contains no secret, and once the endpoint responds correctly, the next call
//! works.
//!
//! These tests run in memory, under a paused clock, so that backoffs take no time.

use std::{
    error::Error,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, Builder, Dialect, ErrorClass, NotReplaced, OAuthClientCredentials,
    OAuthClientCredentialsLayer, TokenError,
    testing::{
        Answer, AuthorizationServer, Flavor, InMemory, ManualClock, ProtectedApi, ResponseBody,
    },
};

/// The client secret. No error may show it in any form.
const CANARY: &str = "c4n4ry-of-the-client";

/// `CANARY` in base64, without the parts that depend on the preceding bytes.
const CANARY_IN_BASE64: [&str; 3] =
    ["YzRuNHJ5LW9mLXRoZS1jbGllb", "M0bjRyeS1vZi10aGUtY2xpZW", "jNG40cnktb2YtdGhlLWNsaWVu"];

struct Client {
    server: AuthorizationServer,
    api: ProtectedApi,
    clock: ManualClock,
    service: OAuthClientCredentials<InMemory>,
}

impl Client {
    fn new() -> Self {
        Self::of(Flavor::Rfc6749, |builder| builder)
    }

    fn of(flavor: Flavor, configure: fn(Builder) -> Builder) -> Self {
        let clock = ManualClock::new();
        let server = AuthorizationServer::builder()
            .flavor(flavor)
            .client("me", CANARY)
            .clock(clock.clone())
            .build();
        let api = ProtectedApi::new(&server);
        let builder = OAuthClientCredentialsLayer::builder()
            .token_url(server.token_url())
            .client_id("me")
            .client_secret(CANARY)
            .transport(server.service())
            .clock(clock.clone());
        let layer = configure(builder).build().unwrap();
        let service = ServiceBuilder::new().layer(layer).service(api.service());
        Self { server, api, clock, service }
    }

    async fn call(&self) -> Result<Response<ResponseBody>, BoxError> {
        let request = Request::get("https://api.example.com/").body(Full::<Bytes>::default());
        self.service.clone().oneshot(request.unwrap()).await
    }

    /// Makes a call without a cached token, which must fail with a `TokenError`.
    async fn failing_call(&self) -> TokenError {
        let error = self.call().await.map(|response| response.status()).unwrap_err();
        assert_no_secret(&everything(&*error));
        error.downcast_ref::<TokenError>().expect("a TokenError").clone()
    }

    async fn wait_until(&self, time: SystemTime) {
        let wait = time.duration_since(self.clock.wall()).expect("a time to come");
        assert!(wait <= Duration::from_secs(15 * 60), "{wait:?}");
        tokio::time::sleep(wait).await;
    }
}

/// Returns everything that an error and its causes print.
fn everything(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        write!(text, "{error} {error:?} {error:#?} ").unwrap();
        next = error.source();
    }
    text
}

#[track_caller]
fn assert_no_secret(text: &str) {
    for form in CANARY_IN_BASE64.iter().chain(&[CANARY, "T0k3n"]) {
        assert!(!text.contains(form), "{form} is in: {text}");
    }
}

/// An invalid response, and the expected error.
struct Case {
    name: &'static str,
    answer: Answer,
    class: ErrorClass,
    /// The start of the error's message, and other expected parts.
    says: &'static [&'static str],
}

fn ok(body: impl Into<Bytes>) -> Answer {
    Answer::json(StatusCode::OK, body)
}

fn refused(status: u16, body: impl Into<Bytes>) -> Answer {
    Answer::json(StatusCode::from_u16(status).unwrap(), body)
}

fn redirect(status: u16, location: &str) -> Answer {
    Answer::html(StatusCode::from_u16(status).unwrap()).with_header("location", location)
}

fn cases() -> Vec<Case> {
    use ErrorClass::{Credentials, Malformed, Request, Throttled, Transient};
    const REDIRECT: &str = "the token endpoint answered with a redirect";
    let case = |name, answer, class, says| Case { name, answer, class, says };
    let echo =
        format!(r#"{{"statusCode":400,"body":"{{\"clientId\":\"me\",\"secret\":\"{CANARY}\"}}"}}"#);
    vec![
        case(
            "301",
            redirect(301, "/token/"),
            Request,
            &[REDIRECT, "301", "/token/", "add the trailing slash"],
        ),
        case(
            "307",
            redirect(307, "https://other.example/token"),
            Request,
            &[REDIRECT, "https://other.example/token", "follows no redirect"],
        ),
        case(
            "308",
            redirect(308, &format!("https://other.example/{CANARY}?secret={CANARY}")),
            Request,
            &[REDIRECT, "308", "https://other.example/"],
        ),
        case(
            "HTML",
            Answer::html(StatusCode::OK),
            Malformed,
            &["the token endpoint answered with HTML or XML, not JSON: 200"],
        ),
        case("empty", ok(""), Malformed, &["the token endpoint answered with an empty body: 200"]),
        case(
            "never ends",
            ok(r#"{"access_token":"T0k3n","#).never_ending(),
            Transient,
            &["no attempt to get a token succeeded within 30s"],
        ),
        case(
            "never begins",
            Answer::never(),
            Transient,
            &["no attempt to get a token succeeded within 30s"],
        ),
        case(
            "closed",
            Answer::connection_closed(),
            Transient,
            &["no answer came from the token endpoint"],
        ),
        case("cut", ok(r#"{"access_token":"T0k3n""#).cut_short(), Transient, &["broke off", "200"]),
        case("10 MB", ok("").with_body_of(10_000_000), Malformed, &["longer than 256 KiB", "200"]),
        case(
            "not UTF-8",
            ok(&b"{\"access_token\":\"T0k3n\xff\xfe\"}"[..]),
            Malformed,
            &["the token endpoint answered with text that is not UTF-8: 200"],
        ),
        case(
            "deep array",
            ok("[".repeat(200_000)),
            Malformed,
            &["the token endpoint answered with JSON that is nested too deeply: 200"],
        ),
        case(
            "deep object",
            ok(r#"{"a":"#.repeat(40_000)),
            Malformed,
            &["the token endpoint answered with JSON that is nested too deeply: 200"],
        ),
        case(
            "deep token",
            ok(format!(r#"{{"access_token":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))),
            Malformed,
            &["the token endpoint answered with JSON that is nested too deeply: 200"],
        ),
        case(
            "no token",
            ok(r#"{"token_type":"Bearer","expires_in":3600}"#),
            Malformed,
            &["the answer has no `access_token`"],
        ),
        case(
            "another name",
            ok(r#"{"accessToken":"T0k3n"}"#),
            Malformed,
            &["the answer has no `access_token`", "`accessToken`", "Dialect::access_token_field"],
        ),
        case(
            "null token",
            ok(r#"{"access_token":null}"#),
            Malformed,
            &["the answer has no `access_token`"],
        ),
        case(
            "empty token",
            ok(r#"{"access_token":""}"#),
            Malformed,
            &["the access token is empty"],
        ),
        case("number for a token", ok(r#"{"access_token":12345}"#), Malformed, &["a number"]),
        case(
            "newline",
            ok("{\"access_token\":\"T0k3n\\nx\"}"),
            Malformed,
            &["the access token has a character at position 5 that no header can carry"],
        ),
        case(
            "1 MB token",
            ok(format!(r#"{{"access_token":"T0k3n{}"}}"#, "x".repeat(1_000_000))),
            Malformed,
            &["longer than 256 KiB"],
        ),
        case(
            "20 KB token",
            ok(format!(r#"{{"access_token":"T0k3n{}"}}"#, "x".repeat(20_000))),
            Malformed,
            &["16 KiB"],
        ),
        case(
            "mac",
            ok(r#"{"access_token":"T0k3n","token_type":"mac"}"#),
            Malformed,
            &["the token's type is \"mac\", which is no bearer token"],
        ),
        case(
            "200 with an error",
            ok(r#"{"error":"invalid_scope","error_description":"no such scope"}"#),
            Request,
            &["the token endpoint refused the request", "200", "invalid_scope", "no such scope"],
        ),
        case(
            "200 with an error and a token",
            ok(r#"{"error":"invalid_client","access_token":"T0k3n"}"#),
            Credentials,
            &["the token endpoint refused the client", "invalid_client"],
        ),
        case(
            "DADI's 401",
            refused(401, r#"{"statusCode":401}"#)
                .with_header("www-authenticate", r#"Bearer, error="invalid_credentials""#),
            Credentials,
            &["the token endpoint refused the client: 401 invalid_credentials"],
        ),
        case(
            "DADI's 400, an echo",
            refused(400, echo),
            Request,
            &["the token endpoint refused the request: 400"],
        ),
        case(
            "Auth0's 400",
            refused(
                400,
                r#"{"error":"invalid_request","error_description":"Missing required parameter: grant_type"}"#,
            ),
            Request,
            &[
                "the token endpoint refused the request: 400 invalid_request: Missing required parameter: grant_type",
            ],
        ),
        case(
            "Auth0's 401",
            refused(401, r#"{"error":"access_denied","error_description":"Unauthorized"}"#),
            Credentials,
            &["the token endpoint refused the client: 401 access_denied: Unauthorized"],
        ),
        case(
            "Django OAuth Toolkit's 400",
            refused(400, r#"{"error": "unsupported_grant_type"}"#),
            Request,
            &[
                "400 unsupported_grant_type",
                "the body was a form",
                "Dialect::body(BodyEncoding::Json)",
            ],
        ),
        case(
            "Django OAuth Toolkit's 401",
            refused(401, r#"{"error": "invalid_client"}"#),
            Credentials,
            &["the token endpoint refused the client: 401 invalid_client"],
        ),
        case(
            "an error with the secret in it",
            refused(
                401,
                format!(
                    r#"{{"error":"invalid_client","error_description":"no client me with {CANARY}"}}"#
                ),
            ),
            Credentials,
            &["401 invalid_client: no client me with"],
        ),
        case(
            "a bare 403",
            Answer::status(StatusCode::FORBIDDEN),
            Credentials,
            &["the token endpoint refused the client: 403"],
        ),
        case(
            "404",
            Answer::html(StatusCode::NOT_FOUND),
            Request,
            &["404", "is the path of the token URL right?"],
        ),
        case(
            "429",
            Answer::too_many_requests("20"),
            Throttled,
            &["the token endpoint asks for patience: 429"],
        ),
        case("503", Answer::unavailable(), Transient, &["the token endpoint failed: 503"]),
    ]
}

/// The number of attempts in one renewal.
fn attempts(class: ErrorClass) -> usize {
    match class {
        ErrorClass::Transient => 3,
        ErrorClass::Malformed => 2,
        _ => 1,
    }
}

fn assert_says(case: &Case, error: &TokenError) {
    let text = match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    assert_eq!(error.class(), case.class, "{}: {text}", case.name);
    for part in case.says {
        assert!(text.contains(part), "{}: {part:?} is not in {text:?}", case.name);
    }
    assert!(text.len() < 600 && !text.contains('\n'), "{}: {text:?}", case.name);
    assert!(error.retry_at().is_some(), "{}", case.name);
}

/// Guards against a call with an invalid token or none; against a failure that is repeated on every
/// call; and against one that is never forgotten.
#[tokio::test(start_paused = true)]
async fn without_a_token_a_bad_answer_is_a_clear_error_and_the_call_after_its_backoff_works() {
    for case in cases() {
        let client = Client::new();
        let asked = attempts(case.class);
        client.server.script(vec![case.answer.clone(); asked]);

        let error = client.failing_call().await;
        assert_says(&case, &error);
        assert_eq!(client.server.requests(), asked, "{}", case.name);

        let again = client.failing_call().await;
        let said = format!("{error} (a remembered failure; the next attempt is due at ");
        assert!(again.to_string().starts_with(&said), "{}: {again}", case.name);
        assert_eq!(client.server.requests(), asked, "{}: asked before its time", case.name);
        assert_eq!(client.api.calls(), 0, "{}: called without a token", case.name);

        client.wait_until(error.retry_at().unwrap()).await;
        let response = client.call().await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(response.status(), StatusCode::OK, "{}", case.name);
        assert_eq!((client.server.issued(), client.api.calls()), (1, 1), "{}", case.name);
    }
}

/// Guards against a 401 that turns into an error, and a token that is lost because a renewal
/// failed.
#[tokio::test(start_paused = true)]
async fn after_a_401_a_bad_answer_leaves_the_401_as_it_came_and_says_why() {
    for case in cases() {
        let client = Client::new();
        client.api.reject_with(Answer::challenge("Bearer").with_body("go away"));
        client.call().await.unwrap();
        client.server.revoke_all();
        client.server.script(vec![case.answer.clone(); attempts(case.class)]);

        let response = client.call().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{}", case.name);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let why = response.extensions().get::<NotReplaced>().expect("a reason").clone();
        let error = why.error().unwrap_or_else(|| panic!("{}: {why}", case.name));
        assert_says(&case, error);
        assert_no_secret(&(everything(&why) + &format!("{response:?}")));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(body.to_bytes(), "go away", "{}", case.name);

        client.wait_until(why.retry_at().unwrap()).await;
        let response = client.call().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", case.name);
        assert_eq!(client.server.issued(), 2, "{}", case.name);
    }
}

/// Guards against a lifetime that cannot be parsed and counts as a failure or as infinite, or
/// causes a panic.
#[tokio::test(start_paused = true)]
async fn an_odd_lifetime_is_no_reason_to_fail() {
    const THIRTY_DAYS: u64 = 30 * 24 * 3600;
    for (expires_in, lifetime) in [
        ("\"3600\"", 3600),
        ("3600.5", 3600),
        ("1e400", THIRTY_DAYS),
        ("99999999999999999999999999", THIRTY_DAYS),
        ("31536000", THIRTY_DAYS),
        ("86399999", 24 * 3600),
        ("null", 300),
        ("\"soon\"", 300),
        ("[]", 300),
        ("{}", 300),
        ("true", 300),
    ] {
        let client = Client::new();
        client.server.announce_expires_in(expires_in);
        assert_eq!(client.call().await.unwrap().status(), StatusCode::OK, "{expires_in}");
        let token = client.service.cache().peek().cloned().expect("a cached token");
        let left = token.expires_at().unwrap().duration_since(client.clock.wall()).unwrap();
        assert_eq!(left, Duration::from_secs(lifetime), "{expires_in}");
        assert_eq!(client.call().await.unwrap().status(), StatusCode::OK, "{expires_in}");
        assert_eq!(client.server.issued(), 1, "{expires_in}");
    }
}

/// Guards against a loop of token requests, or a failing call, because a token is announced as
/// expired.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_when_it_comes_serves_who_waited_for_it_and_is_not_kept() {
    for expires_in in ["-1", "0", "-1e400", "\"-5\""] {
        let client = Client::new();
        client.server.announce_expires_in(expires_in);
        for calls in 1..=3 {
            assert_eq!(client.call().await.unwrap().status(), StatusCode::OK, "{expires_in}");
            assert_eq!(client.server.issued(), calls, "{expires_in}");
            assert!(client.service.cache().peek().is_none(), "{expires_in}");
        }
    }
}

/// Guards against advice that does not help. Each mistake is made against a matching server, and
/// then fixed as the error suggests.
#[tokio::test(start_paused = true)]
async fn what_the_error_advises_is_what_helps() {
    use tower_oauth2_client_credentials::endpoint::{BodyEncoding, preset};

    let form_to_podero = Client::of(Flavor::Podero, |builder| builder);
    let error = form_to_podero.failing_call().await;
    assert!(error.to_string().contains("Dialect::body(BodyEncoding::Json)"), "{error}");
    let as_advised = Client::of(Flavor::Podero, |builder| {
        builder.dialect(Dialect::rfc6749().body(BodyEncoding::Json))
    });
    assert_eq!(as_advised.call().await.unwrap().status(), StatusCode::OK);

    let no_slash = Client::of(Flavor::Podero, |builder| {
        builder.dialect(preset::podero()).token_url("http://localhost/oauth2/token")
    });
    let error = no_slash.failing_call().await;
    assert!(error.to_string().contains("/oauth2/token/"), "{error}");
    assert!(error.to_string().contains("add the trailing slash"), "{error}");
}
