use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::{readings::MAX_ESCAPES, *};
use crate::random::Random;

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
    assert_eq!(scrub(secret, "<...ö-c4n4ry> is odd"), "<...[redacted]> is odd", "its end");
    assert_eq!(scrub(secret, "<4n4ry-ö-c4n> is odd"), "<[redacted]> is odd", "its middle");
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

/// The search starts again at each position of a text, and the server chooses the text.
#[test]
fn escapes_are_followed_so_deep_and_no_deeper() {
    for (escape, deep) in [("\\", MAX_ESCAPES), ("25", MAX_ESCAPES - 1)] {
        let text = |times| match escape {
            "25" => format!("<c%{}2F4n4ry>", escape.repeat(times)),
            _ => format!("<c{}/4n4ry>", escape.repeat(times)),
        };
        assert_eq!(scrub("c/4n4ry", &text(deep)), "<[redacted]>");
        // The percent-encoded secret is a text of its own, one step further.
        assert_ne!(scrub("c/4n4ry", &text(deep + 2)), "<[redacted]>");
    }
}

#[test]
fn a_long_text_of_secrets_leaves_none_at_its_end() {
    for text in ["c4n4ry", "x c4n4ry", "xx c4n4ry", "xxx c4n4ry"] {
        let scrubbed = scrub("c4n4ry", &text.repeat(10_000));
        assert_eq!(scrubbed.replace(REDACTED, "").replace("x ", "").replace('x', ""), "");
        assert!(scrubbed.len() <= 2 * MAX_KEPT, "as much as an error needs");
    }
}

/// A signed assertion in a file takes the place of a secret, and has kilobytes.
#[test]
fn a_secret_of_kilobytes_is_taken_out_in_part() {
    let mut random = Random::seeded(3);
    let secret: String = (0..4000).map(|_| format!("{:x}", random.next() & 0xf)).collect();
    for from in [0, 1, 1999, 3985] {
        let piece = secret.get(from..from + 12).unwrap();
        assert_eq!(scrub(&secret, &format!("<{piece}>")), "<[redacted]>", "{from}");
        let encoded = STANDARD.encode(secret.get(from..from + 14).unwrap());
        assert_eq!(scrub(&secret, &format!("<{encoded}>")), "<[redacted]>", "{from}");
    }
}

#[test]
fn without_a_secret_nothing_is_taken_out() {
    assert_eq!(scrub("", "as it was"), "as it was");
}

/// As a log of a whole request shows it: `client_secret=...&x=y` in base64, at any alignment.
#[test]
fn an_encoded_request_that_holds_the_secret_is_taken_out() {
    let secret = "c4n4ry-0123456789-ABCDEFGH";
    for before in 0..3 {
        let request = format!("{}client_secret={secret}&x=y", "a".repeat(before));
        for encoded in [STANDARD.encode(&request), URL_SAFE_NO_PAD.encode(&request)] {
            let said = scrub(secret, &format!("cannot read {encoded} here"));
            assert_eq!(said, "cannot read [redacted] here");
            let lines: Vec<_> = encoded.as_bytes().chunks(19).collect();
            let said = scrub(secret, &format!("cannot read {} ", text(&lines.join(&b"\r\n"[..]))));
            assert!(!leaks(secret.as_bytes(), &said), "{said}");
        }
    }
    let hex = |between: &str| {
        secret.bytes().map(|byte| format!("{byte:02x}{between}")).collect::<String>()
    };
    for between in ["", " ", ":", "-", ", ", "\\x", ", 0x"] {
        for hex in [hex(between), hex(between).to_uppercase().replace('X', "x")] {
            let said = scrub(secret, &format!("read <{hex}>"));
            let rest = said.replace(REDACTED, "").replace(['x', ',', '\\', ':', '-', ' ', '0'], "");
            assert!(rest == "read<>", "{between:?}: {said}");
        }
    }
}

#[test]
fn a_short_secret_is_taken_out_as_a_whole_in_every_encoding() {
    for secret in ["ab", "c4n", "c4n4", "c4n4r", "c4n4ry", "c4n4ry7"] {
        let hex: String = secret.bytes().map(|byte| format!("{byte:02X}")).collect();
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for written in [secret.to_owned(), hex, percent, STANDARD.encode(secret)] {
            let said = scrub(secret, &format!("<{written}>"));
            assert_eq!(said, "<[redacted]>", "{secret} {written}");
        }
        for before in 0..3 {
            let encoded = STANDARD.encode(format!("{}{secret}~~", "~".repeat(before)));
            assert_eq!(scrub(secret, &encoded), "[redacted]", "{secret} {before}");
        }
    }
    assert_eq!(scrub("secrets", "your secret is wrong"), "your secret is wrong", "not the whole");
}

