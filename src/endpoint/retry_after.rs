//! The delay that the server asks for: `Retry-After` (RFC 9110 section 10.2.3), or the equivalent
//! headers of API gateways.
//!
//! Pure. `cache::backoff` caps it.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER, response::Parts};

use super::rate_limit;

/// The delay that replaces a longer one. It can be added to any time that a present clock shows
/// without overflow.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Returns the delay that a response asks for, if it is readable: by `Retry-After`, or for 429 and
/// 503 without it, by the end of the rate limit.
pub(super) fn retry_after(parts: &Parts, now: SystemTime) -> Option<Duration> {
    of_header(&parts.headers, now).or_else(|| match parts.status.as_u16() {
        429 | 503 => rate_limit::reset(&parts.headers, now),
        _ => None,
    })
}

/// Returns the delay of `Retry-After`. A date that has passed counts as none.
fn of_header(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match seconds(text) {
        Some(seconds) => delay(seconds),
        None => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default().min(FOREVER))
        }
    }
}

/// Returns the number in `text`. Fractions are not in the RFC, but some servers send them.
pub(super) fn seconds(text: &str) -> Option<f64> {
    // Rust reads "inf" and "nan" as numbers.
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Returns `seconds` rounded up, so as not to retry too early; `None` if they are negative.
pub(super) fn delay(seconds: f64) -> Option<Duration> {
    let is_delay = seconds >= 0.0;
    let delay = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(FOREVER).min(FOREVER);
    is_delay.then_some(delay)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderValue, Response};

    use super::*;

    #[test]
    fn seconds_dates_and_absurd_values() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let secs = |n| Some(Duration::from_secs(n));
        for (value, delay) in [
            ("120", secs(120)),
            (" 0 ", secs(0)),
            ("1.2", secs(2)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", secs(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", secs(30)),
            ("Sun Nov  6 08:50:07 1994", secs(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", secs(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(FOREVER)),
            ("18446744073709551615", Some(FOREVER)),
            ("99999999999999999999999999", Some(FOREVER)),
            ("1e30", Some(FOREVER)),
            ("-5", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
            ("soon", None),
        ] {
            // Also where no rate limit is read.
            let (mut parts, ()) = Response::builder().status(400).body(()).unwrap().into_parts();
            parts.headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&parts, now), delay, "{value:?}");
        }
    }

    #[test]
    fn a_rate_limit_is_read_for_429_and_503_without_a_retry_after() {
        let secs = |n| Some(Duration::from_secs(n));
        for (status, headers, delay) in [
            (429, [("x-ratelimit-reset", "7")].as_slice(), secs(7)),
            (503, &[("x-ratelimit-reset", "7")], secs(7)),
            (429, &[("x-ratelimit-reset", "7"), ("retry-after", "3")], secs(3)),
            (429, &[("x-ratelimit-reset", "7"), ("retry-after", "soon")], secs(7)),
            (200, &[("x-ratelimit-reset", "7")], None),
            (401, &[("x-ratelimit-reset", "7")], None),
            (500, &[("x-ratelimit-reset", "7")], None),
            (429, &[], None),
        ] {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            let (parts, ()) = response.body(()).unwrap().into_parts();
            assert_eq!(retry_after(&parts, UNIX_EPOCH), delay, "{status} {headers:?}");
        }
    }
}
