//! [`Complaint`]: a server's own description of a failure, in any format.
//!
//! Pure. RFC 6749 section 5.2 has `error` and `error_description`; Okta, Apigee, FedEx, UPS, Lark,
//! WeChat and RFC 9457 use other names, and gateways send XML, HTML or plain text.

use http::{HeaderMap, StatusCode, header::WWW_AUTHENTICATE, response::Parts};
use serde_json::value::RawValue;

use super::{
    json::{Object, kind, string},
    markup::{self, Markup},
};

/// The members that hold a code; the first that is present counts.
const CODES: [&str; 5] = ["errorcode", "error_code", "errcode", "code", "faultcode"];

/// The members that hold a description; the first that is present counts. A `title` (RFC 9457) is
/// put before it.
const WORDS: [&str; 12] = [
    "error_description",
    "errordescription",
    "errorsummary",
    "error_message",
    "errormessage",
    "errmsg",
    "msg",
    "message",
    "faultstring",
    "detail",
    "description",
    "reason",
];

/// The members that may contain the others.
const INSIDE: [&str; 5] = ["error", "errors", "fault", "response", "detail"];

/// The deepest nesting: `{"response":{"errors":[{...}]}}`, and one more.
const MAX_DEPTH: usize = 4;

/// The part of a text that is checked for being plain text, in characters.
const MAX_JUDGED: usize = 256;

/// A server's description of a failure.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Complaint {
    pub(super) code: Option<String>,
    pub(super) description: Option<String>,
}

impl Complaint {
    /// Returns the complaint in a body, if it is JSON with an `error`: a code (RFC 6749 section
    /// 5.2), or an object around one as Google and others send it.
    pub(super) fn in_body(body: &[u8]) -> Option<Self> {
        // A description in Latin-1 must not hide the code.
        let body = String::from_utf8_lossy(body);
        let object = Object::parse_leniently(body.as_bytes())?;
        is_error(object.first("error")?).then(|| Self::of_object(&object, 0))
    }

    /// Returns the complaint in the body of a success without a token: a code other than zero and a
    /// description, as Lark (`code`, `msg`) and WeChat (`errcode`, `errmsg`) send them.
    pub(super) fn in_place_of_token(body: &[u8], access_token: &str) -> Option<Self> {
        let body = String::from_utf8_lossy(body);
        let object = Object::parse_leniently(body.as_bytes())?;
        if !matches!(object.at(access_token), Ok(None)) {
            return None;
        }
        // `{"code":200,"msg":"success"}` around a token that the dialect does not find.
        let is_success = |code: &str| matches!(code, "200" | "201" | "success" | "ok");
        let complaint = Self::of_object(&object, 0);
        let is_error = complaint.code.as_deref().is_some_and(|code| !is_success(code));
        (is_error && complaint.description.is_some()).then_some(complaint)
    }

    /// Returns the complaint of a refusal. DADI sends it in the challenge.
    pub(super) fn of_refusal(parts: &Parts, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        Self::in_body(body).or_else(|| Self::in_challenge(&parts.headers)).unwrap_or_else(|| {
            let mut complaint = Self::of_text(text);
            // `{"code":401,"message":"Unauthorized"}` repeats the status.
            complaint.code.take_if(|code| code == parts.status.as_str());
            if complaint.code.is_none() {
                complaint.description.take_if(|text| repeats_status(text, parts.status));
            }
            complaint
        })
    }

    fn of_text(text: &str) -> Self {
        if let Some(object) = Object::parse_leniently(text.as_bytes()) {
            return Self::of_object(&object, 0);
        }
        match markup::read(text) {
            Some(Markup::Html { title }) => Self { code: None, description: title },
            Some(Markup::Xml { code, words }) => Self { code, description: words },
            None => Self::of_plain_text(text),
        }
    }

