//! Decides whether a response rejects the token.
//!
//! This file reads the head of a response and returns a [`Verdict`] on the token of the request.
//! The consequences (a renewal, a replay, a cooldown) are decided in the cache and in the service.
//!
//! The challenge is read as tolerantly as real servers write it (RFC 9110 section 11.6.1 is the
//! grammar, RFC 6750 section 3 the meaning): without commas, with one too many, with several
//! schemes on a line, with unquoted values. A gRPC status in trailers is not seen, since that would
//! mean watching the body.

use http::{HeaderMap, HeaderName, StatusCode, Version, header};

/// The verdict of a response on the token of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token was understood, whatever else may be wrong.
    Accepted,
    /// The token was rejected.
    Rejected(Evidence),
    /// Neither a rejection nor an acceptance: a newer token of the same kind would get the same
    /// response, or the response comes from a proxy or a broken server.
    Neutral,
}

/// The strength of the evidence that a rejected token is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A `Bearer` challenge with `error="invalid_token"`.
    Strong,
    /// A 401 whose challenges name no code, another code, or another scheme. Some endpoints misuse
    /// it, so it is no reason to make other requests wait.
    Weak,
}

/// The rule for responses that reject the token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChallengePolicy {
    forbidden: bool,
}

/// The header with gRPC's status in a response without a body ("Trailers-Only").
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl ChallengePolicy {
    /// Treats a 403 like a 401. The views of django-oauth-toolkit respond 403 to an expired token.
    /// Elsewhere, a valid token without the scope gets 403, so this is off by default.
    #[must_use]
    pub(crate) fn forbidden_is_stale(mut self) -> Self {
        self.forbidden = true;
        self
    }

    /// Returns `true` if the response accepts the token, by a quick check. `false` means that
    /// [`judge`](Self::judge) must decide.
    #[inline]
    pub(crate) fn accepts_fast(status: StatusCode, version: Version, headers: &HeaderMap) -> bool {
        let status = status.as_u16();
        // gRPC needs HTTP/2, so HTTP/1.1 skips the look-up.
        status <= 400
            && (status != 200 || version < Version::HTTP_2 || grpc(headers) == Verdict::Accepted)
    }

    /// Returns the verdict of a response's head on the token.
    pub(crate) fn judge(
        self,
        status: StatusCode,
        version: Version,
        headers: &HeaderMap,
    ) -> Verdict {
        match status.as_u16() {
            200 if version >= Version::HTTP_2 => grpc(headers),
            401 => challenged(headers),
            403 if self.forbidden => challenged(headers),
            407 | 408 | 429 | 500.. => Verdict::Neutral,
            _ => Verdict::Accepted,
        }
    }
}

/// Returns the verdict of a gRPC response. `UNAUTHENTICATED` is 16; the HTTP status is always 200.
fn grpc(headers: &HeaderMap) -> Verdict {
    match headers.get(&GRPC_STATUS) {
        Some(status) if status.as_bytes() == b"16" => Verdict::Rejected(Evidence::Weak),
        _ => Verdict::Accepted,
    }
}

/// Returns the verdict of a 401, by its challenges.
///
/// A 401 rejects the token of the request, whatever scheme it names: APIs respond to a stale bearer
/// token with `Basic`, `OAuth`, `Negotiate` or nothing. `invalid_token` under `Bearer` is strong
/// evidence, and outweighs all other challenges. The exceptions are [`NEUTRAL_CODES`] in any
/// scheme, and challenges that offer only [`POSSESSION_SCHEMES`]. Every other code is weak
/// evidence, including `insufficient_claims`, which Entra also sends for revoked tokens. A header
/// without a challenge counts as absent.
#[cold]
fn challenged(headers: &HeaderMap) -> Verdict {
    let mut seen = Challenges::default();
    for line in headers.get_all(header::WWW_AUTHENTICATE) {
        seen.read(line.as_bytes());
    }
    if seen.invalid_token {
        Verdict::Rejected(Evidence::Strong)
    } else if seen.neutral_code || (seen.possession && !seen.transferable) {
        Verdict::Neutral
    } else {
        Verdict::Rejected(Evidence::Weak)
    }
}

