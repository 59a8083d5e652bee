//! A token endpoint's response: a token, or the reason why there is none.
//!
//! Pure. Responses are read tolerantly; an unusable value is named and never repeated. Responses
//! without success are described in `refusal`.

use std::time::SystemTime;

use http::{StatusCode, response::Parts};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    compression::coding,
    form,
    json::{Duplicate, Object, kind, string, without_byte_order_mark},
    lifetime::lifetime,
    refusal,
    request::TokenRequest,
    scrub::Scrubber,
    token_type::{TokenType, without_scheme},
};
use crate::{
    credentials::ClientCredentials,
    error::config::shown,
    error::{ErrorClass, TokenError, server_text},
    token::{Lifetime, TokenResponse},
};

/// The longest granted scope that is kept, in bytes.
const MAX_SCOPE: usize = 4 * 1024;

/// The advice about a compressed body.
const DECOMPRESS: &str =
    "let the transport decompress it, for example by the `Decompression` layer of tower-http";

/// The token request and its credentials, for advice, and to remove the secret from the server's
/// text.
pub(super) struct Asked<'a> {
    pub(super) request: &'a TokenRequest,
    pub(super) credentials: &'a ClientCredentials,
}

/// A token, and a note about its type.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) token: TokenResponse,
    /// The token's type, if it is not called Bearer. Safe to show.
    pub(super) odd_type: Option<Box<str>>,
}

/// Reads a response (RFC 6749 section 5). `now` is the time of the response by the wall clock.
///
/// # Errors
///
/// Every class that a server's response can have: see [`ErrorClass`].
pub(super) fn read(
    parts: &Parts,
    body: &[u8],
    asked: &Asked<'_>,
    now: SystemTime,
) -> Result<Read, TokenError> {
    let text = without_byte_order_mark(body);
    let is_form = form::is_form(&parts.headers, text);
    let rewritten = is_form.then(|| form::to_json(text, &asked.request.dialect.access_token));
    let readable = match &rewritten {
        Some(Some(json)) => json,
        _ => body,
    };
    let succeeded = matches!(parts.status, StatusCode::OK | StatusCode::CREATED);
    // GitHub and others refuse with 200 and an `error`.
    if !succeeded || refusal::is_refusal_with_success(readable, asked) {
        let refused = refusal::refused(parts, readable, asked, now);
        let is_text = std::str::from_utf8(body).is_ok();
        return Err(match coding(&parts.headers, body).filter(|_| !is_text) {
            Some(coding) => refused.or_advice(|| {
                format!("its body is compressed ({coding}), and so not read: {DECOMPRESS}")
            }),
            None => refused,
        });
    }
    let answer = match rewritten {
        Some(None) => Err("a form that is not UTF-8"),
        _ => Object::parse(readable),
    };
    answer
        .map_err(|seen| unreadable(seen, parts, body))
        .and_then(|answer| success(&answer, asked, now))
        .map_err(|error| error.with_status(parts.status))
}

/// Returns the error of a body that is `seen` instead of a token response.
fn unreadable(seen: &str, parts: &Parts, body: &[u8]) -> TokenError {
    match coding(&parts.headers, body) {
        Some(coding) => malformed(format!(
            "the token endpoint answered with a compressed body ({coding}), which the request did \
             not ask for"
        ))
        .with_advice(DECOMPRESS),
        None => malformed(format!("the token endpoint answered with {seen}")),
    }
}

