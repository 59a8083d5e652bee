//! The lifetime of a token, by all fields of a token response.
//!
//! Pure. The cache caps it (`max_lifetime`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;

use super::{
    dialect::ZeroExpiresIn,
    json::{Object, number},
};
use crate::token::{Lifetime, instant, jwt};

/// The largest number that is always seconds: 30 days.
const SURELY_SECONDS: f64 = 30.0 * 86_400.0;

/// The smallest number that is always milliseconds: 400 days in seconds, more than nine hours in
/// milliseconds.
const SURELY_MILLISECONDS: f64 = 400.0 * 86_400.0;

/// The lifetime that replaces a longer one. It can be added to any time without overflow.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// Returns the lifetime of `token`: that of its `expires_in`, or of the point in time that `answer`
/// has instead, or that of its own claims if it is a JWT and they give a shorter one.
pub(super) fn lifetime(
    expires_in: Option<&RawValue>,
    answer: &Object<'_>,
    token: &str,
    zero: Option<ZeroExpiresIn>,
    now: SystemTime,
) -> Lifetime {
    let announced = match expires_in.and_then(number) {
        Some(number) => read(number, now),
        None => end(answer).and_then(|end| left(end, now)),
    };
    let announced = match (announced, zero) {
        (Some(Duration::ZERO), Some(ZeroExpiresIn::OneUse)) => return Lifetime::OneUse,
        (Some(Duration::ZERO), Some(ZeroExpiresIn::Unknown)) => None,
        (announced, _) => announced,
    };
    let lifetime = announced.into_iter().chain(jwt::lifetime(token, now)).min();
    lifetime.map_or(Lifetime::Unknown, Lifetime::Of)
}

/// Returns the lifetime that a number in `expires_in` stands for. RFC 6749 section 5.1 has seconds;
/// some servers have milliseconds, or the point in time of the expiry.
fn read(number: f64, now: SystemTime) -> Option<Duration> {
    if number <= SURELY_SECONDS {
        return Some(seconds(number));
    }
    let is_whole_days_in_milliseconds = number % 86_400_000.0 == 0.0;
    if let Some(end) = instant::seconds(number)
        && !is_whole_days_in_milliseconds
    {
        return left(end, now);
    }
    // Twenty-four hours less a millisecond, an hour, fifty-nine seconds of a minute. Sixty days and
    // a year in seconds are no whole minutes in milliseconds.
    let is_whole_minutes = matches!(number % 60_000.0, rest if rest == 0.0 || rest >= 59_000.0);
    if number > SURELY_MILLISECONDS || is_whole_minutes {
        Some(seconds((number / 1000.0).round()))
    } else {
        Some(seconds(number))
    }
}

/// Returns the point in time at which the token expires, as Azure (`expires_on`) and others give
/// it, in seconds since 1970.
fn end(answer: &Object<'_>) -> Option<f64> {
    let at = ["expires_at", "expires_on"]
        .into_iter()
        .find_map(|name| answer.first(name).and_then(number))?;
    Some(instant::seconds(at).unwrap_or(at))
}

/// The shortest time that a point in time must leave to count, in seconds. The same holds for the
/// `exp` of a JWT.
const MIN_LEFT: f64 = 60.0;

/// Returns the time from `now` to `end`. It depends on the local clock, so `expires_in` is better.
/// An end that has passed, or nearly so, shows that the local clock is ahead, and says nothing about
/// the lifetime: using it would cost a token request for each call.
fn left(end: f64, now: SystemTime) -> Option<Duration> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (end - now > MIN_LEFT).then(|| seconds(end - now))
}

