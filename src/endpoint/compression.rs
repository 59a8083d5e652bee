//! Recognizes a body that is compressed although no token request has an `Accept-Encoding`.
//!
//! Pure. Nothing is decompressed.

use http::{HeaderMap, header::CONTENT_ENCODING};

/// The content codings that are called by their names (RFC 9110 section 8.4.1 and the IANA
/// registry).
const CODINGS: [(&str, &str); 7] = [
    ("gzip", "gzip"),
    ("x-gzip", "gzip"),
    ("deflate", "deflate"),
    ("br", "br"),
    ("zstd", "zstd"),
    ("compress", "compress"),
    ("x-compress", "compress"),
];

/// Returns the coding of `body`, which is not readable as text: by the `Content-Encoding`, or by
/// its first bytes.
pub(super) fn coding(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    if body.is_empty() {
        return None;
    }
    let codings = headers.get_all(CONTENT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    // The last one was applied last.
    let last = codings
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .rfind(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    if let Some(last) = last {
        let known = CODINGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(last));
        return Some(known.map_or("an unknown coding", |(_, name)| name));
    }
    match body {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        // RFC 1950 section 2.2. The one second byte that is not here is a printable character.
        [0x78, 0x01 | 0x9c | 0xda, ..] => Some("deflate"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&'static str], body: &[u8]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
        }
        coding(&headers, body)
    }

    #[test]
    fn a_coding_is_named_by_the_header_or_the_first_bytes() {
        for (lines, body, expected) in [
            (["gzip"].as_slice(), b"x".as_slice(), Some("gzip")),
            (&["X-GZIP"], b"x", Some("gzip")),
            (&["deflate"], b"x", Some("deflate")),
            (&["gzip, br"], b"x", Some("br")),
            (&["gzip", "zstd, identity"], b"x", Some("zstd")),
            (&["c4n4ry"], b"x", Some("an unknown coding")),
            (&["gzip"], b"", None),
            (&["identity"], b"x", None),
            (&[""], b"x", None),
            (&[], b"\x1f\x8b\x08", Some("gzip")),
            (&[], b"\x28\xb5\x2f\xfd", Some("zstd")),
            (&[], b"\x78\x9c\xab", Some("deflate")),
            (&[], b"\x78\x01\xab", Some("deflate")),
            (&[], b"\x78\xda\xab", Some("deflate")),
            (&[], b"xml", None),
            (&[], b"x^2", None),
            (&[], b"{", None),
        ] {
            assert_eq!(of(lines, body), expected, "{lines:?} {body:?}");
        }
    }
}