#[test]
fn the_basic_header_and_a_token_are_taken_out_in_part_too() {
    let credentials = ClientCredentials::new("my-service", "c4n4ry/+0123456789");
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjNG40cnkifQ.c2ln";
    let mut scrubber = Scrubber::new(&credentials);
    scrubber.add(token.as_bytes());
    for encoding in [BasicEncoding::PercentEncoded, BasicEncoding::Raw] {
        let header = encode::basic(&credentials, encoding);
        let header = text(&header);
        assert_eq!(scrubber.scrub(&header), "Basic [redacted]");
        let hex: String = header.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!scrubber.scrub(&hex).contains(hex.get(40..56).unwrap()), "{hex}");
        assert_eq!(scrubber.scrub(&STANDARD.encode(&header)), "[redacted]");
        assert_eq!(scrubber.scrub(header.get(20..32).unwrap()), "[redacted]", "a piece of it");
    }
    assert_eq!(scrubber.scrub(&format!("Bearer {token}")), "Bearer [redacted]");
    assert_eq!(scrubber.scrub("no eyJzdWIiOiJjNG40 here"), "no [redacted] here");
    assert_eq!(scrubber.scrub(&STANDARD.encode(format!("=={token}"))), "[redacted]");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether `said` tells eight bytes of `secret` in a row (or all of it), by reading it as an
/// attacker would: decoded in every way, twice.
fn leaks(secret: &[u8], said: &str) -> bool {
    let secret = secret.to_ascii_lowercase();
    let mut seen = vec![said.as_bytes().to_vec()];
    for _ in 0..2 {
        seen = seen.iter().flat_map(|said| decoded(said)).collect();
    }
    seen.iter().any(|said| {
        let said = said.to_ascii_lowercase();
        let run = secret.len().min(8);
        secret.windows(run).any(|run| said.windows(run.len()).any(|seen| seen == run))
    })
}

/// The text itself, and what it is in percent, hex, and base64 at every place.
fn decoded(said: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![said.to_vec(), percent_encoding::percent_decode(said).collect()];
    all.push(all[1].iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect());
    let dense: Vec<u8> = said.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    for word in dense.split(|byte| digit(byte).is_none()) {
        for odd in 0..word.len().min(2) {
            let pairs = word[odd..].chunks_exact(2);
            let byte =
                |pair: &[u8]| (digit(&pair[0]).unwrap() * 16 + digit(&pair[1]).unwrap()) as u8;
            all.push(pairs.map(byte).collect());
        }
    }
    let standard: Vec<u8> = (dense.iter())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => *byte,
        })
        .collect();
    let is_in = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    for word in standard.split(|byte| !is_in(byte)) {
        for skipped in 0..word.len().min(4) {
            let word = &word[skipped..];
            let whole = &word[..word.len() / 4 * 4];
            all.push(STANDARD.decode(whole).unwrap());
            // What is left over, filled up: its first bytes are told as well.
            let mut filled = word.to_vec();
            filled.resize(word.len().div_ceil(4) * 4, b'A');
            all.push(STANDARD.decode(filled).unwrap()[..word.len() * 6 / 8].to_vec());
        }
    }
    all
}