/// Returns whole seconds, at least zero.
fn seconds(number: f64) -> Duration {
    if number < 0.0 {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(number.floor()).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    /// Tue, 14 Nov 2023 22:13:20 GMT
    const NOW: u64 = 1_700_000_000;

    const DAY: u64 = 86_400;

    fn of(fields: &str, token: &str, zero: Option<ZeroExpiresIn>) -> Lifetime {
        let body = format!("{{{fields}}}");
        let answer = Object::parse(body.as_bytes()).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        lifetime(answer.at("expires_in").unwrap(), &answer, token, zero, now)
    }

    fn secs(n: u64) -> Lifetime {
        Lifetime::Of(Duration::from_secs(n))
    }

    #[test]
    fn lifetimes_in_every_form() {
        let longest = Lifetime::Of(LONGEST);
        for (fields, lifetime) in [
            (r#""expires_in":3600"#, secs(3600)),
            (r#""expires_in":3600.9"#, secs(3600)),
            (r#""expires_in":"3600""#, secs(3600)),
            (r#""expires_in":" 3600.5 ""#, secs(3600)),
            (r#""expires_in":0"#, secs(0)),
            (r#""expires_in":-1"#, secs(0)),
            (r#""expires_in":"-1""#, secs(0)),
            (r#""expires_in":-1e400"#, secs(0)),
            (r#""expires_in":1e400"#, longest),
            (r#""expires_in":99999999999999999999999999999"#, longest),
            (r#""expires_in":null"#, Lifetime::Unknown),
            (r#""expires_in":"soon""#, Lifetime::Unknown),
            (r#""expires_in":{}"#, Lifetime::Unknown),
            (r#""expires_at":1700000090"#, secs(90)),
            // A clock that is nearly a lifetime ahead.
            (r#""expires_at":1700000060"#, Lifetime::Unknown),
            (r#""expires_at":1700000090000"#, secs(90)),
            // In the year 2290.
            (r#""expires_at":1.01e10"#, longest),
            (r#""expires_on":"1700000090""#, secs(90)),
            (r#""expires_on":"1700000003""#, Lifetime::Unknown),
            (r#""expires_at":1600000000"#, Lifetime::Unknown),
            (r#""expires_on":"1699999999""#, Lifetime::Unknown),
            (r#""expires_on":1700000000000"#, Lifetime::Unknown),
            (r#""expires_at":1e400"#, longest),
            (r#""expires_at":0"#, Lifetime::Unknown),
            (r#""expires_on":"tomorrow""#, Lifetime::Unknown),
            (r#""expires_in":10,"expires_at":1700000060"#, secs(10)),
            (r#""expires_in":null,"expires_at":1700000090"#, secs(90)),
            (r#""x":1"#, Lifetime::Unknown),
        ] {
            assert_eq!(of(fields, "x", None), lifetime, "{fields}");
        }
    }

    #[test]
    fn milliseconds_and_points_in_time_are_told_from_seconds() {
        for (expires_in, lifetime) in [
            // Seconds, however many.
            ("2591999", secs(30 * DAY - 1)),
            ("2592000", secs(30 * DAY)),
            ("5184000", secs(60 * DAY)),
            ("5183999", secs(60 * DAY - 1)),
            ("5011271", secs(5_011_271)),
            ("7776000", secs(90 * DAY)),
            ("15552000", secs(180 * DAY)),
            ("31536000", secs(365 * DAY)),
            ("31622400", secs(366 * DAY)),
            // Milliseconds: an hour, two, ten, twelve, a day, a week, two, thirty days.
            ("3600000", secs(3600)),
            ("3599999", secs(3600)),
            ("\"3599000\"", secs(3599)),
            ("7200000", secs(7200)),
            ("35999999.0", secs(36_000)),
            ("43200000", secs(DAY / 2)),
            ("86399999", secs(DAY)),
            ("86399123", secs(DAY - 1)),
            ("604800000", secs(7 * DAY)),
            ("1209600000", secs(14 * DAY)),
            ("2592000000", secs(30 * DAY)),
            // Points in time.
            ("1700003600", secs(3600)),
            ("\"1700003600\"", secs(3600)),
            ("1700003600000", secs(3600)),
            ("1700003600500", secs(3600)),
            ("1700003600000000", secs(3600)),
            ("1699999999", Lifetime::Unknown),
            ("1699999999000", Lifetime::Unknown),
        ] {
            assert_eq!(
                of(&format!(r#""expires_in":{expires_in}"#), "x", None),
                lifetime,
                "{expires_in}"
            );
        }
    }

    #[test]
    fn the_shorter_of_expires_in_and_the_claims_of_a_jwt_rules() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1600000000,"exp":1600000090}"#);
        let jwt = format!("eyJhbGciOiJub25lIn0.{payload}.c2ln");
        for (fields, lifetime) in [
            ("", secs(90)),
            (r#""expires_in":5"#, secs(5)),
            (r#""expires_in":3600"#, secs(90)),
            (r#""expires_in":86399999"#, secs(90)),
            (r#""expires_in":1e400"#, secs(90)),
            (r#""expires_at":1700000070"#, secs(70)),
            (r#""expires_in":0"#, secs(0)),
        ] {
            assert_eq!(of(fields, &jwt, None), lifetime, "{fields}");
        }
        // By the local clock it is half over.
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1699998200,"exp":1700001800}"#);
        let jwt = format!("eyJhbGciOiJub25lIn0.{payload}.c2ln");
        assert_eq!(of(r#""expires_in":3600"#, &jwt, None), secs(1800));
    }

    #[test]
    fn zero_has_the_meaning_that_is_set() {
        use ZeroExpiresIn::{OneUse, Unknown};
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1600000000,"exp":1600000090}"#);
        let jwt = format!("eyJhbGciOiJub25lIn0.{payload}.c2ln");
        for zero in ["0", "\"0\"", "-1", "0.9"] {
            let fields = format!(r#""expires_in":{zero}"#);
            assert_eq!(of(&fields, "x", None), secs(0), "{zero}");
            assert_eq!(of(&fields, "x", Some(Unknown)), Lifetime::Unknown, "{zero}");
            assert_eq!(of(&fields, &jwt, Some(Unknown)), secs(90), "{zero}");
            assert_eq!(of(&fields, &jwt, Some(OneUse)), Lifetime::OneUse, "{zero}");
        }
        for meaning in [Unknown, OneUse] {
            assert_eq!(of(r#""expires_in":5"#, "x", Some(meaning)), secs(5));
            assert_eq!(of("", "x", Some(meaning)), Lifetime::Unknown);
        }
    }
}
