//! `Retry-After` (RFC 9110 section 10.2.3): for how long the server asks to be left alone.
//!
//! Pure. How much of it is honoured is the schedule's business.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};

/// "Forever": what a number too large to count with is taken for. Can be added to any time that a
/// clock of today shows without overflow.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The delay that `headers` ask for, if they ask for one that can be read. A date that has passed
/// is no delay at all.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // Digits that do not parse are too many digits.
        text.parse().map_or(FOREVER, Duration::from_secs)
    } else if let Ok(seconds) = text.parse::<f64>() {
        // Not in the RFC, but sent: a fraction. Rounded up, so as not to come too early.
        if !seconds.is_finite() || seconds < 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(FOREVER)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(FOREVER))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

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
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers, now), delay, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
