//! The errors of refused token requests: the server's own words, and what its reader can change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "also the helpers of tests"
)]

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_oauth2_client_credentials::{
    Builder, Dialect, ErrorClass, NotReplaced, TokenCache, TokenError,
    builder::ForCache,
    endpoint::{ClientAuthentication, TransportRequestBody},
    testing::{Answer, AuthorizationServer, BasicDecoding, ProtectedApi},
};

use crate::kit::{World, get, pass, secs};

type Sent = Request<TransportRequestBody>;

/// Asks an endpoint that always answers like this.
async fn asked(
    settings: impl FnOnce(Builder<ForCache>) -> Builder<ForCache>,
    status: u16,
    body: &'static str,
) -> TokenError {
    let service = service_fn(move |_: Sent| async move {
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok::<_, Infallible>(response)
    });
    let builder = TokenCache::builder().token_url("https://auth.example.com/token");
    let builder = builder.client_id("me").client_secret("s3cr3ts3cr3t").transport(service);
    settings(builder).build().unwrap().token().await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn the_servers_words_are_kept_whatever_their_shape() {
    for (who, status, body, words) in [
        (
            "Okta",
            401,
            r#"{"errorCode":"invalid_client","errorSummary":"Invalid value for 'client_id' parameter.","errorId":"oae1","errorCauses":[]}"#,
            "401 invalid_client: Invalid value for 'client_id' parameter.",
        ),
        (
            "Apigee, a fault",
            401,
            r#"{"fault":{"faultstring":"Invalid client identifier {0}","detail":{"errorcode":"oauth.v2.InvalidClientIdentifier"}}}"#,
            "401 oauth.v2.InvalidClientIdentifier: Invalid client identifier {0}",
        ),
        (
            "Apigee, a policy",
            401,
            r#"{"ErrorCode":"invalid_client","Error":"ClientId is Invalid"}"#,
            "401 invalid_client: ClientId is Invalid",
        ),
        (
            "FedEx",
            401,
            r#"{"transactionId":"1","errors":[{"code":"NOT.AUTHORIZED.ERROR","message":"Not valid."}]}"#,
            "401 NOT.AUTHORIZED.ERROR: Not valid.",
        ),
        (
            "UPS",
            401,
            r#"{"response":{"errors":[{"code":"10401","message":"ClientId is Invalid"}]}}"#,
            "401 10401: ClientId is Invalid",
        ),
        (
            "RFC 9457",
            401,
            r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The secret has expired."}"#,
            r#"401, it says "Unauthorized: The secret has expired.""#,
        ),
        ("Lark", 200, r#"{"code":10014,"msg":"app secret invalid"}"#, "10014: app secret invalid"),
        (
            "WeChat",
            200,
            r#"{"errcode":40125,"errmsg":"invalid appsecret"}"#,
            "40125: invalid appsecret",
        ),
        (
            "Google",
            401,
            r#"{"error":{"code":401,"message":"Request had invalid credentials.","status":"UNAUTHENTICATED"}}"#,
            "401 UNAUTHENTICATED: Request had invalid credentials.",
        ),
        (
            "Salesforce Marketing Cloud",
            401,
            r#"{"documentation":"https://x","errorcode":1,"message":"Unauthorized"}"#,
            "401 1: Unauthorized",
        ),
        ("the status twice", 400, r#"{"code":400,"message":"Nope"}"#, r#"400, it says "Nope""#),
        ("a list", 400, r#"{"errors":["no such tenant"]}"#, r#"400, it says "no such tenant""#),
        ("Spring", 401, r#"{"status":401,"error":"Unauthorized"}"#, "401 Unauthorized"),
        (
            "a form",
            400,
            "error=invalid_scope&error_description=No+such%20scope",
            "400 invalid_scope: No such scope",
        ),
        (
            "SOAP",
            400,
            "<?xml version='1.0'?><s:Fault xmlns:s='x'><faultcode>s:Client</faultcode>\
             <faultstring>Bad key</faultstring></s:Fault>",
            "400 s:Client: Bad key",
        ),
        ("an escape", 400, "Unknown\u{1b}[31m te\u{202e}nant", r#"it says "Unknown [31m te nant""#),
        ("no text", 400, "\u{1f}\u{8b}\u{8}\0\0x\u{1}\u{2}y", "400 [client"),
        ("plain text", 400, " Unknown tenant\n", r#"400, it says "Unknown tenant""#),
        (
            "a page",
            400,
            "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title>",
            r#"it says "400 The plain HTTP request was sent to HTTPS port""#,
        ),
        (
            "a proxy's page repeats the status",
            502,
            "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
            "failed: 502 [client",
        ),
        ("a text repeats the status", 403, "Forbidden\n", "403 [client"),
        ("broken JSON is not repeated", 400, r#"{"a":"#, "400 [client"),
    ] {
        let error = asked(|builder| builder, status, body).await;
        assert!(error.to_string().contains(words), "{who}: {error}");
        assert_eq!(error.status().unwrap(), status, "{who}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_beside_an_error_is_in_no_text() {
    let body =
        r#"{"error":"x","message":"T0k3nT0k3nT0k3n is revoked","access_token":"T0k3nT0k3nT0k3n"}"#;
    let error = asked(|builder| builder, 200, body).await;
    assert!(error.to_string().contains("x: [redacted] is revoked"), "{error}");
    assert!(!format!("{error:?}").contains("T0k3n"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_none_leads_to_the_missing_token() {
    for error in [r#""0""#, "{}", "[]", "{ }", "0", "0.0", "false", r#""False""#, "null"] {
        let body: &'static str =
            Box::leak(format!(r#"{{"error":{error},"result":1}}"#).into_boxed_str());
        let error = asked(|builder| builder, 200, body).await;
        assert_eq!(error.class(), ErrorClass::Malformed, "{body}");
        let said = error.to_string();
        assert!(said.contains("the answer has no `access_token`: 200"), "{said}");
        assert!(said.contains("is the path of the token URL right?"), "{said}");
        let token: &'static str =
            Box::leak(body.replace("\"result\":1", "\"access_token\":\"x\"").into_boxed_str());
        let service = service_fn(move |_: Sent| async move {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(token.as_bytes()))))
        });
        let builder = TokenCache::builder().token_url("https://auth.example.com/token");
        let builder = builder.client_id("me").client_secret("s").transport(service);
        assert!(builder.build().unwrap().token().await.is_ok(), "{token}");
    }
    // A success around a token that is elsewhere is no refusal.
    let nested = r#"{"code":200,"msg":"success","data":{"access_token":"x"}}"#;
    let error = asked(|builder| builder, 200, nested).await;
    assert!(error.to_string().contains("the answer has no `access_token`"), "{error}");
}

/// A firewall's word about the client would keep it silent for up to ten minutes.
#[tokio::test(start_paused = true)]
async fn a_page_of_html_with_403_is_not_a_refusal_of_the_client() {
    let page = "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>";
    let world = World::new();
    let answer =
        || Answer::json(StatusCode::FORBIDDEN, page).with_header("content-type", "text/html");
    world.server.script([answer(), answer()]);
    let error = world.error("/").await;
    assert_eq!(error.class(), ErrorClass::Malformed);
    let said = error.to_string();
    assert!(said.contains("403, it says \"Just a moment...\""), "{said}");
    assert!(said.contains("does not look like the authorization server"), "{said}");
    assert!(!said.contains("client_secret_post"), "{said}");
    pass(secs(7)).await;
    assert_eq!(world.status("/").await, StatusCode::OK, "asked again within seconds");

    for (status, body) in [(403, ""), (401, page), (403, r#"{"message":"x"}"#)] {
        let error = asked(|builder| builder, status, body).await;
        assert_eq!(error.class(), ErrorClass::Credentials, "{status} {body}");
    }
}

/// Following the advice must lead to what works, for every server that the kit can play.
#[tokio::test(start_paused = true)]
async fn advice_about_client_authentication_ends_at_what_works() {
    use ClientAuthentication::{ClientSecretBasic, ClientSecretBasicRaw, ClientSecretPost};

    for (secret, works, start) in [
        ("pl/ain:s3cr3t", ClientSecretBasicRaw, ClientSecretBasic),
        ("pl/ain:s3cr3t", ClientSecretBasic, ClientSecretBasicRaw),
        ("pl/ain:s3cr3t", ClientSecretPost, ClientSecretBasic),
        ("pl/ain:s3cr3t", ClientSecretPost, ClientSecretBasicRaw),
        ("plains3cr3t", ClientSecretPost, ClientSecretBasic),
        ("plains3cr3t", ClientSecretBasic, ClientSecretPost),
    ] {
        let mut tried = vec![start];
        loop {
            let method = *tried.last().unwrap();
            if method == works {
                break;
            }
            let settings = |builder: Builder<ForCache>| {
                builder.client_secret(secret).client_authentication(method)
            };
            let said = asked(settings, 401, r#"{"error":"invalid_client"}"#).await.to_string();
            let all = [ClientSecretBasicRaw, ClientSecretBasic, ClientSecretPost];
            let names = |method: &ClientAuthentication| said.contains(&format!("`{method}`"));
            let next = all.into_iter().find(|method| names(method) && !tried.contains(method));
            tried.push(next.unwrap_or_else(|| panic!("{tried:?} is a dead end: {said}")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_decodes_nothing_is_cured_as_advised() {
    let (id, secret) = ("sb-clone!b1234|app!b56", "kl+/=$%25x");
    let server = AuthorizationServer::builder()
        .client(id, secret)
        .basic_decoding(BasicDecoding::Raw)
        .build();
    let api = ProtectedApi::new(&server);
    let builder = || {
        Builder::new()
            .token_url(server.token_url())
            .client_id(id)
            .client_secret(secret)
            .transport(server.service())
    };
    let client = builder().build().unwrap().layer(api.service());
    let error = client.oneshot(get("/")).await.unwrap_err().to_string();
    assert!(error.contains("`client_secret_basic_raw`"), "{error}");
    let raw: ClientAuthentication = "client_secret_basic_raw".parse().unwrap();
    let client = builder().client_authentication(raw).build().unwrap().layer(api.service());
    assert_eq!(client.oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn advice_names_what_is_wrong_and_nothing_else() {
    type Settings = fn(Builder<ForCache>) -> Builder<ForCache>;
    let plain: Settings = |builder| builder;
    let post: Settings =
        |builder| builder.client_authentication(ClientAuthentication::ClientSecretPost);
    let no_grant_type: Settings =
        |builder| builder.dialect(Dialect::rfc6749().without_grant_type());
    let own_grant_type: Settings = |builder| {
        let dialect = Dialect::rfc6749().without_grant_type();
        builder.dialect(dialect).param("grant_type", "account_credentials")
    };
    let scoped: Settings = |builder| builder.scope("read");
    let unsupported = r#"{"error":"unsupported_grant_type"}"#;
    for (settings, status, body, said, not_said) in [
        (plain, 400, unsupported, "the body was a form", "no grant type"),
        (no_grant_type, 400, unsupported, "the request has no grant type", "the body was"),
        (own_grant_type, 400, unsupported, "the body was a form", "no grant type"),
        (no_grant_type, 415, "", "the body was a form", "no grant type"),
        (plain, 404, "", "is the path of the token URL right?", "client_secret"),
        (plain, 404, r#"{"error":"Not Found"}"#, "is the path", "client_secret"),
        (plain, 404, r#"{"error":"invalid_client"}"#, "`client_secret_post`", "path"),
        (plain, 404, r#"{"error":"invalid_tenant"}"#, "invalid_tenant", "path"),
        (plain, 401, "", "`client_secret_post`", "reserved"),
        (post, 401, "", "`client_secret_basic`", "reserved"),
        (
            post,
            400,
            r#"{"error":"invalid_request","error_description":"Missing client credentials"}"#,
            "`client_secret_basic`",
            "reserved",
        ),
        (plain, 400, r#"{"error":"invalid_request"}"#, "invalid_request", "client_secret"),
        (plain, 401, r#"{"error":"invalid_request"}"#, "`client_secret_post`", "reserved"),
        (plain, 401, r#"{"error":"invalid_scope"}"#, "invalid_scope", "client_secret"),
        (plain, 401, r#"{"error":"unauthorized_client"}"#, "`client_secret_post`", "reserved"),
        (plain, 400, r#"{"error":"unauthorized_client"}"#, "unauthorized", "client_secret"),
        (plain, 403, "", "no scope is set", "reserved"),
        (scoped, 403, "", "`client_secret_post`", "no scope"),
        (plain, 401, "", "`client_secret_post`", "no scope"),
        (plain, 403, r#"{"error":"access_denied"}"#, "`client_secret_post`", "no scope"),
    ] {
        let error = asked(settings, status, body).await.to_string();
        assert!(error.contains(said), "{status} {body}: {error}");
        assert!(!error.contains(not_said), "{status} {body}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_failure_says_so_and_when_the_next_attempt_is_due() {
    let world = World::new();
    world.server.respond_once(Answer::too_many_requests("20"));
    let first = world.error("/").await;
    assert!(!first.to_string().contains("remembered"), "{first}");
    let second = world.error("/").await;
    assert_eq!(world.token_requests(), 1);
    let due = "(a remembered failure; the next attempt is due at Wed, 01 Jan 2025 00:00:20 GMT)";
    assert!(second.to_string().ends_with(due), "{second}");
    let debug = format!("{second:?}");
    assert!(debug.contains("retry_at: at Wed, 01 Jan 2025 00:00:20 GMT"), "{debug}");
    assert_eq!(second.retry_at(), first.retry_at());
}

#[tokio::test(start_paused = true)]
async fn the_pause_of_forced_renewals_is_shown_as_a_time() {
    let world = World::new();
    world.api.reject_everything();
    for _ in 0..5 {
        let response = world.call("/").await.unwrap();
        let why = response.extensions().get::<NotReplaced>().unwrap();
        if why.is_cooling_down() {
            assert!(why.to_string().contains("asked for at Wed, 01 Jan 2025 00:"), "{why}");
            let debug = format!("{why:?}");
            assert!(debug.contains("until: at Wed, 01 Jan 2025 00:"), "{debug}");
            return;
        }
    }
    panic!("no pause came");
}

/// The error reaches its reader through tower's and other layers' wrappers.
#[tokio::test(start_paused = true)]
async fn the_error_is_found_behind_those_of_other_layers() {
    let world = World::new();
    world.server.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
    let client = tower::ServiceBuilder::new()
        .map_err(|error| std::io::Error::other(std::io::Error::other(error)))
        .service(world.client.clone());
    let error = client.oneshot(get("/")).await.unwrap_err();
    assert_eq!(TokenError::find(&error).unwrap().class(), ErrorClass::Credentials);
    assert!(TokenError::find(&std::io::Error::other("else")).is_none());
}

/// Entra's continuous access evaluation: a token with the claims can be had only by the caller.
#[tokio::test(start_paused = true)]
async fn claims_that_a_renewal_does_not_meet_arrive_at_the_caller() {
    let challenge = r#"Bearer error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ==""#;
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    let refused =
        || Answer::status(StatusCode::UNAUTHORIZED).with_header("www-authenticate", challenge);
    world.api.respond_once(refused());
    world.api.respond_once(refused());
    let before = world.token_requests();
    let response = world.call("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["www-authenticate"], challenge);
    assert_eq!(world.token_requests() - before, 1, "one renewal");
}
