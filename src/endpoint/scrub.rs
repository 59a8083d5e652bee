//! [`Scrubber`]: takes the client's secret out of a server's text. DADI's 400 repeats the whole
//! request; others quote what they could not read.
//!
//! Pure. Must come before anything cuts the text: half a secret is not recognised any more.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::encode::{self, BasicEncoding};
use crate::credentials::ClientCredentials;

/// What stands in the place of the secret.
const REDACTED: &str = "[redacted]";

/// More characters than an error repeats.
const ENOUGH: usize = 512;

/// The shortest beginning of a secret that is recognised, in bytes: a server may have cut the text
/// itself, at its end or in the middle of a message.
const MIN_BEGINNING: usize = 8;

/// Escapes of escapes are followed this deep: JSON in a JSON string in another.
const MAX_ESCAPES: usize = 8;

/// Knows the secret, and its base64, alone and behind the id.
pub(super) struct Scrubber {
    forms: Vec<Zeroizing<String>>,
}

impl Scrubber {
    pub(super) fn new(credentials: &ClientCredentials) -> Self {
        let secret = credentials.expose_secret();
        let mut forms = vec![
            Zeroizing::new(secret.to_owned()),
            Zeroizing::new(STANDARD_NO_PAD.encode(secret)),
            Zeroizing::new(URL_SAFE_NO_PAD.encode(secret)),
        ];
        for encoding in [BasicEncoding::PercentEncoded, BasicEncoding::Raw] {
            let pair = encode::basic_pair(credentials, encoding);
            forms.push(Zeroizing::new(STANDARD_NO_PAD.encode(&*pair)));
        }
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
    fn secret_at(&self, text: &str) -> Option<usize> {
        let len = self.forms.iter().filter_map(|form| written(form, text)).max()?;
        (len > 0).then_some(len)
    }
}

/// How much of `text` is the beginning of `form`, each character of it written in any of the
/// ways that servers have: JSON alone has four ways to write a slash, and forms have three.
fn written(form: &str, text: &str) -> Option<usize> {
    let mut ends = vec![0];
    for (at, c) in form.char_indices() {
        let next = on_from(&ends, text, |rest, ends| ways(c, rest, ends));
        if next.is_empty() {
            return ends.pop().filter(|_| at >= MIN_BEGINNING);
        }
        ends = next;
    }
    ends.pop()
}

/// Where in `text` one can be after the next step from any of `ends`, in order.
fn on_from(ends: &[usize], text: &str, step: impl Fn(&str, &mut Vec<usize>)) -> Vec<usize> {
    let mut next = Vec::new();
    let mut found = Vec::new();
    for end in ends {
        step(text.get(*end..).unwrap_or_default(), &mut found);
        next.extend(found.drain(..).map(|len| end + len));
    }
    next.sort_unstable();
    next.dedup();
    next
}

/// The lengths of all that stands for `c` at the beginning of `text`.
fn ways(c: char, text: &str, lens: &mut Vec<usize>) {
    match text.chars().next() {
        // Whoever repeats it in capitals tells it all the same.
        Some(first) if first.eq_ignore_ascii_case(&c) => lens.push(first.len_utf8()),
        Some('+') if c == ' ' => lens.push(1),
        _ => {}
    }
    match text.bytes().next() {
        Some(b'%') => percent(c, text, lens),
        Some(b'\\') => backslashes(c, text, lens),
        Some(b'&') => lens.extend(reference(c, text)),
        _ => {}
    }
}

/// `%2F`, and `%252F` for whoever encodes twice.
fn percent(c: char, text: &str, lens: &mut Vec<usize>) {
    let mut ends = vec![0];
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        ends = on_from(&ends, text, |rest, lens| {
            let mut hex = rest.strip_prefix('%');
            for _ in 0..MAX_ESCAPES {
                let Some(after) = hex else { break };
                if number(after.get(..2), 16) == Some(u32::from(byte)) {
                    lens.push(rest.len() - after.len() + 2);
                }
                hex = after.strip_prefix("25");
            }
        });
    }
    lens.append(&mut ends);
}

/// `\/`, `\"`, `\\`, `\x2f`, `\u002f`, and as many backslashes more as it was escaped again.
fn backslashes(c: char, text: &str, lens: &mut Vec<usize>) {
    let run = |rest: &str| rest.bytes().take(MAX_ESCAPES).take_while(|b| *b == b'\\').count();
    if c == '\\' {
        lens.extend(2..=run(text));
    }
    let escaped = text.get(run(text)..).unwrap_or_default();
    if escaped.starts_with(c) {
        lens.push(text.len() - escaped.len() + c.len_utf8());
    }
    // JavaScript, and what prints bytes.
    let hex = escaped.strip_prefix('x').and_then(|hex| hex.get(..2));
    if number(hex, 16) == Some(u32::from(c)) {
        lens.push(text.len() - escaped.len() + 3);
    }
    let mut ends = vec![0];
    for unit in c.encode_utf16(&mut [0; 2]) {
        ends = on_from(&ends, text, |rest, lens| {
            let after = rest.get(run(rest)..).unwrap_or_default();
            let hex = after.strip_prefix('u').and_then(|hex| hex.get(..4));
            if after.len() < rest.len() && number(hex, 16) == Some(u32::from(*unit)) {
                lens.push(rest.len() - after.len() + 5);
            }
        });
    }
    lens.append(&mut ends);
}

