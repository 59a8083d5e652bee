//! Token responses in `application/x-www-form-urlencoded`, as GitHub and older servers write them.
//!
//! Pure. A form is rewritten as the JSON object of the same members, so that one set of rules holds
//! for both.

use std::borrow::Cow;

use http::{HeaderMap, header::CONTENT_TYPE};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::encode;

/// Returns `true` if `body` is a form: its media type is exactly that, and it is not JSON or HTML
/// under the wrong one.
pub(super) fn is_form(headers: &HeaderMap, body: &[u8]) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .unwrap_or_default()
        .trim();
    media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && !matches!(body.trim_ascii_start().first(), None | Some(b'{' | b'[' | b'<'))
}

/// Returns `body` as a JSON object of strings, duplicates included. A `+` is a space except in the
/// field called `token`: more servers forget to escape it than put a space into a token.
///
/// Returns `None` if it is not UTF-8, escaped or not.
pub(super) fn to_json(body: &[u8], token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = std::str::from_utf8(body.trim_ascii()).ok()?;
    // A pointer also names a field of the response.
    let token = token.strip_prefix('/').unwrap_or(token).replace("~1", "/").replace("~0", "~");
    // With capacity for the worst case, the memory never moves and leaves no copy behind.
    let mut json = Zeroizing::new(Vec::with_capacity(2 + encode::MAX_GROWTH * text.len()));
    json.push(b'{');
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name, true)?;
        let value = decoded(value, name.as_str() != token.as_str())?;
        if json.len() > 1 {
            json.push(b',');
        }
        encode::json(&mut json, &name);
        json.push(b':');
        encode::json(&mut json, &value);
    }
    json.push(b'}');
    Some(json)
}

fn decoded(text: &str, plus_is_space: bool) -> Option<Zeroizing<String>> {
    let text = match plus_is_space {
        true => Cow::Owned(text.replace('+', " ")),
        false => Cow::Borrowed(text),
    };
    let decoded = percent_decode_str(&text).decode_utf8().ok()?;
    Some(Zeroizing::new(decoded.into_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_is_told_by_its_media_type_and_its_start() {
        for (media_type, body, expected) in [
            ("application/x-www-form-urlencoded", "a=b", true),
            ("Application/X-WWW-Form-URLEncoded; charset=utf-8", " a=b", true),
            ("application/x-www-form-urlencoded", " {\"a\":1}", false),
            ("application/x-www-form-urlencoded", "[1]", false),
            ("application/x-www-form-urlencoded", "<html lang=en>", false),
            ("application/x-www-form-urlencoded", " ", false),
            ("application/x-www-form-urlencoded-not", "a=b", false),
            ("text/plain", "a=b", false),
            ("application/json", "a=b", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            assert_eq!(is_form(&headers, body.as_bytes()), expected, "{media_type} {body}");
        }
        assert!(!is_form(&HeaderMap::new(), b"a=b"));
    }

    #[test]
    fn a_form_becomes_json() {
        for (form, json) in [
            (
                "access_token=a+b%2Bc%3D&scope=read+write%2Cadmin&expires_in=3600\n",
                r#"{"access_token":"a+b+c=","scope":"read write,admin","expires_in":"3600"}"#,
            ),
            ("a=1&a=2", r#"{"a":"1","a":"2"}"#),
            ("&a&b=&=c&d==&", r#"{"a":"","b":"","":"c","d":"="}"#),
            ("a=%22%0a%5c", r#"{"a":"\"\n\\"}"#),
            // As the URL standard has it.
            ("a=100%&b=%zz", r#"{"a":"100%","b":"%zz"}"#),
            ("%61ccess_token=x+y", r#"{"access_token":"x+y"}"#),
        ] {
            let read = to_json(form.as_bytes(), "access_token").unwrap();
            assert_eq!(String::from_utf8_lossy(&read), json, "{form}");
        }
        for no_text in [b"a=%ff".as_slice(), b"a=\xff", b"%c3=1"] {
            assert!(to_json(no_text, "access_token").is_none());
        }
    }

    #[test]
    fn the_room_that_is_made_suffices() {
        let form = "a=\u{1}\u{1}\u{1}&\u{2}&&b";
        let json = to_json(form.as_bytes(), "x").unwrap();
        assert!(json.capacity() >= json.len());
        let worst = "\u{1}&".repeat(100);
        let json = to_json(worst.as_bytes(), "x").unwrap();
        assert!(json.len() <= 2 + encode::MAX_GROWTH * worst.len(), "{}", json.len());
    }
}
