//! Encodes ids, secrets and parameters for a token request: percent, form, Basic, JSON.
//!
//! Everything is appended to a buffer that the caller owns and zeroizes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use zeroize::Zeroizing;

use crate::credentials::ClientCredentials;

/// All characters except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The characters that `application/x-www-form-urlencoded` encodes (URL standard); a space then
/// becomes `+`.
const FORM: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_').remove(b' ');

/// The most bytes that any encoding here produces from one (`\u0001` in JSON).
pub(super) const MAX_GROWTH: usize = 6;

/// Returns `true` if percent-encoding changes `text`.
pub(super) fn has_reserved(text: &str) -> bool {
    !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

pub(super) fn percent(out: &mut Vec<u8>, text: &str) {
    for part in percent_encode(text.as_bytes(), RESERVED) {
        out.extend_from_slice(part.as_bytes());
    }
}

pub(super) fn form(out: &mut Vec<u8>, text: &str) {
    for part in percent_encode(text.as_bytes(), FORM) {
        out.extend(part.bytes().map(|b| if b == b' ' { b'+' } else { b }));
    }
}

/// Appends `text` as a JSON string, with its quotes.
pub(super) fn json(out: &mut Vec<u8>, text: &str) {
    // Writing a string to a `Vec` does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// The encoding of id and secret before they are joined for HTTP Basic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BasicEncoding {
    /// All characters except the unreserved ones are percent-encoded.
    PercentEncoded,
    /// Without encoding.
    Raw,
}

/// Returns the value of an `Authorization` header (RFC 6749 section 2.3.1, RFC 7617).
pub(super) fn basic(
    credentials: &ClientCredentials,
    encoding: BasicEncoding,
) -> Zeroizing<Vec<u8>> {
    let pair = basic_pair(credentials, encoding);
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    let mut line = Zeroizing::new(Vec::with_capacity(6 + encoded.len()));
    line.extend_from_slice(b"Basic ");
    line.extend_from_slice(encoded.as_bytes());
    line
}

/// Returns the id and secret as HTTP Basic joins them, before base64.
pub(super) fn basic_pair(
    credentials: &ClientCredentials,
    encoding: BasicEncoding,
) -> Zeroizing<Vec<u8>> {
    let (id, secret) = (credentials.id(), credentials.expose_secret());
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (id.len() + secret.len()) + 1));
    match encoding {
        BasicEncoding::PercentEncoded => {
            percent(&mut pair, id);
            pair.push(b':');
            percent(&mut pair, secret);
        }
        BasicEncoding::Raw => {
            pair.extend_from_slice(id.as_bytes());
            pair.push(b':');
            pair.extend_from_slice(secret.as_bytes());
        }
    }
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&mut Vec<u8>, &str), text: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, text);
        assert!(out.len() <= MAX_GROWTH * text.len() + 2);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_encoding_has_its_own_blank_and_tilde() {
        let text = "p%40:ss+w/ö ~*\"\u{1}";
        assert_eq!(written(percent, text), "p%2540%3Ass%2Bw%2F%C3%B6%20~%2A%22%01");
        assert_eq!(written(form, text), "p%2540%3Ass%2Bw%2F%C3%B6+%7E*%22%01");
        assert_eq!(written(json, text), "\"p%40:ss+w/ö ~*\\\"\\u0001\"");
        assert!(has_reserved(text) && has_reserved("a b") && !has_reserved("aZ0-._~"));
    }

    #[test]
    fn basic_is_encoded_or_raw() {
        let credentials = ClientCredentials::new("my id", "a:b+c");
        let header = |encoding| String::from_utf8(basic(&credentials, encoding).to_vec()).unwrap();
        let of = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!(header(BasicEncoding::PercentEncoded), of("my%20id:a%3Ab%2Bc"));
        assert_eq!(header(BasicEncoding::Raw), of("my id:a:b+c"));
    }
}
