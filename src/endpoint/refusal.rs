//! A token endpoint's answer without a token: what kind of failure it is, in the server's words
//! and with what can be done about it.
//!
//! Pure. The status says most; the `error` code of RFC 6749 section 5.2 says more, if there is one.
//! A body that cannot be read never hides the status.

use std::time::SystemTime;

use http::{
    HeaderMap, StatusCode,
    header::{LOCATION, WWW_AUTHENTICATE},
    response::Parts,
};
use serde_json::value::RawValue;

use super::{
    client_authentication::ClientAuthentication,
    dialect::BodyEncoding,
    encode::BasicEncoding,
    encode::has_reserved,
    json::{Object, kind, string},
    response::Asked,
    retry_after::retry_after,
    scrub::Scrubber,
    url::presentable,
};
use crate::error::{ErrorClass, TokenError, server_text};

/// What a server says about a failure.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Complaint {
    code: Option<String>,
    description: Option<String>,
}

impl Complaint {
    /// The complaint in a body, if it is JSON with an `error`: a code (RFC 6749 section 5.2), or
    /// an object around one as Google and others have it.
    pub(super) fn in_body(body: &[u8]) -> Option<Self> {
        // Latin-1 in a description must not hide the code beside it.
        let body = String::from_utf8_lossy(body);
        let object = Object::parse_leniently(body.as_bytes())?;
        let error = object.first("error")?;
        let text = |object: &Object<'_>, name| object.first(name).and_then(words);
        let description =
            || text(&object, "error_description").or_else(|| text(&object, "message"));
        match kind(error) {
            "a string" => {
                let code = words(error)?;
                Some(Self { code: Some(code), description: description() })
            }
            "an object" => {
                let inner = Object::parse_leniently(error.get().as_bytes())?;
                Some(Self {
                    code: text(&inner, "code").or_else(|| text(&inner, "status")),
                    description: text(&inner, "message").or_else(description),
                })
            }
            // No error, as some write it; null and "" are taken care of above.
            _ if matches!(error.get(), "false" | "0" | "[]") => None,
            _ => Some(Self { code: None, description: description() }),
        }
    }

    /// The complaint of a refusal. DADI has it in the challenge; others have but a `message`.
    fn of_refusal(parts: &Parts, body: &[u8]) -> Self {
        Self::in_body(body).or_else(|| Self::in_challenge(&parts.headers)).unwrap_or_else(|| {
            let body = String::from_utf8_lossy(body);
            let object = Object::parse_leniently(body.as_bytes());
            let description = object.and_then(|object| object.first("message").and_then(words));
            Self { code: None, description }
        })
    }

    fn in_challenge(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|challenge| {
            let challenge = challenge.to_str().ok()?;
            let code = parameter(challenge, "error")?;
            Some(Self { code: Some(code), description: parameter(challenge, "error_description") })
        })
    }
}

/// The failure that an answer without a token is.
pub(super) fn refused(
    parts: &Parts,
    body: &[u8],
    asked: &Asked<'_>,
    now: SystemTime,
) -> TokenError {
    let complaint = Complaint::of_refusal(parts, body);
    let status = parts.status;
    let delay = retry_after(parts, now);
    let known = complaint.code.as_deref().and_then(known_code);
    let class = match (status.as_u16(), delay) {
        // What the status alone decides: a proxy's or a broken server's word about the client or
        // the request is not to be trusted.
        (429, _) | (503, Some(_)) => ErrorClass::Throttled,
        (408 | 500..=599, _) => ErrorClass::Transient,
        (300..=399, _) => ErrorClass::Request,
        (by_status, _) => known.map_or_else(|| class_of(by_status), |(_, class)| class),
    };

    let scrubber = Scrubber::new(asked.credentials);
    let mut error = TokenError::new(class, message(class, status)).with_status(status);
    let description = complaint.description.map(|text| scrubber.scrub(&text));
    let mut said = None;
    match (known, complaint.code, description) {
        // A code we know is no echo: a secret such as "client" must not spoil it.
        (Some((code, _)), _, text) => error = error.with_oauth_error(code, text.as_deref()),
        (None, Some(code), text) => {
            error = error.with_oauth_error(&scrubber.scrub(&code), text.as_deref());
        }
        (None, None, text) => said = text,
    }
    if let Some(delay) = delay {
        error = error.with_retry_after(delay);
    }
    let code = known.map(|(code, _)| code);
    let advice = advice(parts, class, code, asked, &scrubber)
        .or_else(|| Some(format!("it says {:?}", server_text(&said?))));
    match advice {
        Some(advice) => error.with_advice(advice),
        None => error,
    }
}

