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

/// The shortest beginning of a secret that is recognised at the end of a text, in bytes: a server
/// may have cut the text itself.
const MIN_BEGINNING: usize = 6;

/// The forms in which a secret may come back.
pub(super) struct Scrubber {
    /// Longest first, so that no form hides a longer one that begins alike.
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
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
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
                // A form is whole characters, so this is between two of them.
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

    /// How long the secret is that `text` begins with, if it does. Percent-encoding and escapes
    /// come in both cases.
    fn secret_at(&self, text: &str) -> Option<usize> {
        let text = text.as_bytes();
        self.forms.iter().find_map(|form| {
            let len = form.len().min(text.len());
            let whole = len == form.len();
            let alike = text.get(..len)?.eq_ignore_ascii_case(form.get(..len)?);
            (alike && (whole || len >= MIN_BEGINNING)).then_some(len)
        })
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
    fn a_secret_that_is_cut_at_the_end_is_taken_out_too() {
        assert_eq!(scrub("c4n4ry-c4n4ry", "{\"secret\":\"c4n4ry-c4"), "{\"secret\":\"[redacted]");
        assert_eq!(scrub("invalid-and-more", "it is inval"), "it is inval", "too short to tell");
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
