//! A token endpoint's response without a token: the class of the failure, the server's description,
//! and advice.
//!
//! Pure. The class depends on the status, and on the `error` code of RFC 6749 section 5.2, if there
//! is one. An unreadable body never hides the status.

use std::time::SystemTime;

use http::{StatusCode, response::Parts};
use zeroize::Zeroizing;

use super::{
    advice::{self, Refusal},
    complaint::Complaint,
    json::{Object, string},
    markup::{self, Markup},
    response::Asked,
    retry_after::retry_after,
    scrub::Scrubber,
};
use crate::error::{ErrorClass, TokenError};

/// Returns `true` if the body of a success says that there is no token. GitHub and others refuse
/// with 200 and an `error`, Lark and WeChat with 200 and their own code.
pub(super) fn is_refusal_with_success(body: &[u8], asked: &Asked<'_>) -> bool {
    let access_token = &asked.request.dialect.access_token;
    Complaint::in_body(body).is_some() || Complaint::in_place_of_token(body, access_token).is_some()
}

/// Returns the error of a response without a token.
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
        // The status alone decides: the description of the client or the request by a proxy or a
        // broken server is not to be trusted.
        (429, _) | (503, Some(_)) => ErrorClass::Throttled,
        (408 | 500..=599, _) => ErrorClass::Transient,
        (300..=399, _) => ErrorClass::Request,
        (by_status, _) => known.map_or_else(|| class_of(by_status), |(_, class)| class),
    };

    let is_page = matches!(markup::read(&String::from_utf8_lossy(body)), Some(Markup::Html { .. }));
    // A firewall's page says nothing about the client.
    let is_foreign = status == StatusCode::FORBIDDEN && is_page && known.is_none();
    let class = if is_foreign { ErrorClass::Malformed } else { class };
    let message = match is_foreign {
        true => "the token endpoint answered with a page of HTML",
        false => message(class, status),
    };

    let scrubber = scrubber(body, asked);
    let mut error = TokenError::new(class, message).with_status(status);
    // A known code is not an echo of the secret: a secret such as "client" must not spoil it.
    let code = match (known, &complaint.code) {
        (Some((code, _)), _) => Some(code.to_owned()),
        (None, code) => code.as_ref().map(|code| scrubber.scrub(code)),
    };
    let said = complaint.description.map(|text| scrubber.scrub(&text));
    error = error.with_server_words(code.as_deref(), said.as_deref());
    if let Some(delay) = delay {
        error = error.with_retry_after(delay);
    }
    let refusal = Refusal {
        parts,
        class,
        code: known.map(|(code, _)| code),
        has_error: complaint.code.is_some_and(|code| is_oauth_code(&code)),
        said: said.as_deref().unwrap_or_default(),
        is_foreign,
        is_empty: body.is_empty(),
    };
    match advice::of(&refusal, asked, &scrubber) {
        Some(advice) => error.with_advice(advice),
        None => error,
    }
}

/// Returns a scrubber of the secret, and of the token that some servers send along with an `error`.
fn scrubber(body: &[u8], asked: &Asked<'_>) -> Scrubber {
    let mut scrubber = Scrubber::new(asked.credentials);
    let body = String::from_utf8_lossy(body);
    if let Some(token) = token_in(&body, &asked.request.dialect.access_token) {
        scrubber.add(token.as_bytes());
    }
    scrubber
}

fn token_in(body: &str, access_token: &str) -> Option<Zeroizing<String>> {
    let value = Object::parse_leniently(body.as_bytes())?.at(access_token).ok()??;
    string(value).map(Zeroizing::new)
}

/// Returns `true` for an OAuth code, which is neither the name of a status nor a gateway's number.
fn is_oauth_code(code: &str) -> bool {
    known_code(code).is_some() || code.starts_with("invalid_")
}

/// Returns a code of RFC 6749 section 5.2 or a related specification, with its class.
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

/// Returns the class by the status alone, where a code may override it.
fn class_of(status: u16) -> ErrorClass {
    match status {
        401 | 403 => ErrorClass::Credentials,
        // 200 and 201 get here only with an unknown `error`.
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