fn success(answer: &Object<'_>, asked: &Asked<'_>, now: SystemTime) -> Result<Read, TokenError> {
    let dialect = &asked.request.dialect;
    let field = |name: &str| {
        answer
            .at(name)
            .map_err(|Duplicate| malformed(format!("the answer has more than one `{name}`")))
    };

    let name = &*dialect.access_token;
    let Some(token) = field(name)? else {
        return Err(no_token(answer, name));
    };
    let Some(token) = string(token).map(Zeroizing::new) else {
        let seen = match kind(token) {
            "a string" => "a string with broken escapes",
            other => other,
        };
        return Err(malformed(format!("`{name}` in the answer is {seen}, not a token")));
    };

    let token = without_scheme(&token);
    let odd_type = match field(&dialect.token_type)? {
        Some(raw) => odd_type(raw, token, asked)?,
        None => None,
    };
    let expires_in = field(&dialect.expires_in)?;
    let mut response = TokenResponse::bearer(token)?;
    response = match lifetime(expires_in, answer, token, dialect.zero, now) {
        Lifetime::Of(lifetime) => response.expires_in(lifetime),
        Lifetime::OneUse => response.for_one_use(),
        Lifetime::Unknown | Lifetime::Never => response,
    };
    // Informative only, so an odd one is not worth an error.
    let scope = answer.at(&dialect.granted_scope).ok().flatten().and_then(string);
    if let Some(scope) = scope.filter(|scope| !scope.is_empty() && scope.len() <= MAX_SCOPE) {
        response = response.scope(scope);
    }
    Ok(Read { token: response, odd_type })
}

/// Returns the token's type, if it is not called Bearer but is accepted (RFC 6749 section 7.1 would
/// refuse it). An absent type is Bearer, since servers forget it.
fn odd_type(
    raw: &RawValue,
    token: &str,
    asked: &Asked<'_>,
) -> Result<Option<Box<str>>, TokenError> {
    let Some(token_type) = string(raw) else {
        return Err(malformed(format!("the token's type is {}, not a string", kind(raw))));
    };
    let scrubbed = || {
        let mut scrubber = Scrubber::new(asked.credentials);
        scrubber.add(token.as_bytes());
        server_text(&scrubber.scrub(token_type.trim()))
    };
    match TokenType::of(&token_type) {
        TokenType::Bearer => Ok(None),
        TokenType::Odd if !asked.request.dialect.is_strict => Ok(Some(scrubbed())),
        TokenType::Odd => Err(malformed(format!(
            "the token's type is {}, and the dialect is strict about Bearer",
            shown(&scrubbed())
        ))),
        TokenType::Unusable => Err(malformed(format!(
            "the token's type is {}, which is no bearer token",
            shown(&scrubbed())
        ))),
    }
}

fn no_token(answer: &Object<'_>, name: &str) -> TokenError {
    let error = malformed(format!("the answer has no `{name}`"));
    let other = ["access_token", "accessToken", "token"]
        .into_iter()
        .find(|other| answer.first(other).is_some());
    match other {
        Some(other) => error.with_advice(format!(
            "it has `{other}`: if that is the token, set `Dialect::access_token_field`"
        )),
        None => error.with_advice("is the path of the token URL right?"),
    }
}