/// `&#47;`, `&#x2f;`, `&amp;`: as HTML and XML have it.
fn reference(c: char, text: &str) -> Option<usize> {
    /// Of `&#x0010FFFF;`, and then some.
    const MAX_LEN: usize = 16;
    let end = text.bytes().take(MAX_LEN).position(|byte| byte == b';')?;
    let name = text.get(1..end)?;
    let is_it = match name {
        "amp" => c == '&',
        "lt" => c == '<',
        "gt" => c == '>',
        "quot" => c == '"',
        "apos" => c == '\'',
        _ => {
            let digits = name.strip_prefix('#')?;
            let hex = digits.strip_prefix(['x', 'X']);
            let value = hex.map_or_else(|| number(Some(digits), 10), |hex| number(Some(hex), 16));
            value == Some(u32::from(c))
        }
    };
    is_it.then_some(end + 1)
}

fn number(digits: Option<&str>, radix: u32) -> Option<u32> {
    u32::from_str_radix(digits?, radix).ok()
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
            "c4n+%22%C3%A9%2F%2B~x".into(),
            "c4n%2520%2522%25C3%25a9%252F%252B%257Ex".into(),
            r#"c4n \"\u00e9\/+~x"#.into(),
            r#"c4n \\\"\\u00e9\\\/+~x"#.into(),
            r"c4n \u0022\u00E9/\u002B~x".into(),
            "c4n &quot;&#233;&#x2F;&#43;~x".into(),
            STANDARD.encode(secret),
            STANDARD.encode(secret).replace('/', r"\/").replace('+', r"\u002B"),
            STANDARD.encode(format!("me:{secret}")),
            STANDARD.encode("me:c4n%20%22%C3%A9%2F%2B~x"),
        ] {
            let scrubbed = scrub(secret, &format!("bad <{form}>, <{form}>"));
            let bare = scrubbed.replace('=', "");
            assert_eq!(bare, "bad <[redacted]>, <[redacted]>", "{form}");
        }
    }

    #[test]
    fn both_alphabets_of_base64_are_known() {
        let secret = "c4n>>>???";
        for form in [STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret)] {
            assert_eq!(scrub(secret, &format!("<{form}>")), "<[redacted]>", "{form}");
        }
    }

    #[test]
    fn a_secret_that_the_server_has_cut_is_taken_out_too() {
        let secret = "c4n4ry-ö-c4n4ry";
        assert_eq!(scrub(secret, r#"{"secret":"c4n4ry-ö-c"#), r#"{"secret":"[redacted]"#);
        assert_eq!(scrub(secret, "<c4n4ry-ö...> is odd"), "<[redacted]...> is odd");
        assert_eq!(scrub(secret, r"c4n4ry-\u00f6\u002"), r"[redacted]\u002", "cut in an escape");
        assert_eq!(scrub("invalid-and-more", "it is invalid"), "it is invalid", "too short");
    }

    /// As PHP, .NET, Go and web pages write what they echo.
    #[test]
    fn characters_that_escape_differently_are_one_secret() {
        let secret = r"a/b+c&d<e>f'g\h=🦀";
        for form in [
            r"a\/b+c&d<e>f'g\\h=\ud83e\udd80",
            r"a/b+c\x26d\x3ce\x3Ef\x27g\\h=🦀",
            r"a/b\u002Bc\u0026d\u003Ce\u003Ef\u0027g\\h=\uD83E\uDD80",
            r"a/b+c\u0026d\u003ce\u003ef'g\\h=🦀",
            "a&#x2F;b&#43;c&amp;d&lt;e&gt;f&apos;g\\h&#61;&#x1F980;",
            r"a\\\/b+c&d<e>f'g\\\\h=\\ud83e\\udd80",
            "a/b%2Bc%26d<e>f'g%5ch%3D%F0%9F%A6%80",
        ] {
            assert_eq!(scrub(secret, &format!("<{form}>")), "<[redacted]>", "{form}");
        }
    }

    /// Each place in a text is looked at anew, and the text is the server's.
    #[test]
    fn escapes_are_followed_so_deep_and_no_deeper() {
        for (escape, deep) in [("\\", MAX_ESCAPES), ("25", MAX_ESCAPES - 1)] {
            let text = |times| match escape {
                "25" => format!("<c%{}2F4n4ry>", escape.repeat(times)),
                _ => format!("<c{}/4n4ry>", escape.repeat(times)),
            };
            assert_eq!(scrub("c/4n4ry", &text(deep)), "<[redacted]>");
            assert_ne!(scrub("c/4n4ry", &text(deep + 1)), "<[redacted]>");
        }
    }

    #[test]
    fn a_long_text_of_secrets_leaves_none_at_its_end() {
        let scrubbed = scrub("c4n4ry", &"c4n4ry".repeat(10_000));
        assert_eq!(scrubbed.replace(REDACTED, ""), "");
        assert!((ENOUGH..2 * ENOUGH).contains(&scrubbed.len()), "as much as an error needs");
    }

    #[test]
    fn without_a_secret_nothing_is_taken_out() {
        assert_eq!(scrub("", "as it was"), "as it was");
    }
}