/// Random secrets, written in random ways behind and before random texts, and cut at random.
#[test]
fn no_eight_bytes_of_a_secret_are_left_however_they_are_written() {
    const ALPHABETS: [&str; 4] = [
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~",
        "abcXYZ019+/=_-",
        "aZ3%&\\\"<>' +/;:=?#@!$()*,[]",
        "aé7ö🦀漢%+/ x",
    ];
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = Random::seeded(seed);
    let mut below = |most: usize| usize::try_from(random.next() >> 33).unwrap() % most.max(1);
    let rounds = std::env::var("FUZZ_ITERATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for round in 0..rounds {
        let alphabet: Vec<char> = ALPHABETS[below(4)].chars().collect();
        let of = |len: usize, below: &mut dyn FnMut(usize) -> usize| -> String {
            (0..len).map(|_| alphabet[below(alphabet.len())]).collect()
        };
        let len = 4 + below(50);
        let secret = of(len, &mut below);
        let len = below(7);
        let id = of(1 + len, &mut below);
        let credentials = ClientCredentials::new(id, secret.as_str());

        let mut written = secret.clone().into_bytes();
        if below(2) == 0 {
            let mut out = Vec::new();
            [encode::percent, encode::form, encode::json][below(3)](&mut out, &secret);
            written = out;
        } else if below(3) == 0 {
            let raw = [BasicEncoding::Raw, BasicEncoding::PercentEncoded][below(2)];
            written = encode::basic_pair(&credentials, raw).to_vec();
        }
        let before = below(5);
        written.splice(0..0, b"a=&b:"[..before].to_vec());
        written.extend_from_slice(&b"&x=y"[..below(5)]);
        let encoded = match below(6) {
            0 => STANDARD.encode(&written),
            1 => URL_SAFE_NO_PAD.encode(&written),
            2 => written.iter().map(|byte| format!("{byte:02x}")).collect(),
            3 => written.iter().map(|byte| format!("{byte:02X}")).collect(),
            4 => written.iter().map(|byte| format!("%{byte:02X}")).collect(),
            _ => text(&written),
        };
        let chars: Vec<char> = encoded.chars().collect();
        let from = below(2) * below(chars.len());
        let to = if below(2) == 0 { chars.len() } else { from + below(chars.len() - from + 1) };
        let cut: String = chars[from..to].iter().collect();
        let said = Scrubber::new(&credentials).scrub(&format!("<{cut}>, it says"));
        assert!(!leaks(secret.as_bytes(), &said), "{round}: {secret:?} as {cut:?} is {said:?}");
        assert!(said.ends_with(", it says"), "nothing else is lost: {said:?}");
    }
}

/// Guards against a refusal that keeps a thread busy for half a minute: a long token of few different
/// characters, and a text that repeats it.
#[test]
fn a_token_without_end_and_one_of_a_single_character_hide_the_whole_text() {
    let text = "a".repeat(2048);
    for length in [5_000, 16_000, 250_000] {
        let mut scrubber = Scrubber::new(&ClientCredentials::new("id", "s3cr3t-of-the-client"));
        scrubber.add("a".repeat(length).as_bytes());
        assert_eq!(scrubber.scrub(&text), REDACTED);
    }
    // Beyond the longest token nothing is looked for, so nothing is shown.
    let mut scrubber = Scrubber::new(&ClientCredentials::new("id", "s3cr3t-of-the-client"));
    scrubber.add("0123456789abcdef".repeat(2_000).as_bytes());
    assert_eq!(scrubber.scrub("no part of it"), REDACTED);
}

/// Guards against a secret whose symbols are written by name, or whose bytes are a list of numbers.
#[test]
fn named_references_and_lists_of_bytes_are_taken_out() {
    let secret = "c4n4ryS3cr3t/0123+xyz_9=8:7";
    let scrubber = Scrubber::new(&ClientCredentials::new("id", secret));
    let named = "got c4n4ryS3cr3t&sol;0123&plus;xyz&lowbar;9&equals;8&colon;7 instead";
    assert_eq!(scrubber.scrub(named), format!("got {REDACTED} instead"));
    let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    let dump = format!("body [{}] at 3", numbers.join(", "));
    assert_eq!(scrubber.scrub(&dump), format!("body [{REDACTED}] at 3"));
    let harmless = "attempt 3 of 5, 200 ms, 1 2 3";
    assert_eq!(scrubber.scrub(harmless), harmless);
}

/// The server chooses both the token that is hidden and the text.
#[test]
fn the_work_for_a_text_is_bounded_in_all() {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

    let mut scrubber = Scrubber::new(&ClientCredentials::new("me", "s3cr3t-s3cr3t"));
    scrubber.add(&[b'a'; 2700]);
    let text = STANDARD_NO_PAD.encode([b'a'; 1500]);
    let mut hidden = vec![false; text.len()];
    let mut work = 0;
    let is_done = scrubber.forms.iter().all(|form| form.hide(&text, &mut hidden, &mut work));
    assert!(!is_done || hidden.iter().all(|hidden| *hidden));
    assert!(work < MAX_WORK + 10_000, "{work}");
    assert_eq!(scrubber.scrub(&text), REDACTED);
}