fn malformed(message: String) -> TokenError {
    TokenError::new(ErrorClass::Malformed, message)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{Response, Uri};

    use super::*;
    use crate::endpoint::{ClientAuthentication, dialect::Dialect, preset};

    /// Has reserved characters, so that every encoding of it is another text.
    const SECRET: &str = "c4n4ry/p+ss \"w\"";

    /// Tue, 14 Nov 2023 22:13:20 GMT
    const NOW: u64 = 1_700_000_000;

    fn answer(
        dialect: Dialect,
        status: u16,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<TokenResponse, TokenError> {
        read_answer(dialect, status, headers, body).map(|read| read.token)
    }

    fn read_answer(
        dialect: Dialect,
        status: u16,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Read, TokenError> {
        let url = Uri::from_static("https://auth.example.com/oauth/token");
        let request = TokenRequest::new(url, dialect);
        let credentials = ClientCredentials::new("me", SECRET);
        let asked = Asked { request: &request, credentials: &credentials };
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let result = read(&parts, body.as_ref(), &asked, now);
        if let Err(error) = &result {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("c4n4ry"), "{text}");
            assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
        }
        result
    }

    fn granted(body: &str) -> TokenResponse {
        answer(Dialect::rfc6749(), 200, &[], body).unwrap()
    }

    fn refused(status: u16, headers: &[(&str, &str)], body: &str) -> TokenError {
        answer(Dialect::rfc6749(), status, headers, body).unwrap_err()
    }

    #[test]
    fn each_provider_is_understood() {
        let secs = |n| Lifetime::Of(Duration::from_secs(n));
        for (dialect, body, token, lifetime) in [
            (
                Dialect::rfc6749(),
                r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600}"#
                    .replace("example", "Bearer"),
                "2YotnFZFEjr1zCsicMWpAA",
                secs(3600),
            ),
            (
                Dialect::auth0(),
                r#"{"access_token":"eyJz93a.k4laUWw","token_type":"Bearer","expires_in":86400}"#.into(),
                "eyJz93a.k4laUWw",
                secs(86_400),
            ),
            (
                preset::podero(),
                r#"{"access_token": "opaque", "expires_in": 36000, "token_type": "Bearer", "scope": "read write"}"#
                    .into(),
                "opaque",
                secs(36_000),
            ),
            (
                preset::dadi(),
                r#"{"accessToken":"4172bbf1-0890-41c7-b0db-477095a288b6","tokenType":"Bearer","expiresIn":1800}"#
                    .into(),
                "4172bbf1-0890-41c7-b0db-477095a288b6",
                secs(1800),
            ),
            (
                Dialect::rfc6749()
                    .access_token_field("/data/accessToken")
                    .expires_in_field("/data/ttl"),
                r#"{"data":{"accessToken":"nested","ttl":"60"},"token_type":"bearer"}"#.into(),
                "nested",
                secs(60),
            ),
        ] {
            for status in [200, 201] {
                let html = [("content-type", "text/html")];
                let response = answer(dialect.clone(), status, &html, &body).unwrap();
                assert_eq!(response.expose_secret(), token);
                assert_eq!(response.lifetime(), lifetime);
            }
        }
        let podero = granted(r#"{"access_token":"x","scope":"read write"}"#);
        assert_eq!(podero.into_parts().2.as_deref(), Some("read write"));
        for (len, kept) in [(4096, true), (4097, false)] {
            let scope = "s".repeat(len);
            let granted = granted(&format!(r#"{{"access_token":"x","scope":"{scope}"}}"#));
            assert_eq!(granted.into_parts().2.is_some(), kept, "{len}");
        }
    }

    #[test]
    fn the_token_type_is_bearer_in_any_case_or_absent() {
        for field in ["", r#","token_type":"bearer""#, r#","token_type":"BEARER ""#]
            .into_iter()
            .chain([r#","token_type":null"#, r#","token_type":"""#])
        {
            let body = format!(r#"{{"access_token":"x"{field}}}"#);
            for dialect in [Dialect::rfc6749(), Dialect::rfc6749().strict_token_type()] {
                let read = read_answer(dialect, 200, &[], &body).unwrap();
                assert_eq!(read.odd_type, None, "{field}");
                assert_eq!(read.token.into_parts().0.as_bytes(), b"Bearer x", "{field}");
            }
        }
    }

    #[test]
    fn an_odd_token_type_is_bearer_unless_the_dialect_is_strict() {
        for (token_type, told) in [
            ("BearerToken", "BearerToken"),
            (" Application Access Token ", "Application Access Token"),
            ("a\\nb", "a b"),
            ("c4n4ry/p+ss \\\"w\\\"", "[redacted]"),
            ("JWT t0k3n-t0k3n", "JWT [redacted]"),
            ("0k3n-t0k3n", "[redacted]"),
        ] {
            let body =
                format!(r#"{{"access_token":"Bearer t0k3n-t0k3n","token_type":"{token_type}"}}"#);
            let read = read_answer(Dialect::rfc6749(), 200, &[], &body).unwrap();
            assert_eq!(read.odd_type.as_deref(), Some(told));
            assert_eq!(read.token.expose_secret(), "t0k3n-t0k3n");
            let strict = Dialect::rfc6749().strict_token_type();
            let error = answer(strict, 200, &[], &body).unwrap_err();
            let said = format!("the token's type is {told:?}, and the dialect is strict");
            assert!(error.to_string().contains(&said), "{error}");
        }
        let long = format!(r#"{{"access_token":"x","token_type":"{}"}}"#, "y".repeat(100_000));
        let read = read_answer(Dialect::rfc6749(), 200, &[], &long).unwrap();
        assert!(read.odd_type.unwrap().len() <= 256);
    }

    #[test]
    fn a_scheme_before_the_token_is_removed() {
        let token = granted(r#"{"access_token":"bearer eyJ.x.y"}"#);
        assert_eq!(token.into_parts().0.as_bytes(), b"Bearer eyJ.x.y");
        let error = refused(200, &[], r#"{"access_token":"Bearer Bearer c4n4ry"}"#);
        assert!(error.to_string().contains("or a header with its scheme?"), "{error}");
    }

    #[test]
    fn a_form_is_read_as_json_is() {
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let of = |body: &str| answer(Dialect::rfc6749(), 200, &form, body);
        for start in ["", "\u{feff}"] {
            let body = "access_token=a+b%2Fc&expires_in=60&scope=read+write&token_type=bearer";
            let token = of(&format!("{start}{body}")).unwrap();
            assert_eq!(token.expose_secret(), "a+b/c");
            assert_eq!(token.lifetime(), Lifetime::Of(Duration::from_secs(60)));
            assert_eq!(token.granted_scope(), Some("read write"));
            let token = of(&format!(r#"{start}{{"access_token":"x"}}"#)).unwrap();
            assert_eq!(token.expose_secret(), "x", "JSON under the wrong type");
        }
        let named = Dialect::rfc6749().access_token_field("token");
        let token = answer(named, 201, &form, "token=a+b").unwrap();
        assert_eq!(token.expose_secret(), "a+b");
        for (body, said) in [
            ("access_token=c4n4ry&access_token=c4n4ry", "more than one `access_token`"),
            ("access_token=a&expires_in=1&expires_in=2", "more than one `expires_in`"),
            ("access_token=", "the access token is empty"),
            ("access_token=c4n4ry%0a", "a character at position 6"),
            ("token=c4n4ry", "it has `token`: if that is the token"),
            ("access_token=c4n4ry%ff", "answered with a form that is not UTF-8"),
            ("c4n4ry", "the answer has no `access_token`"),
            ("<html>c4n4ry=", "answered with HTML or XML"),
        ] {
            let error = of(body).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Malformed);
            assert!(error.to_string().contains(said), "{body}: {error}");
        }
        // GitHub refuses so.
        for status in [200, 401] {
            let body = "error=invalid_client&error_description=The+client_id+is+wrong";
            let error = answer(Dialect::rfc6749(), status, &form, body).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Credentials);
            assert_eq!(error.oauth_error_description(), Some("The client_id is wrong"));
        }
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        assert_eq!(granted("\u{feff}{\"access_token\":\"x\"}").expose_secret(), "x");
        assert_eq!(granted("\u{feff}\r\n{\"access_token\":\"x\"}").expose_secret(), "x");
        let error = refused(400, &[], "\u{feff}{\"error\":\"invalid_client\"}");
        assert_eq!(error.class(), ErrorClass::Credentials);
    }

    #[test]
    fn a_compressed_body_is_named() {
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03c4n4ry";
        let form = ("content-type", "application/x-www-form-urlencoded");
        for (headers, body, coding) in [
            ([("content-encoding", "gzip")].as_slice(), gzip.as_slice(), "gzip"),
            (&[], gzip, "gzip"),
            (&[form], gzip, "gzip"),
            (&[("content-encoding", "deflate")], b"c4n4ry", "deflate"),
            (&[], b"\x78\x9cc4n4ry", "deflate"),
            (&[("content-encoding", "c4n4ry")], b"c4n4ry", "an unknown coding"),
        ] {
            let error = answer(Dialect::rfc6749(), 200, headers, body).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Malformed);
            let said = format!("a compressed body ({coding})");
            assert!(error.to_string().contains(&said), "{error}");
        }
        let error = answer(Dialect::rfc6749(), 400, &[], gzip).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Request);
        assert!(error.to_string().contains("its body is compressed (gzip)"), "{error}");
        let error = answer(Dialect::rfc6749(), 404, &[], gzip).unwrap_err();
        assert!(error.to_string().contains("path of the token URL"), "{error}");
        let header = [("content-encoding", "gzip")];
        let error = answer(Dialect::rfc6749(), 400, &header, "plain").unwrap_err();
        assert!(!error.to_string().contains("compressed"), "{error}");
        // A transport that decompresses may leave the header.
        let header = [("content-encoding", "gzip")];
        let token = answer(Dialect::rfc6749(), 200, &header, r#"{"access_token":"x"}"#).unwrap();
        assert_eq!(token.expose_secret(), "x");
    }

    #[test]
    fn what_is_no_token_is_malformed_and_named() {
        let long = format!(r#"{{"access_token":"{}"}}"#, "c4n4ry".repeat(200_000));
        let deep = format!(r#"{{"access_token":{}{}}}"#, "[".repeat(9999), "]".repeat(9999));
        for (body, said) in [
            ("", "answered with an empty body"),
            ("<html>c4n4ry</html>", "answered with HTML or XML, not JSON"),
            ("access_token=c4n4ry", "answered with text that is not JSON"),
            ("[\"c4n4ry\"]", "answered with JSON, but not an object"),
            ("{\"access_token\":\"c4n4ry", "answered with JSON that ends too early"),
            ("\u{feff}{}", "the answer has no `access_token`"),
            ("\u{feff}\u{feff}{}", "answered with text that is not JSON"),
            (&deep, "answered with JSON that is nested too deeply"),
            ("{}", "the answer has no `access_token`"),
            (r#"{"access_token":null}"#, "the answer has no `access_token`"),
            (r#"{"accessToken":"c4n4ry"}"#, "(it has `accessToken`: if that is the token, set"),
            (r#"{"access_token":"a","access_token":"b"}"#, "more than one `access_token`"),
            (r#"{"access_token":"a","expires_in":1,"expires_in":2}"#, "more than one `expires_in`"),
            (r#"{"access_token":7}"#, "`access_token` in the answer is a number, not a token"),
            (r#"{"access_token":"\ud800c4n4ry"}"#, "is a string with broken escapes"),
            (r#"{"access_token":""}"#, "the access token is empty"),
            (r#"{"access_token":"c4n4ry\n"}"#, "a character at position 6 that no header"),
            (r#"{"access_token":"tokén"}"#, "a character at position 3 that no header"),
            (&long, "the access token is longer than 16 KiB"),
            (
                r#"{"access_token":"c4n4ry","token_type":"mac"}"#,
                r#"type is "mac", which is no bearer token"#,
            ),
            (r#"{"access_token":"c4n4ry","token_type":"DPoP"}"#, r#"type is "DPoP", which is no"#),
            (r#"{"access_token":"c4n4ry","token_type":{}}"#, "type is an object, not a string"),
            (
                r#"{"access_token":"c4n4ry","token_type":"mac c4n4ry/p+ss \"w\""}"#,
                r#"type is "mac [redacted]", which is no"#,
            ),
        ] {
            let error = refused(200, &[], body);
            assert_eq!(error.class(), ErrorClass::Malformed, "{body:.60}");
            assert!(error.to_string().contains(said), "{body:.60}: {error}");
        }
        let error =
            answer(Dialect::rfc6749(), 200, &[], b"{\"access_token\":\"\xff\"}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token endpoint answered with text that is not UTF-8: 200"
        );
        assert_eq!(refused(204, &[], "").class(), ErrorClass::Malformed);
    }

    #[test]
    fn status_and_code_make_the_class() {
        use ErrorClass::{Credentials, Malformed, Request, Throttled, Transient};
        let html = "<html><h1>c4n4ry</h1></html>";
        let code = |code: &str| format!(r#"{{"error":"{code}","error_description":"why"}}"#);
        let after: &[(&str, &str)] = &[("retry-after", "7")];
        for (status, headers, body, class) in [
            (400, [].as_slice(), code("invalid_client"), Credentials),
            (400, &[], code("unauthorized_client"), Credentials),
            (401, &[], code("invalid_client"), Credentials),
            (401, &[], code("access_denied"), Credentials),
            (403, &[], code("access_denied"), Credentials),
            (400, &[], code("access_denied"), Request),
            (401, &[], String::new(), Credentials),
            (403, &[], String::new(), Credentials),
            (401, &[], html.into(), Credentials),
            (401, &[], r#"{"statusCode":401}"#.into(), Credentials),
            (401, &[], code("invalid_scope"), Request),
            (403, &[], code("scope_invalid"), Request),
            (400, &[], code("invalid_scope"), Request),
            (400, &[], code("invalid_request"), Request),
            (400, &[], code("invalid_target"), Request),
            (400, &[], code("invalid_grant"), Request),
            (400, &[], code("unsupported_grant_type"), Request),
            (400, &[], code("use_dpop_nonce"), Request),
            (400, &[], String::new(), Request),
            (400, &[], html.into(), Request),
            (404, &[], html.into(), Request),
            (405, &[], String::new(), Request),
            (415, &[], String::new(), Request),
            (301, &[], String::new(), Request),
            (304, &[], String::new(), Request),
            (307, &[], code("server_error"), Request),
            (308, &[], String::new(), Request),
            (408, &[], html.into(), Transient),
            (429, &[], String::new(), Throttled),
            (429, after, code("access_denied"), Throttled),
            (400, &[], code("slow_down"), Throttled),
            (503, after, html.into(), Throttled),
            (503, &[], html.into(), Transient),
            (500, &[], code("invalid_client"), Transient),
            (502, &[], html.into(), Transient),
            (599, after, String::new(), Transient),
            (400, &[], code("server_error"), Transient),
            (400, &[], code("temporarily_unavailable"), Transient),
            (200, &[], code("invalid_client"), Credentials),
            (200, &[], code("INVALID_SCOPE"), Request),
            (200, &[], code("incorrect_something"), Request),
            (200, &[], code("slow_down"), Throttled),
            (201, &[], r#"{"error":{"message":"why"},"access_token":"x"}"#.into(), Request),
            (206, &[], r#"{"access_token":"x"}"#.into(), Malformed),
            (999, &[], String::new(), Malformed),
        ] {
            let error = refused(status, headers, &body);
            assert_eq!(error.class(), class, "{status} {body}: {error}");
            let delay = (!headers.is_empty()).then_some(Duration::from_secs(7));
            assert_eq!(error.retry_after(), delay);
            assert!(!error.to_string().contains('<'), "{error}");
        }
    }

    #[test]
    fn the_servers_words_are_kept() {
        let error =
            refused(403, &[], r#"{"error":"access_denied","error_description":"No grant"}"#);
        assert_eq!(error.oauth_error(), Some("access_denied"));
        assert_eq!(error.oauth_error_description(), Some("No grant"));
        // DADI API 6.1
        let challenge = r#"Bearer, error="invalid_credentials", error_description="Invalid credentials supplied""#;
        let error = answer(
            preset::dadi(),
            401,
            &[("www-authenticate", challenge)],
            r#"{"statusCode":401}"#,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token endpoint refused the client: 401 invalid_credentials: \
             Invalid credentials supplied"
        );
        let error = refused(422, &[], r#"{"message":"no such thing"}"#);
        assert!(error.to_string().ends_with(r#": 422, it says "no such thing""#), "{error}");
    }

    #[test]
    fn an_echoed_secret_is_taken_out_before_the_text_is_cut() {
        let echo = serde_json::to_string(&serde_json::json!({"secret": SECRET})).unwrap();
        for text in [
            echo.clone(),
            SECRET.into(),
            format!("{}{SECRET}", "x".repeat(250)),
            "client_secret=c4n4ry%2Fp%2Bss+%22w%22&x=c4n4ry%2Fp%2Bss%20%22w%22".into(),
        ] {
            for field in ["error", "error_description", "message"] {
                let body = serde_json::json!({"error": "odd", field: text}).to_string();
                // `answer` looks for the secret.
                refused(400, &[], &body);
            }
            refused(400, &[], &serde_json::json!({"message": text}).to_string());
            refused(401, &[], &serde_json::json!({"error": {"message": text}}).to_string());
        }
        let quoted = format!("Bearer error=\"{}\"", SECRET.replace('"', "\\\""));
        refused(401, &[("www-authenticate", &quoted)], "");
        refused(302, &[("location", "/c4n4ry%2Fp%2Bss%20%22w%22")], "");
    }

    #[test]
    fn advice_names_what_to_change() {
        let coded = |code: &str| format!(r#"{{"error":"{code}"}}"#);
        let raw =
            Dialect::rfc6749().client_authentication(ClientAuthentication::ClientSecretBasicRaw);
        let rfc = Dialect::rfc6749;
        let to = |url: &'static str| vec![("location", url)];
        for (dialect, status, headers, body, advice) in [
            (
                rfc(),
                401,
                vec![],
                coded("invalid_client"),
                "try the client authentication `client_secret_basic_raw`",
            ),
            (
                rfc(),
                403,
                vec![],
                String::new(),
                "try the client authentication `client_secret_basic_raw`",
            ),
            (
                raw,
                401,
                vec![],
                String::new(),
                "try the client authentication `client_secret_basic`",
            ),
            (rfc(), 400, vec![], coded("unsupported_grant_type"), "body(BodyEncoding::Json)"),
            (preset::podero(), 415, vec![], String::new(), "body(BodyEncoding::Form)"),
            (rfc(), 404, vec![], String::new(), "path of the token URL"),
            (rfc(), 405, vec![], String::new(), "takes POST"),
            (rfc(), 301, to("/oauth/token/"), String::new(), "add the trailing slash"),
            (
                rfc(),
                308,
                to("https://auth.example.com/oauth/token/?q=c4n4ry"),
                String::new(),
                "redirects to https://auth.example.com/oauth/token/, and the secret follows no \
                 redirect: add the trailing slash",
            ),
            (
                rfc(),
                307,
                to("https://me:c4n4ry@evil.example/t#c4n4ry"),
                String::new(),
                "redirects to https://***@evil.example/t, and the secret follows no redirect: set",
            ),
            (rfc(), 302, to("https://evil.example"), String::new(), "trailing slash"),
        ] {
            let error = answer(dialect, status, &headers, &body).unwrap_err();
            assert!(error.to_string().contains(advice), "{error}");
        }
        let long = format!("/{}", "x".repeat(5000));
        assert!(refused(302, &[("location", &long)], "").to_string().len() < 600);
        let error = answer(preset::dadi(), 401, &[], coded("invalid_client")).unwrap_err();
        assert!(!error.to_string().contains('('), "no Basic, no advice about it: {error}");
    }

    /// A gateway's challenge beside the server's own words is the lesser witness.
    #[test]
    fn what_the_body_says_counts_more_than_the_challenge() {
        let challenge = [("www-authenticate", r#"Bearer error="invalid_request""#)];
        let error = refused(401, &challenge, r#"{"error":"invalid_client"}"#);
        assert_eq!(error.oauth_error(), Some("invalid_client"));
        assert_eq!(error.class(), ErrorClass::Credentials);
    }

    #[test]
    fn an_id_with_reserved_characters_is_advised_about_as_a_secret_is() {
        for (id, secret, advised) in
            [("me", "plain", false), ("m:e", "plain", true), ("me", "pl/ain", true)]
        {
            let request =
                TokenRequest::new(Uri::from_static("https://a.example/t"), Dialect::rfc6749());
            let credentials = ClientCredentials::new(id, secret);
            let asked = Asked { request: &request, credentials: &credentials };
            let (parts, ()) = Response::builder().status(401).body(()).unwrap().into_parts();
            let error = read(&parts, b"", &asked, UNIX_EPOCH).unwrap_err();
            assert_eq!(error.to_string().contains("reserved characters"), advised, "{id} {secret}");
        }
    }
}
