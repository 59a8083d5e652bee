//! [`Scrubber`]: takes the client's secret out of a server's text. DADI's 400 repeats the whole
//! request; others quote what they could not read.
//!
//! Pure. Must come before anything cuts the text: half a secret is not recognised any more.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::{dialect::BasicEncoding, encode};
use crate::credentials::ClientCredentials;

/// What stands in the place of the secret.
const REDACTED: &str = "[redacted]";

/// More characters than an error repeats.
const ENOUGH: usize = 512;

/// The shortest beginning of a secret that is recognised, in bytes: a server may have cut the text
/// itself, at its end or in the middle of a message.
const MIN_BEGINNING: usize = 8;

/// The forms in which a secret may come back.
pub(super) struct Scrubber {
    forms: Vec<Zeroizing<Vec<u8>>>,
}

impl Scrubber {
    pub(super) fn new(credentials: &ClientCredentials) -> Self {
        let secret = credentials.expose_secret();
        let mut forms = vec![Zeroizing::new(secret.as_bytes().to_vec())];
        for write in [encode::percent, encode::form] {
            let mut form = Zeroizing::new(Vec::with_capacity(encode::MAX_GROWTH * secret.len()));
            write(&mut form, secret);
            forms.push(form);
        }
        forms.extend([json_escaped(secret), json_in_ascii(secret)]);
        for encoding in [BasicEncoding::PercentEncoded, BasicEncoding::Raw] {
            let pair = encode::basic_pair(credentials, encoding);
            forms.push(Zeroizing::new(STANDARD_NO_PAD.encode(&*pair).into_bytes()));
        }
        forms.push(Zeroizing::new(STANDARD_NO_PAD.encode(secret).into_bytes()));
        forms.push(Zeroizing::new(URL_SAFE_NO_PAD.encode(secret).into_bytes()));
        forms.retain(|form| !form.is_empty());
        Self { forms }
    }

    /// The beginning of `text`, more of it than an error repeats, without the secret.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut out = String::new();
        let mut kept = 0;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if kept > ENOUGH {
                break;
            }
            if let Some(len) = self.secret_at(rest) {
                out.push_str(REDACTED);
                rest = rest.get(len..).unwrap_or_default();
                kept += REDACTED.len();
            } else {
                out.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
                kept += 1;
            }
        }
        out
    }

    /// How long the secret is that `text` begins with, or the beginning of it, if it does.
    /// Percent-encoding and escapes come in both cases.
    fn secret_at(&self, text: &str) -> Option<usize> {
        let alike = |form: &Zeroizing<Vec<u8>>| {
            let pairs = text.bytes().zip(form.iter());
            let len = pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
            (len == form.len() || len >= MIN_BEGINNING).then_some(len)
        };
        let mut len = self.forms.iter().filter_map(alike).max()?;
        // A beginning may end within a character.
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        (len > 0).then_some(len)
    }
}

/// As JSON escapes it when only what must be escaped is.
fn json_escaped(secret: &str) -> Zeroizing<Vec<u8>> {
    let mut form = Zeroizing::new(Vec::with_capacity(encode::MAX_GROWTH * secret.len() + 2));
    encode::json(&mut form, secret);
    let inside = form.get(1..form.len().saturating_sub(1)).unwrap_or_default();
    Zeroizing::new(inside.to_vec())
}

/// As Python and PHP escape it in JSON: nothing but ASCII.
fn json_in_ascii(secret: &str) -> Zeroizing<Vec<u8>> {
    let plain = json_escaped(secret);
    let text = std::str::from_utf8(&plain).unwrap_or_default();
    let mut form = Zeroizing::new(Vec::with_capacity(encode::MAX_GROWTH * text.len()));
    for c in text.chars() {
        if c.is_ascii() {
            form.push(c as u8);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                form.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn scrub(secret: &str, text: &str) -> String {
        Scrubber::new(&ClientCredentials::new("me", secret)).scrub(text)
    }

    #[test]
    fn every_form_of_the_secret_is_taken_out() {
        let secret = "c4n \"é/+~x";
        for form in [
            secret.to_owned(),
            "c4n%20%22%C3%A9%2F%2B~x".into(),
            "c4n%20%22%c3%a9%2f%2b~x".into(),
            "c4n+%22%C3%A9%2F%2B%7Ex".into(),
            r#"c4n \"é/+~x"#.into(),
            r#"c4n \"\u00e9/+~x"#.into(),
            r#"c4n \"\u00E9/+~x"#.into(),
            STANDARD.encode(secret),
            STANDARD.encode(format!("me:{secret}")),
            STANDARD.encode("me:c4n%20%22%C3%A9%2F%2B~x"),
        ] {
            let scrubbed = scrub(secret, &format!("bad <{form}>, <{form}>"));
            let bare = scrubbed.replace('=', "");
            assert_eq!(bare, "bad <[redacted]>, <[redacted]>", "{form}");
        }
    }

    #[test]
    fn a_secret_that_the_server_has_cut_is_taken_out_too() {
        let secret = "c4n4ry-ö-c4n4ry";
        assert_eq!(scrub(secret, r#"{"secret":"c4n4ry-ö-c"#), r#"{"secret":"[redacted]"#);
        assert_eq!(scrub(secret, "<c4n4ry-ö...> is odd"), "<[redacted]...> is odd");
        assert_eq!(scrub(secret, "c4n4ry-à"), "[redacted]à", "cut within a character");
        assert_eq!(scrub("invalid-and-more", "it is invalid"), "it is invalid", "too short");
    }

    #[test]
    fn a_long_text_of_secrets_leaves_none_at_its_end() {
        let scrubbed = scrub("c4n4ry", &"c4n4ry".repeat(10_000));
        assert_eq!(scrubbed.replace(REDACTED, ""), "");
        assert!(scrubbed.len() >= ENOUGH);
    }

    #[test]
    fn without_a_secret_nothing_is_taken_out() {
        assert_eq!(scrub("", "as it was"), "as it was");
    }
}