/// Error codes that a newer token of the same kind does not resolve: RFC 6750 section 3.1, RFC 9470
/// section 3, RFC 9449 sections 7.1 and 9.
const NEUTRAL_CODES: [&[u8]; 4] = [
    b"insufficient_scope",
    b"insufficient_user_authentication",
    b"invalid_dpop_proof",
    b"use_dpop_nonce",
];

/// Schemes that ask for proof of possession of a key, which a bearer token never is: DPoP (RFC
/// 9449), Entra's `PoP`, GNAP (RFC 9635), OAuth 2.0's MAC draft, Hawk, HOBA (RFC 7486).
const POSSESSION_SCHEMES: [&[u8]; 6] = [b"dpop", b"pop", b"gnap", b"mac", b"hawk", b"hoba"];

/// The facts about the challenges so far. They are carried from line to line, since several lines
/// mean the same as one with commas (RFC 9110 section 5.3).
#[derive(Default)]
struct Challenges {
    /// Whether the last scheme was `Bearer`, to which the next parameters belong.
    in_bearer: bool,
    /// Whether a scheme asks for proof of possession.
    possession: bool,
    /// Whether a scheme does not.
    transferable: bool,
    /// Whether `invalid_token` was found under `Bearer`.
    invalid_token: bool,
    neutral_code: bool,
}

impl Challenges {
    /// Reads one line, in one pass and without allocating.
    ///
    /// A parameter belongs to the last scheme, even after a superfluous comma (`Bearer,
    /// error=...`). Token68 needs no special case: `abc==` reads as a parameter that has no
    /// meaning.
    fn read(&mut self, mut rest: &[u8]) {
        let mut at_start = true;
        loop {
            match rest {
                [] => return,
                [b',', tail @ ..] => {
                    at_start = true;
                    rest = tail;
                }
                [b' ' | b'\t' | b';' | b'=', tail @ ..] => rest = tail,
                [b'"', tail @ ..] => {
                    at_start = false;
                    rest = quoted(tail).1;
                }
                _ => {
                    let (word, tail) = split_at_any(rest, b" \t;,=\"");
                    if let [b'=', value @ ..] = skip_blanks(tail) {
                        let (value, tail) = parameter_value(value);
                        self.parameter(word, value);
                        rest = tail;
                    } else {
                        self.word(word, at_start);
                        rest = tail;
                    }
                    at_start = false;
                }
            }
        }
    }

    /// Handles a word without `=`: a scheme where a challenge may start. Elsewhere it is token68 or
    /// the rest of an unquoted value, unless it is `Bearer`: a missing comma is more likely.
    fn word(&mut self, word: &[u8], at_start: bool) {
        let is_bearer = word.eq_ignore_ascii_case(b"bearer");
        if is_bearer || at_start {
            self.in_bearer = is_bearer;
            let possession =
                POSSESSION_SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
            self.possession |= possession;
            self.transferable |= !possession;
        }
    }

    fn parameter(&mut self, name: &[u8], value: &[u8]) {
        if !name.eq_ignore_ascii_case(b"error") {
            return;
        }
        // Escapes are dropped rather than decoded: no error code has a character that needs one.
        let code =
            value.iter().filter(|byte| !b"\\\"' \t".contains(byte)).map(u8::to_ascii_lowercase);
        let is = |known: &[u8]| code.clone().eq(known.iter().copied());
        self.invalid_token |= self.in_bearer && is(b"invalid_token");
        self.neutral_code |= NEUTRAL_CODES.into_iter().any(is);
    }
}

/// Returns the value after a `=`, and the rest. A space before the value is skipped only before a
/// quote: `error= scope="x"` is an empty value and another parameter.
fn parameter_value(rest: &[u8]) -> (&[u8], &[u8]) {
    match skip_blanks(rest) {
        [b'"', tail @ ..] => quoted(tail),
        _ => split_at_any(rest, b" \t;,"),
    }
}

