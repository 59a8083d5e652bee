//! Tokens whose announced lifetime is zero.
//!
//! Some servers write zero for "until revoked" or "unknown", others for a token that may be used
//! once. The latter do not issue the same token twice.

use std::hash::{BuildHasher, RandomState};

use crate::{
    clock::Now,
    token::{Lifetime, TokenResponse, jwt},
};

/// The last token that came with a lifetime of zero, by a keyed hash: the token itself is not kept.
#[derive(Debug, Default)]
pub(super) struct LastZero {
    key: RandomState,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    hash: u64,
    /// Whether it had a lifetime before, so that the zero is the rest of it.
    is_ending: bool,
}

impl LastZero {
    /// Returns the lifetime of `response`, which was requested at `t0`. A token that is issued with
    /// zero again has the lifetime of its claims, or an unknown one. `is_known` means that the
    /// token is in the cache already.
    pub(super) fn lifetime(
        &mut self,
        response: &TokenResponse,
        t0: Now,
        is_known: bool,
    ) -> Lifetime {
        let announced = response.lifetime();
        if announced != Lifetime::Of(std::time::Duration::ZERO) {
            return announced;
        }
        let hash = self.key.hash_one(response.expose_secret());
        match &self.last {
            Some(last) if last.hash == hash && last.is_ending => announced,
            Some(last) if last.hash == hash => {
                jwt::lifetime(response.expose_secret(), t0.system_time())
                    .map_or(Lifetime::Unknown, Lifetime::Of)
            }
            _ => {
                self.last = Some(Last { hash, is_ending: is_known });
                announced
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    const T0: Now = Now { mono: Duration::ZERO, wall: Duration::from_secs(1_700_000_000) };
    const ZERO: Lifetime = Lifetime::Of(Duration::ZERO);

    fn zero(token: &str) -> TokenResponse {
        TokenResponse::bearer(token).unwrap().expires_in(Duration::ZERO)
    }

    #[test]
    fn zero_for_the_same_token_again_is_no_lifetime() {
        let mut last = LastZero::default();
        assert_eq!(last.lifetime(&zero("a"), T0, false), ZERO);
        // By now it is in the cache.
        for is_known in [false, true, true] {
            assert_eq!(last.lifetime(&zero("a"), T0, is_known), Lifetime::Unknown);
        }
        for token in ["b", "a", "b"] {
            assert_eq!(last.lifetime(&zero(token), T0, false), ZERO, "each is new");
        }
    }

    #[test]
    fn zero_for_a_token_that_had_a_lifetime_is_its_end() {
        let mut last = LastZero::default();
        for is_known in [true, true, false] {
            assert_eq!(last.lifetime(&zero("a"), T0, is_known), ZERO);
        }
    }

    #[test]
    fn other_lifetimes_stay_and_one_use_is_meant() {
        let mut last = LastZero::default();
        for _ in 0..2 {
            let hour = TokenResponse::bearer("a").unwrap().expires_in(Duration::from_secs(3600));
            assert_eq!(last.lifetime(&hour, T0, false), hour.lifetime());
            let once = TokenResponse::bearer("b").unwrap().for_one_use();
            assert_eq!(last.lifetime(&once, T0, false), Lifetime::OneUse);
        }
    }

    #[test]
    fn a_jwt_that_comes_again_with_zero_has_the_lifetime_of_its_claims() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1700000000,"exp":1700000090}"#);
        let jwt = format!("eyJhbGciOiJub25lIn0.{payload}.c2ln");
        let mut last = LastZero::default();
        assert_eq!(last.lifetime(&zero(&jwt), T0, false), ZERO);
        let again = last.lifetime(&zero(&jwt), T0, false);
        assert_eq!(again, Lifetime::Of(Duration::from_secs(90)));
    }
}
