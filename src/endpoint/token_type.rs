//! The type of a token (RFC 6749 section 7.1), in the spellings of real servers.
//!
//! Pure.

/// The use of a token's type as a bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    Bearer,
    /// Another name for a bearer token.
    Odd,
    /// Not an access token, or one that needs proof of possession.
    Unusable,
}

/// The parts of types that need a proof, or are not meant for an API.
const UNUSABLE: [&str; 7] = ["pop", "mac", "dpop", "mtls", "saml", "id_token", "refresh_token"];

impl TokenType {
    /// Returns the meaning of `token_type`. An empty type is Bearer, like an absent one: servers
    /// forget it.
    pub(super) fn of(token_type: &str) -> Self {
        let token_type = token_type.trim().to_ascii_lowercase();
        if matches!(&*token_type, "" | "bearer") {
            Self::Bearer
        } else if matches!(&*token_type, "n_a" | "n/a")
            || UNUSABLE.iter().any(|part| token_type.contains(part))
        {
            Self::Unusable
        } else {
            Self::Odd
        }
    }
}

/// Returns `token` without the scheme that some servers write before it (`Bearer eyJ..`), if the
/// rest is a token by RFC 6750 section 2.1 (`b64token`). One prefix with one space is removed.
pub(super) fn without_scheme(token: &str) -> &str {
    let rest = token.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match rest {
        Some((_, rest)) if is_b64token(rest) => rest,
        _ => token,
    }
}

fn is_b64token(text: &str) -> bool {
    let content = text.trim_end_matches('=');
    !content.is_empty()
        && content.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_words_for_bearer_are_told_from_types_that_need_more() {
        for bearer in ["", " ", "Bearer", "bearer", "BEARER ", "\tbEaReR"] {
            assert_eq!(TokenType::of(bearer), TokenType::Bearer, "{bearer:?}");
        }
        for odd in [
            "BearerToken",
            "Bearer Token",
            "Application Access Token",
            "access_token",
            "JWT",
            "user",
            "urn:ietf:params:oauth:token-type:access_token",
            "Bearer,Bearer",
            "pöp",
        ] {
            assert_eq!(TokenType::of(odd), TokenType::Odd, "{odd:?}");
        }
        for unusable in [
            "N_A",
            "n_a ",
            "N/A",
            "pop",
            "PoP",
            "mac",
            "MAC",
            "hmac-sha256",
            "DPoP",
            "bearer+dpop",
            "mTLS",
            "urn:ietf:params:oauth:token-type:saml2",
            "urn:ietf:params:oauth:token-type:id_token",
            "ID_TOKEN",
            "urn:ietf:params:oauth:token-type:refresh_token",
        ] {
            assert_eq!(TokenType::of(unusable), TokenType::Unusable, "{unusable:?}");
        }
    }

    #[test]
    fn one_scheme_before_a_token_is_removed() {
        for (token, rest) in [
            ("Bearer eyJ.a-b_c~d+e/f==", "eyJ.a-b_c~d+e/f=="),
            ("bearer x", "x"),
            ("BEARER x", "x"),
            // Not a token after it, so it is not touched, and refused for its space.
            ("Bearer Bearer x", "Bearer Bearer x"),
            ("Bearer  x", "Bearer  x"),
            ("Bearer x ", "Bearer x "),
            ("Bearer\tx", "Bearer\tx"),
            (" Bearer x", " Bearer x"),
            ("Bearer ", "Bearer "),
            ("Bearer =", "Bearer ="),
            ("Bearer a=b", "Bearer a=b"),
            ("Bearer a{b", "Bearer a{b"),
            ("Basic x", "Basic x"),
            // Tokens in their own right.
            ("Bearer", "Bearer"),
            ("Bearerx", "Bearerx"),
            ("a{b", "a{b"),
            ("", ""),
        ] {
            assert_eq!(without_scheme(token), rest, "{token:?}");
        }
    }
}
