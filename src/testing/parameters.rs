//! Parsing of token request parameters, without the crate's own code.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// The format of a token request's body, by its `Content-Type` and by whether it parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Form,
    Json,
    Other,
}

pub(crate) fn body_parameters(headers: &HeaderMap, body: &[u8]) -> (Format, Vec<(String, String)>) {
    match media_type(headers).map(str::to_ascii_lowercase).as_deref() {
        Some("application/x-www-form-urlencoded") => (Format::Form, form_parameters(body)),
        Some("application/json") => match json_parameters(body) {
            Some(parameters) => (Format::Json, parameters),
            None => (Format::Other, Vec::new()),
        },
        _ => (Format::Other, Vec::new()),
    }
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()?.split(';').next().map(str::trim)
}

fn form_parameters(body: &[u8]) -> Vec<(String, String)> {
    String::from_utf8_lossy(body)
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decoded(name), form_decoded(value))
        })
        .collect()
}

pub(crate) fn form_decoded(text: &str) -> String {
    percent_decoded(&text.replace('+', " ")).into_owned()
}

pub(crate) fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Returns `None` if the body is not a JSON object.
fn json_parameters(body: &[u8]) -> Option<Vec<(String, String)>> {
    let Value::Object(members) = serde_json::from_slice(body).ok()? else {
        return None;
    };
    let mut parameters = Vec::new();
    for (name, value) in members {
        match value {
            Value::Array(values) => {
                parameters.extend(values.into_iter().map(|value| (name.clone(), text(value))));
            }
            value => parameters.push((name, text(value))),
        }
    }
    Some(parameters)
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        value => value.to_string(),
    }
}

pub(crate) fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let line = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = line.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = plain.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}