/// Returns the content of a quoted string, including escapes, and the rest after its closing quote.
/// An unclosed string extends to the end of the line.
fn quoted(rest: &[u8]) -> (&[u8], &[u8]) {
    let mut bytes = rest.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'"' => {
                let (inside, tail) = rest.split_at(at);
                return (inside, tail.get(1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (rest, &[])
}

fn split_at_any<'a>(rest: &'a [u8], ends: &[u8]) -> (&'a [u8], &'a [u8]) {
    rest.split_at(rest.iter().position(|byte| ends.contains(byte)).unwrap_or(rest.len()))
}

fn skip_blanks(rest: &[u8]) -> &[u8] {
    rest.trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{
        Verdict::{Accepted, Neutral},
        *,
    };

    const WEAK: Verdict = Verdict::Rejected(Evidence::Weak);
    const STRONG: Verdict = Verdict::Rejected(Evidence::Strong);

    fn on_401(lines: &[&[u8]]) -> Verdict {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_bytes(line).unwrap());
        }
        ChallengePolicy::default().judge(StatusCode::UNAUTHORIZED, Version::HTTP_11, &headers)
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let table: &[(&str, Verdict)] = &[
            // Nothing to read is as good as no challenge.
            ("", WEAK),
            (" , ,", WEAK),
            ("=", WEAK),
            (r#"""#, WEAK),
            (r#"error="insufficient_scope""#, Neutral),
            (r#"error="invalid_token""#, WEAK),
            // RFC 6750, as it should be.
            ("Bearer", WEAK),
            (r#"Bearer realm="api""#, WEAK),
            (r#"Bearer realm="api", error="invalid_token""#, STRONG),
            (r#"Bearer error="invalid_token", error_description="The token expired""#, STRONG),
            (r#"Bearer realm="api", error="insufficient_scope", scope="read""#, Neutral),
            (r#"Bearer error="insufficient_user_authentication", acr_values="x""#, Neutral),
            // Other codes: oxide-auth's, Entra's, and whatever else is made up.
            (r#"Bearer error="invalid_request""#, WEAK),
            (r#"Bearer error="invalid_request" scope="read""#, WEAK),
            (r#"Bearer error="expired_token""#, WEAK),
            (r#"Bearer error="insufficient_claims", claims="eyJ9""#, WEAK),
            (r#"Bearer error="something_of_their_own""#, WEAK),
            // Case.
            ("bearer", WEAK),
            (r#"BEARER ERROR="Invalid_Token""#, STRONG),
            // Malformed: a comma too many, none, no blanks, blanks around `=`, other quotes.
            (r#"Bearer, error="invalid_credentials", error_description="x""#, WEAK),
            (r#"Bearer, error="invalid_token""#, STRONG),
            ("Bearer, error=", WEAK),
            (r#"Bearer error="""#, WEAK),
            (r#"Bearer error= scope="x""#, WEAK),
            ("Bearer error=invalid_token", STRONG),
            ("Bearer realm=my api error=invalid_token", STRONG),
            ("Bearer realm=my api, error=insufficient_scope", Neutral),
            (r#"Bearer error="invalid_token" scope="read""#, STRONG),
            (r#"Bearer scope="read" error="insufficient_scope""#, Neutral),
            (r#"Bearer realm="a",error="invalid_token",scope="x""#, STRONG),
            (r#"Bearer realm="a"; error="invalid_token""#, STRONG),
            (r#"Bearer realm = "a" , error = "invalid_token""#, STRONG),
            ("Bearer error='invalid_token'", STRONG),
            (r#"Bearer error="invalid_token"#, STRONG),
            (r#",,Bearer,,error="invalid_token",,"#, STRONG),
            // Quoted strings hide commas, quotes, and what looks like a parameter or a scheme.
            (r#"Bearer realm="a, Basic \", error=\"invalid_token\"""#, WEAK),
            (r#"Basic realm="x, Bearer error=invalid_token""#, WEAK),
            (r#"Bearer realm="a\\", error="invalid_token""#, STRONG),
            (r#"Bearer realm="my "quoted" realm", error="invalid_token""#, STRONG),
            (r#"Bearer error="invalid\_token""#, STRONG),
            (r#"Bearer realm="error=invalid_token"#, WEAK),
            // An error is a parameter of that name, not one that ends or starts with it.
            (r#"Bearer error_description="invalid_token""#, WEAK),
            (r#"Bearer x_error="invalid_token""#, WEAK),
            (r#"Bearer error="invalid_tokens""#, WEAK),
            (r#"Bearer authorization_uri=https://a/?error=invalid_token"#, WEAK),
            // Other schemes: the bearer token was still what the request had to show.
            (r#"Basic realm="x""#, WEAK),
            (r#"BASIC realm="Service-now""#, WEAK),
            (r#"Basic realm="SAP NetWeaver Application Server [ABC/100]""#, WEAK),
            (r#"OAuth realm="https%3A%2F%2Fexample.atlassian.net""#, WEAK),
            (r#"OAuth2 realm="x", error="invalid_token""#, WEAK),
            ("Keystone uri=\"https://identity.example/v3\"", WEAK),
            ("Keystone uri='https://identity.example/v3'", WEAK),
            ("Token", WEAK),
            ("Negotiate", WEAK),
            ("Negotiate YIIJvwYG/+==", WEAK),
            ("Negotiate YIIJvwYG", WEAK),
            ("Bearerish", WEAK),
            (r#"Basic realm="x", error="invalid_token""#, WEAK),
            (r#"OAuth realm="x", error="insufficient_scope""#, Neutral),
            // Proof of possession: no bearer token will do.
            (r#"DPoP algs="ES256", error="use_dpop_nonce""#, Neutral),
            (r#"DPoP error="invalid_token""#, Neutral),
            (r#"dpop algs="ES256""#, Neutral),
            (r#"PoP nonce="x""#, Neutral),
            (r#"DPoP algs="ES256", PoP nonce="x""#, Neutral),
            (r#"DPoP algs="ES256", Basic realm="x""#, WEAK),
            (r#"Bearer, DPoP algs="ES256", error="use_dpop_nonce""#, Neutral),
            (r#"Bearer error="invalid_dpop_proof""#, Neutral),
            // Two schemes on a line.
            (r#"Basic realm="x", Bearer"#, WEAK),
            (r#"Bearer realm="x", Basic realm="y""#, WEAK),
            (r#"Bearer realm="x", DPoP algs="ES256 PS256", error="invalid_token""#, WEAK),
            (r#"Bearer error="invalid_token", DPoP algs="ES256""#, STRONG),
            (r#"Negotiate abc==, Bearer error="invalid_token""#, STRONG),
            (r#"Negotiate Bearer error="invalid_token""#, STRONG),
            (r#"Basic realm="x" Bearer error="invalid_token""#, STRONG),
            // Two for Bearer: the one that says most.
            (r#"Bearer realm="a", Bearer error="insufficient_scope""#, Neutral),
            (r#"Bearer error="insufficient_scope", Bearer error="invalid_token""#, STRONG),
        ];
        for (line, verdict) in table {
            assert_eq!(on_401(&[line.as_bytes()]), *verdict, "{line}");
        }
    }

    #[test]
    fn several_lines_mean_the_same_as_one() {
        assert_eq!(on_401(&[]), WEAK);
        assert_eq!(on_401(&[b"Basic realm=\"x\"", b"Bearer error=\"invalid_token\""]), STRONG);
        assert_eq!(on_401(&[b"Bearer", b"error=\"insufficient_scope\""]), Neutral);
        assert_eq!(on_401(&[b"Basic", b"DPoP"]), WEAK);
        assert_eq!(on_401(&[b"DPoP", b"PoP"]), Neutral);
    }

    #[test]
    fn bytes_beyond_ascii_are_nothing_special() {
        assert_eq!(on_401(&[b"Bearer realm=\"\xe9\xff\", error=\"invalid_token\""]), STRONG);
        assert_eq!(on_401(&[b"Bearer error=\"\xe9\""]), WEAK);
        assert_eq!(on_401(&[b"\xff\xfe"]), WEAK);
    }

    #[test]
    fn only_a_401_is_a_rejection_unless_403_is_asked_for() {
        let mut headers = HeaderMap::new();
        let judge = |status: u16, headers: &HeaderMap, rules: ChallengePolicy| {
            rules.judge(StatusCode::from_u16(status).unwrap(), Version::HTTP_11, headers)
        };
        let default = ChallengePolicy::default();
        let strict = default.forbidden_is_stale();
        for (status, verdict) in [
            (101, Accepted),
            (200, Accepted),
            (204, Accepted),
            (302, Accepted),
            (400, Accepted),
            (401, WEAK),
            (403, Accepted),
            (404, Accepted),
            (407, Neutral),
            (408, Neutral),
            (429, Neutral),
            (500, Neutral),
            (503, Neutral),
            (999, Neutral),
        ] {
            assert_eq!(judge(status, &headers, default), verdict, "{status}");
        }
        assert_eq!(judge(403, &headers, strict), WEAK);
        // A 403 that explains itself is believed.
        let value = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
        headers.insert(header::WWW_AUTHENTICATE, value);
        assert_eq!(judge(403, &headers, strict), Neutral);
        let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        headers.insert(header::WWW_AUTHENTICATE, value);
        assert_eq!(judge(403, &headers, strict), STRONG);
        assert_eq!(judge(403, &headers, default), Accepted);
        assert_eq!(judge(200, &headers, default), Accepted);
    }

    #[test]
    fn grpc_says_it_in_a_header_of_a_200_over_http2() {
        let judge = |grpc_status: &'static str, status: StatusCode, version: Version| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(grpc_status));
            ChallengePolicy::default().judge(status, version, &headers)
        };
        assert_eq!(judge("16", StatusCode::OK, Version::HTTP_2), WEAK);
        assert_eq!(judge("16", StatusCode::OK, Version::HTTP_3), WEAK);
        assert_eq!(judge("16", StatusCode::OK, Version::HTTP_11), Accepted);
        assert_eq!(judge("16", StatusCode::BAD_GATEWAY, Version::HTTP_2), Neutral);
        for other in ["0", "1", "7", "14", "160", ""] {
            assert_eq!(judge(other, StatusCode::OK, Version::HTTP_2), Accepted, "{other}");
        }
        let none = HeaderMap::new();
        assert_eq!(
            ChallengePolicy::default().judge(StatusCode::OK, Version::HTTP_2, &none),
            Accepted
        );
    }

    #[test]
    fn no_line_makes_it_panic() {
        let pieces: &[&[u8]] = &[
            b"Bearer",
            b"bearer",
            b"Basic",
            b"error",
            b"=",
            b"\"",
            b"\\",
            b",",
            b" ",
            b"\t",
            b";",
            b"invalid_token",
            b"==",
            b"\xff",
            b"a",
            b"'",
        ];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..50_000 {
            let mut line = Vec::new();
            for _ in 0..(seed >> 60) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                line.extend_from_slice(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let verdict = on_401(&[&line]);
            if verdict == STRONG {
                let text = String::from_utf8_lossy(&line).to_lowercase();
                assert!(text.contains("bearer") && text.contains("error"), "{text}");
            }
        }
    }

    /// A scanner that looks ahead to the end from every byte would take hours here.
    #[test]
    fn a_long_line_takes_linear_time() {
        for piece in ["\"", "\\", "\"\\", "a ", "a= ", "=", ",", "a    ", "a=\"", "Bearer ", "a"] {
            let line = piece.repeat(4 * 1024 * 1024 / piece.len());
            let _ = on_401(&[line.as_bytes()]);
        }
        let _ = on_401(&[" ".repeat(1024 * 1024).as_bytes(), b"a=", &b"\"".repeat(1024 * 1024)]);
    }
}
