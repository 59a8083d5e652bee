//! The ways in which servers write a single character of a quoted text: JSON alone has four ways to
//! write a slash, and forms have three.

/// The most nested escapes that are followed: JSON in a JSON string in another.
pub(super) const MAX_ESCAPES: usize = 8;

/// The bytes that the beginning of a text may stand for.
pub(super) struct Reading {
    bytes: [u8; 4],
    len: usize,
    /// The length of the text that is read, in bytes.
    pub(super) width: usize,
}

impl Reading {
    fn byte(byte: u8, width: usize) -> Self {
        Self { bytes: [byte, 0, 0, 0], len: 1, width }
    }

    fn char(c: char, width: usize) -> Self {
        let mut bytes = [0; 4];
        let len = c.encode_utf8(&mut bytes).len();
        Self { bytes, len, width }
    }

    /// Returns `true` for white space, at which lines of base64 and hex are broken.
    pub(super) fn is_space(&self) -> bool {
        matches!(self.bytes(), [byte] if byte.is_ascii_whitespace())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Adds every reading of the beginning of `text`.
pub(super) fn of(text: &[u8], readings: &mut Vec<Reading>) {
    let Some(first) = text.first() else { return };
    readings.push(Reading::byte(*first, 1));
    match first {
        b'+' => readings.push(Reading::byte(b' ', 1)),
        // Of a `+` that was read as a form's.
        b' ' => readings.push(Reading::byte(b'+', 1)),
        b'%' => percent(text, readings),
        b'\\' => backslashes(text, readings),
        b'&' => references(text, readings),
        _ => {}
    }
}

/// Returns the length of what a dump has between two bytes, beside white space.
pub(super) fn separator(text: &[u8]) -> Option<usize> {
    match text {
        [b':' | b',' | b'-', ..] => Some(1),
        [b'\\', b'x', ..] | [b'0', b'x', ..] => Some(2),
        _ => None,
    }
}

/// `%2F`, `%252F` if it was encoded twice. Beyond ASCII it is a byte of UTF-8, or Latin-1.
fn percent(text: &[u8], readings: &mut Vec<Reading>) {
    let mut hex = text.strip_prefix(b"%");
    for _ in 0..MAX_ESCAPES {
        let Some(after) = hex else { break };
        let width = text.len() - after.len() + 2;
        push_byte(number(after.get(..2), 16), width, readings);
        hex = after.strip_prefix(b"25");
    }
}

/// `\/`, `\"`, `\\`, `\n`, `\x2f`, `\057`, `\u002f`, and as many backslashes more as it was escaped
/// again.
fn backslashes(text: &[u8], readings: &mut Vec<Reading>) {
    let run = text.iter().take(MAX_ESCAPES).take_while(|byte| **byte == b'\\').count();
    readings.extend((2..=run).map(|width| Reading::byte(b'\\', width)));
    let Some(escaped) = text.get(run..).filter(|escaped| !escaped.is_empty()) else { return };
    let width = |len: usize| run + len;
    match escaped {
        [b'u', ..] => {
            if let Some((c, len)) = utf16(escaped) {
                readings.push(Reading::char(c, width(len)));
            }
        }
        [b'x', ..] => push_byte(number(escaped.get(1..3), 16), width(3), readings),
        [b'0'..=b'3', ..] => push_byte(number(escaped.get(..3), 8), width(3), readings),
        _ => {}
    }
    let control = match escaped {
        [b'n', ..] => Some(b'\n'),
        [b'r', ..] => Some(b'\r'),
        [b't', ..] => Some(b'\t'),
        _ => None,
    };
    readings.extend(control.map(|control| Reading::byte(control, width(1))));
    // Whatever needs no escape may have one.
    if let Some(c) = first_char(escaped.get(..4).unwrap_or(escaped)) {
        readings.push(Reading::char(c, width(c.len_utf8())));
    }
}

/// Reads `u002f`, or two of them with backslashes between: a surrogate pair.
fn utf16(text: &[u8]) -> Option<(char, usize)> {
    let unit = |text: &[u8]| number(text.strip_prefix(b"u")?.get(..4), 16);
    let first = unit(text)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, 5));
    }
    let rest = text.get(5..)?;
    let run = rest.iter().take(MAX_ESCAPES).take_while(|byte| **byte == b'\\').count();
    let second = unit(rest.get(run..)?)?;
    let units = [u16::try_from(first).ok()?, u16::try_from(second).ok()?];
    let c = char::decode_utf16(units).next()?.ok()?;
    Some((c, 5 + run + 5))
}

/// `&#47;`, `&#x2f;`, `&amp;` as HTML and XML have it, `&amp;#47;` if it was escaped twice.
fn references(text: &[u8], readings: &mut Vec<Reading>) {
    /// Of `#x0010FFFF;`, and then some.
    const MAX_LEN: usize = 16;
    let mut name = text.strip_prefix(b"&");
    for _ in 0..MAX_ESCAPES {
        let Some(after) = name else { break };
        let Some(end) = after.iter().take(MAX_LEN).position(|byte| *byte == b';') else { break };
        let width = text.len() - after.len() + end + 1;
        if let Some(c) = after.get(..end).and_then(referenced) {
            readings.push(Reading::char(c, width));
        }
        name = after.strip_prefix(b"amp;");
    }
}

fn referenced(name: &[u8]) -> Option<char> {
    match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        b"excl" => Some('!'),
        b"num" => Some('#'),
        b"dollar" => Some('$'),
        b"percnt" => Some('%'),
        b"lpar" => Some('('),
        b"rpar" => Some(')'),
        b"ast" | b"midast" => Some('*'),
        b"plus" => Some('+'),
        b"comma" => Some(','),
        b"hyphen" | b"dash" => Some('-'),
        b"period" => Some('.'),
        b"sol" => Some('/'),
        b"colon" => Some(':'),
        b"semi" => Some(';'),
        b"equals" => Some('='),
        b"quest" => Some('?'),
        b"commat" => Some('@'),
        b"lsqb" | b"lbrack" => Some('['),
        b"bsol" => Some('\\'),
        b"rsqb" | b"rbrack" => Some(']'),
        b"Hat" => Some('^'),
        b"lowbar" | b"UnderBar" => Some('_'),
        b"grave" | b"DiacriticalGrave" => Some('`'),
        b"lcub" | b"lbrace" => Some('{'),
        b"verbar" | b"vert" | b"VerticalLine" => Some('|'),
        b"rcub" | b"rbrace" => Some('}'),
        b"Tilde" => Some('~'),
        _ => {
            let digits = name.strip_prefix(b"#")?;
            let value = match digits.strip_prefix(b"x").or_else(|| digits.strip_prefix(b"X")) {
                Some(hex) => number(Some(hex), 16),
                None => number(Some(digits), 10),
            };
            char::from_u32(value?)
        }
    }
}

fn push_byte(value: Option<u32>, width: usize, readings: &mut Vec<Reading>) {
    let Some(byte) = value.and_then(|value| u8::try_from(value).ok()) else { return };
    readings.push(Reading::byte(byte, width));
    if !byte.is_ascii() {
        readings.push(Reading::char(char::from(byte), width));
    }
}

fn number(digits: Option<&[u8]>, radix: u32) -> Option<u32> {
    let digits = std::str::from_utf8(digits?).ok()?;
    u32::from_str_radix(digits, radix).ok()
}

fn first_char(text: &[u8]) -> Option<char> {
    let valid = text.utf8_chunks().next()?.valid();
    valid.chars().next()
}
