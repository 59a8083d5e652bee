//! The lifetime of a JWT, by its claims.
//!
//! Pure. The token is opaque to a client (RFC 6749 section 1.4); its claims are only a hint for the
//! time of the next request. No signature is checked.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::instant;

/// The shortest remaining lifetime by the local clock, in seconds, for which `exp` counts.
/// Otherwise, a clock that is ahead by nearly a lifetime would make each token last for one use.
const MIN_LEFT: f64 = 60.0;

/// Returns the lifetime of `token` by its own claims (RFC 7519 section 4.1), if it is a JWT: `exp`
/// − `iat`, which does not depend on the local clock, or `exp` less `now`, whichever is shorter.
/// The latter counts only if it is longer than 60 s.
pub(crate) fn lifetime(token: &str, now: SystemTime) -> Option<Duration> {
    let mut parts = token.split('.');
    // Three parts; an encrypted one has five.
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let payload = Zeroizing::new(payload);
    let claims: BTreeMap<String, &RawValue> = serde_json::from_slice(&payload).ok()?;
    let time = |claim| {
        let number = claims.get(claim)?.get().parse::<f64>().ok()?;
        Some(instant::seconds(number).unwrap_or(number))
    };
    let end = time("exp")?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let whole = time("iat").map(|start| end - start);
    let left = Some(end - now).filter(|left| *left > MIN_LEFT);
    whole
        .into_iter()
        .chain(left)
        .filter_map(|seconds| Duration::try_from_secs_f64(seconds.floor()).ok())
        .filter(|lifetime| !lifetime.is_zero())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    fn at(now: u64, payload: &str) -> Option<u64> {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        lifetime(&jwt(payload), now).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn exp_less_iat() {
        for (payload, expected) in [
            (r#"{"iat":1700000000,"exp":1700086400,"sub":"é"}"#, Some(86_400)),
            (r#"{"iat":1700000000.25,"exp":1700000010.5}"#, Some(10)),
            (r#"{"iat":1700000000000,"exp":1700086400000}"#, Some(86_400)),
            (r#"{"exp":1700086400}"#, None),
            (r#"{"iat":1700086400}"#, None),
            (r#"{"iat":10,"exp":10}"#, None),
            (r#"{"iat":20,"exp":10}"#, None),
            (r#"{"iat":0,"exp":1e400}"#, None),
            (r#"{"iat":1e400,"exp":1e400}"#, None),
            (r#"{"iat":null,"exp":"10"}"#, None),
            ("[1]", None),
            ("", None),
        ] {
            // By this clock, everything has expired long ago.
            assert_eq!(at(4_000_000_000, payload), expected, "{payload}");
        }
    }

    #[test]
    fn exp_by_our_clock_counts_if_it_is_nearer_and_leaves_more_than_a_minute() {
        const HOUR: &str = r#"{"iat":1700000000,"exp":1700003600}"#;
        for (now, expected) in [
            (1_700_000_000, Some(3600)),
            // The local clock is behind, or the token is issued again.
            (1_699_990_000, Some(3600)),
            (1_700_003_000, Some(600)),
            (1_700_003_539, Some(61)),
            (1_700_003_540, Some(3600)),
            (1_700_009_999, Some(3600)),
        ] {
            assert_eq!(at(now, HOUR), expected, "{now}");
        }
        for (now, expected) in [(1_700_003_000, Some(600)), (1_700_003_540, None)] {
            assert_eq!(at(now, r#"{"exp":1700003600}"#), expected, "without iat, at {now}");
        }
        // Without a sense of time, nothing is far enough away to overflow.
        assert_eq!(at(0, r#"{"exp":1e400}"#), None);
    }

    #[test]
    fn what_is_no_jwt_has_no_lifetime() {
        let good = jwt(r#"{"iat":1,"exp":2}"#);
        let of = |token: &str| lifetime(token, UNIX_EPOCH + Duration::from_secs(9));
        for token in ["", ".", "..", "a.b", "a.b.c", "a.!.c", "....", &format!("{good}.x.y")] {
            assert_eq!(of(token), None, "{token}");
        }
        assert!(of(&good).is_some());
    }
}
