//! Reading a token endpoint's JSON tolerantly: one field at a time, so that an odd value in one
//! field does not make the others unreadable.
//!
//! Pure. An error describes the kind of the input without repeating any of it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

/// The deepest nesting that is accepted, as deep as serde_json's own limit.
const MAX_DEPTH: usize = 128;

/// Returns `body` without a byte order mark at its start. JSON must not have one, and a parser may
/// ignore it (RFC 8259 section 8.1).
pub(super) fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// A JSON object whose values have not been parsed.
pub(super) struct Object<'a> {
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads the body of a successful response strictly: anything ambiguous is an error. The error
    /// describes the input, as in "it answered with ...".
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(without_byte_order_mark(body))
            .map_err(|_| "text that is not UTF-8")?;
        let start = text.trim_ascii_start();
        if start.is_empty() {
            return Err("an empty body");
        }
        if is_deep(text) {
            return Err("JSON that is nested too deeply");
        }
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Eof => "JSON that ends too early",
            Category::Data => "JSON, but not an object",
            Category::Syntax | Category::Io if start.starts_with('{') => "JSON with a syntax error",
            Category::Syntax | Category::Io if start.starts_with('<') => "HTML or XML, not JSON",
            Category::Syntax | Category::Io => "text that is not JSON",
        })
    }

    /// Reads the body of a refusal, as tolerantly as possible.
    pub(super) fn parse_leniently(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(without_byte_order_mark(body)).ok()
    }

    /// Returns the first member called `name`, unless it is null.
    pub(super) fn first(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.members.iter().find(|(member, _)| member == name)?;
        (kind(value) != "null").then_some(*value)
    }

    /// Returns the first member called `name` in upper or lower case, unless it is null.
    pub(super) fn first_like(&self, name: &str) -> Option<&'a RawValue> {
        let is_it = |(member, _): &&(String, _)| member.eq_ignore_ascii_case(name);
        let (_, value) = self.members.iter().find(is_it)?;
        (kind(value) != "null").then_some(*value)
    }

    /// Returns the value at `path`: a member's name, or a JSON pointer (RFC 6901) if it begins with
    /// `/`. Returns `None` for null and for a path that does not exist.
    ///
    /// # Errors
    ///
    /// [`Duplicate`] if a member on the path occurs twice.
    pub(super) fn at(&self, path: &str) -> Result<Option<&'a RawValue>, Duplicate> {
        let Some(pointer) = path.strip_prefix('/') else {
            return self.only(path);
        };
        let mut segments = pointer.split('/').map(unescape);
        let first = segments.next().unwrap_or_default();
        let mut value = self.only(&first)?;
        for segment in segments {
            let Some(inside) = value else { return Ok(None) };
            value = if let Ok(object) = serde_json::from_str::<Object<'a>>(inside.get()) {
                object.only(&segment)?
            } else if let Ok(array) = serde_json::from_str::<Vec<&'a RawValue>>(inside.get()) {
                segment.parse().ok().and_then(|index: usize| array.get(index).copied())
            } else {
                None
            };
        }
        Ok(value.filter(|value| kind(value) != "null"))
    }

    fn only(&self, name: &str) -> Result<Option<&'a RawValue>, Duplicate> {
        let mut found = self.members.iter().filter(|(member, _)| member == name);
        let first = found.next();
        match found.next() {
            Some(_) => Err(Duplicate),
            None => Ok(first.map(|(_, value)| *value).filter(|value| kind(value) != "null")),
        }
    }
}

/// The error of a member that occurs twice: parsers disagree on which one counts (RFC 8259 section
/// 4).
#[derive(Debug)]
pub(super) struct Duplicate;

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(|members| Self { members })
    }
}

/// Returns the kind of a value, with its article.
pub(super) fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Returns the text of a string.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Returns the value of a number, or of a string that contains one. It may be infinite (`1e400`),
/// and is never NaN.
pub(super) fn number(value: &RawValue) -> Option<f64> {
    let text = match kind(value) {
        "a number" => Cow::Borrowed(value.get()),
        "a string" => Cow::Owned(string(value)?),
        _ => return None,
    };
    let text = text.trim();
    // Rust reads "infinity" and "nan" as numbers.
    if text.bytes().any(|b| b.is_ascii_alphabetic() && !matches!(b, b'e' | b'E')) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| !number.is_nan())
}

fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn is_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for b in text.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(body: &[u8]) -> &'static str {
        Object::parse(body).err().unwrap_or("fine")
    }

    #[test]
    fn what_is_seen_in_place_of_an_object_is_said() {
        let deep = format!(r#"{{"access_token":"x","a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        for (body, said) in [
            (b"{}".as_slice(), "fine"),
            (b" {\"a\":1e400} ", "fine"),
            (br#"{"a":"[[\"[["}"#, "fine"),
            (b"", "an empty body"),
            (b" \r\n", "an empty body"),
            (b"\xef\xbb\xbf{}", "fine"),
            (b"\xef\xbb\xbf \r\n{}", "fine"),
            (b"\xef\xbb\xbf", "an empty body"),
            (b"\xef\xbb\xbf\xef\xbb\xbf{}", "text that is not JSON"),
            (b"{}\xef\xbb\xbf", "JSON with a syntax error"),
            (b"\xff\xfe{\0}\0", "text that is not UTF-8"),
            (b"{\"a\":\"\xff\"}", "text that is not UTF-8"),
            (b"\n<!doctype html>", "HTML or XML, not JSON"),
            (b"access_token=x", "text that is not JSON"),
            (b"[]", "JSON, but not an object"),
            (b"\"x\"", "JSON, but not an object"),
            (b"{\"a\":", "JSON that ends too early"),
            (b"{\"a\":1} {", "JSON with a syntax error"),
            (b"{'a':1}", "JSON with a syntax error"),
            (deep.as_bytes(), "JSON that is nested too deeply"),
        ] {
            assert_eq!(seen(body), said, "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_path_is_a_name_or_a_pointer() {
        let body = br#"{"a":"1","n":null,"d":{"e/f":"2","g":[{"h":"3"}],"~":"4"},"/x":"5"}"#;
        let object = Object::parse(body).unwrap();
        let at = |path| object.at(path).unwrap().and_then(string);
        assert_eq!(at("a").as_deref(), Some("1"));
        assert_eq!(at("/a").as_deref(), Some("1"));
        assert_eq!(at("/d/e~1f").as_deref(), Some("2"));
        assert_eq!(at("/d/g/0/h").as_deref(), Some("3"));
        assert_eq!(at("/d/~0").as_deref(), Some("4"));
        for nowhere in ["n", "/n", "b", "/d/g/1/h", "/a/b", "/", "/d/g/x"] {
            assert_eq!(at(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn a_member_that_is_there_twice_is_noticed_only_where_it_is_read() {
        let object = Object::parse(br#"{"a":1,"a":2,"b":{"c":1,"c":2},"d":1}"#).unwrap();
        assert!(object.at("a").is_err() && object.at("/b/c").is_err());
        assert!(object.at("d").unwrap().is_some());
        assert_eq!(object.first("a").map(RawValue::get), Some("1"));
    }

    #[test]
    fn numbers_are_read_from_strings_too() {
        for (json, value) in [
            ("3600", Some(3600.0)),
            ("\" 3600 \"", Some(3600.0)),
            ("3600.5", Some(3600.5)),
            ("-1", Some(-1.0)),
            ("1e400", Some(f64::INFINITY)),
            ("\"infinity\"", None),
            ("\"NaN\"", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("true", None),
            ("[1]", None),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(number(raw), value, "{json}");
        }
    }
}