    /// Returns the complaint in a form, which Facebook and GitHub send unless asked for JSON, or in
    /// plain text. Anything else (broken JSON, compressed data) is not repeated.
    fn of_plain_text(text: &str) -> Self {
        let field = |name: &str| {
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            let value =
                pairs.into_iter().find_map(|(key, value)| (key == name).then_some(value))?;
            let value = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&value).decode_utf8_lossy();
            Some(value.into_owned()).filter(|value| !value.trim().is_empty())
        };
        if let Some(code) = field("error") {
            return Self { code: Some(code), description: field("error_description") };
        }
        let is_odd = |c: &char| (c.is_control() && !c.is_ascii_whitespace()) || *c == '\u{fffd}';
        let beginning = || text.chars().take(MAX_JUDGED);
        let is_binary = beginning().filter(is_odd).count() * 4 > beginning().count();
        // A token without an `error`, with a status that is no success: nothing of it is repeated.
        let has_token = field("access_token").is_some();
        let is_shown =
            !text.is_empty() && !has_token && !text.starts_with(['{', '[']) && !is_binary;
        Self { code: None, description: is_shown.then(|| text.to_owned()) }
    }

    /// Returns the complaint in an object, or in one inside it.
    fn of_object(object: &Object<'_>, depth: usize) -> Self {
        let error = object.first("error").filter(|error| is_error(error));
        // Apigee's `Error` is a text, and `ErrorCode` the code.
        let code = error
            .and_then(words)
            .or_else(|| CODES.iter().find_map(|name| code(object.first_like(name)?)));
        let said = WORDS.iter().find_map(|name| words(object.first_like(name)?));
        let title = object.first_like("title").and_then(words);
        let description = match (title, said) {
            (Some(title), Some(said)) => Some(format!("{title}: {said}")),
            (title, said) => title.or(said),
        };
        let description = description.or_else(|| match error {
            Some(_) => None,
            None => object.first_like("error").filter(|error| is_error(error)).and_then(words),
        });
        let mut complaint = Self { code, description };
        for name in INSIDE {
            let is_missing = complaint.code.is_none() || complaint.description.is_none();
            let inside = object.first_like(name).filter(|_| is_missing && depth < MAX_DEPTH);
            if let Some(inside) = inside.map(|inside| Self::of_value(inside, depth + 1)) {
                complaint.code = complaint.code.or(inside.code);
                complaint.description = complaint.description.or(inside.description);
            }
        }
        // Google's `code` repeats the status, and its `status` is the code.
        let is_number = |code: &String| code.bytes().all(|byte| byte.is_ascii_digit());
        if depth > 0 && complaint.code.as_ref().is_none_or(is_number) {
            complaint.code = object.first("status").and_then(words).or(complaint.code);
        }
        complaint
    }

    /// Returns the complaint in an object, in the first value of an array, or in a text.
    fn of_value(value: &RawValue, depth: usize) -> Self {
        match kind(value) {
            "an object" => match Object::parse_leniently(value.get().as_bytes()) {
                Some(object) => Self::of_object(&object, depth),
                None => Self::default(),
            },
            "an array" => {
                let values: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
                match values.first() {
                    Some(first) if kind(first) == "a string" => {
                        Self { code: None, description: words(first) }
                    }
                    Some(first) if depth < MAX_DEPTH => Self::of_value(first, depth + 1),
                    _ => Self::default(),
                }
            }
            _ => Self::default(),
        }
    }

    fn in_challenge(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|challenge| {
            let challenge = challenge.to_str().ok()?;
            let code = parameter(challenge, "error")?;
            Some(Self { code: Some(code), description: parameter(challenge, "error_description") })
        })
    }
}

/// Returns `true` if a text says nothing but the status, as the titles of proxies' pages do.
fn repeats_status(text: &str, status: StatusCode) -> bool {
    let text = text.trim();
    let reason = text.strip_prefix(status.as_str()).map_or(text, str::trim_start);
    let canonical = status.canonical_reason().unwrap_or_default();
    reason.is_empty() || reason.eq_ignore_ascii_case(canonical)
}

/// Returns `false` for an `error` that stands for none, which some servers send with a token.
fn is_error(error: &RawValue) -> bool {
    match kind(error) {
        "a string" => words(error).is_some_and(|text| {
            let text = text.trim();
            !["0", "false", "null"].iter().any(|none| text.eq_ignore_ascii_case(none))
        }),
        "null" => false,
        "a number" => !is_zero(error),
        "a boolean" => error.get() == "true",
        // [] and {}.
        _ => error.get().bytes().filter(|byte| !byte.is_ascii_whitespace()).count() > 2,
    }
}

/// Returns a code: a text, or a number other than zero, which stands for success.
fn code(value: &RawValue) -> Option<String> {
    match kind(value) {
        "a number" => (!is_zero(value)).then(|| value.get().to_owned()),
        _ => words(value).filter(|code| code.trim() != "0"),
    }
}

fn is_zero(number: &RawValue) -> bool {
    number.get().parse() == Ok(0.0)
}

/// Returns a text, unless it is empty.
fn words(value: &RawValue) -> Option<String> {
    string(value).filter(|text| !text.trim().is_empty())
}

/// Returns the value of an auth-param (RFC 9110 section 11.2) of any challenge in `challenge`,
/// despite missing or superfluous commas.
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

/// Returns the text before the closing quote, and the rest after it.
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
