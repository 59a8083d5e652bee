//! The lifetime that a JWT says it has, for answers that announce none.
//!
//! Pure. The token is opaque to a client (RFC 6749 section 1.4); what is read here is a hint for
//! when to ask again and is trusted for nothing else. No signature is checked.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// `exp` − `iat` (RFC 7519 section 4.1) if `token` is a JWT that has both, in that order. The
/// difference of the two, not `exp` alone, for the server's clock need not be ours.
pub(crate) fn lifetime(token: &str) -> Option<Duration> {
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
    let time = |claim| claims.get(claim)?.get().parse::<f64>().ok();
    Duration::try_from_secs_f64((time("exp")? - time("iat")?).floor())
        .ok()
        .filter(|lifetime| !lifetime.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn exp_less_iat() {
        let secs = |n| Some(Duration::from_secs(n));
        for (payload, expected) in [
            (r#"{"iat":1700000000,"exp":1700086400,"sub":"é"}"#, secs(86_400)),
            (r#"{"iat":1700000000.25,"exp":1700000010.5}"#, secs(10)),
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
            assert_eq!(lifetime(&jwt(payload)), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_no_jwt_has_no_lifetime() {
        let good = jwt(r#"{"iat":1,"exp":2}"#);
        for token in ["", ".", "..", "a.b", "a.b.c", "a.!.c", "....", &format!("{good}.x.y")] {
            assert_eq!(lifetime(token), None, "{token}");
        }
        assert!(lifetime(&good).is_some());
    }
}