/// The codes of RFC 6749 section 5.2 and its relatives, and the class of each.
fn known_code(code: &str) -> Option<(&'static str, ErrorClass)> {
    use ErrorClass::{Credentials, Request, Throttled, Transient};
    const KNOWN: [(&str, ErrorClass); 11] = [
        ("invalid_client", Credentials),
        ("unauthorized_client", Credentials),
        ("invalid_scope", Request),
        // Not in any RFC, but recorded from a real server.
        ("scope_invalid", Request),
        ("invalid_request", Request),
        // RFC 8707 section 2.
        ("invalid_target", Request),
        ("unsupported_grant_type", Request),
        ("invalid_grant", Request),
        // RFC 8628 section 3.5, also sent to clients of other grants.
        ("slow_down", Throttled),
        ("server_error", Transient),
        ("temporarily_unavailable", Transient),
    ];
    KNOWN.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(code))
}

/// The class by the status alone, where a code may overrule it.
fn class_of(status: u16) -> ErrorClass {
    match status {
        401 | 403 => ErrorClass::Credentials,
        // 200 and 201 come here only with an `error` that is not known.
        200 | 201 | 400..=499 => ErrorClass::Request,
        _ => ErrorClass::Malformed,
    }
}

fn message(class: ErrorClass, status: StatusCode) -> &'static str {
    match class {
        ErrorClass::Credentials => "the token endpoint refused the client",
        ErrorClass::Throttled => "the token endpoint asks for patience",
        ErrorClass::Transient => "the token endpoint failed",
        ErrorClass::Malformed => "the token endpoint answered without a token",
        _ if status.is_redirection() => "the token endpoint answered with a redirect",
        _ => "the token endpoint refused the request",
    }
}

/// What the reader can do about it, where that can be told.
fn advice(
    parts: &Parts,
    class: ErrorClass,
    code: Option<&str>,
    asked: &Asked<'_>,
    scrubber: &Scrubber,
) -> Option<String> {
    let dialect = &asked.request.dialect;
    let status = parts.status.as_u16();
    if parts.status.is_redirection() {
        return redirect_advice(parts, asked, scrubber);
    }
    if code == Some("unsupported_grant_type") || status == 415 {
        let (sent, other) = match dialect.body {
            BodyEncoding::Form => ("a form", "BodyEncoding::Json"),
            BodyEncoding::Json => ("JSON", "BodyEncoding::Form"),
        };
        return Some(format!(
            "the body was {sent}; if the endpoint reads only the other, set \
             `Dialect::body({other})`"
        ));
    }
    if class == ErrorClass::Credentials
        && let Some(encoding) = dialect.client_authentication.basic_encoding()
        && (has_reserved(asked.credentials.id()) || has_reserved(asked.credentials.expose_secret()))
    {
        let (sent, other) = match encoding {
            BasicEncoding::PercentEncoded => {
                ("percent-encoded", ClientAuthentication::ClientSecretBasicRaw)
            }
            BasicEncoding::Raw => ("as they are", ClientAuthentication::ClientSecretBasic),
        };
        return Some(format!(
            "the id or the secret has reserved characters, which went into HTTP Basic {sent}; if \
             they are right, try the client authentication `{other}`"
        ));
    }
    match status {
        404 => Some(
            "is the path of the token URL right? Some servers want a slash at its end, some want \
             none"
                .into(),
        ),
        405 => Some(
            "nothing takes POST at the token URL: is its path right, and the slash at its end?"
                .into(),
        ),
        _ => None,
    }
}

fn redirect_advice(parts: &Parts, asked: &Asked<'_>, scrubber: &Scrubber) -> Option<String> {
    let location = parts.headers.get(LOCATION)?;
    let location = presentable(&String::from_utf8_lossy(location.as_bytes()));
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => &location,
    };
    // Django and others: the secret would go out again, by GET after a 301.
    let slash_missing = path.strip_suffix('/') == Some(asked.request.url.path());
    let what_to_do = if slash_missing {
        "add the trailing slash to the token URL"
    } else {
        "set the token URL to where the endpoint is, with or without a trailing slash"
    };
    let location = server_text(&scrubber.scrub(&location));
    Some(format!("it redirects to {location}, and the secret follows no redirect: {what_to_do}"))
}

/// A text that is not empty.
fn words(value: &RawValue) -> Option<String> {
    string(value).filter(|text| !text.trim().is_empty())
}

/// The value of an auth-param (RFC 9110 section 11.2) of any challenge in `challenge`, read past
/// the commas that servers forget or have too many of.
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some((before, after)) = rest.split_once('=') {
        let named = before.trim_end().rsplit([' ', '\t', ',']).next().unwrap_or_default();
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([' ', '\t', ',']).unwrap_or(after.len());
                let (token, next) = after.split_at_checked(end).unwrap_or((after, ""));
                (token.to_owned(), next)
            }
        };
        if named.eq_ignore_ascii_case(name) {
            return Some(value).filter(|value| !value.is_empty());
        }
        rest = next;
    }
    None
}

/// What stands before the closing quote, and what stands behind it.
fn unquote(quoted: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_challenge_is_read_past_its_commas() {
        for (challenge, code, description) in [
            // DADI's has a comma too many.
            (
                r#"Bearer, error="invalid_credentials", error_description="Invalid credentials""#,
                Some("invalid_credentials"),
                Some("Invalid credentials"),
            ),
            (r#"bearer error=invalid_client scope="a=b""#, Some("invalid_client"), None),
            (r#"Basic realm="error=x, \"y\"",error = "z""#, Some("z"), None),
            (r#"Basic realm="api""#, None, None),
            (r#"Bearer, error="#, None, None),
            (r#"Bearer error="unclosed"#, Some("unclosed"), None),
            ("Basic", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            let complaint = Complaint::in_challenge(&headers);
            let expected = code.map(|code| Complaint {
                code: Some(code.into()),
                description: description.map(Into::into),
            });
            assert_eq!(complaint, expected, "{challenge}");
        }
    }

    #[test]
    fn an_error_in_a_body_is_a_code_or_an_object_around_one() {
        let read = |body: &str| {
            Complaint::in_body(body.as_bytes())
                .map(|c| (c.code.unwrap_or_default(), c.description.unwrap_or_default()))
        };
        let found = |code: &str, text: &str| Some((code.to_owned(), text.to_owned()));
        assert_eq!(read(r#"{"error":"a","error_description":"b"}"#), found("a", "b"));
        assert_eq!(read(r#"{"error":"a","message":"b"}"#), found("a", "b"));
        assert_eq!(read(r#"{"error":{"code":7,"status":"a","message":"b"}}"#), found("a", "b"));
        assert_eq!(read(r#"{"error":true,"message":"b"}"#), found("", "b"));
        assert_eq!(read("\u{feff}{\"error\":\"a\",\"error\":\"b\"}"), found("a", ""));
        let latin1 = b"{\"error\":\"invalid_client\",\"error_description\":\"refus\xe9\"}";
        let complaint = Complaint::in_body(latin1).unwrap();
        assert_eq!(complaint.code.as_deref(), Some("invalid_client"));
        for none in [r#"{"error":null}"#, r#"{"error":""}"#, r#"{"error":false}"#, "{}", "<a>"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
