//! The end of a rate limit, by the headers of API gateways: `X-RateLimit-Reset` and its variants,
//! and `RateLimit` (draft-ietf-httpapi-ratelimit-headers, in its older and newer forms).
//!
//! Pure. Their values are seconds, or a point in time in seconds since 1970 or a fraction of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::retry_after::{delay, seconds};
use crate::token::instant;

/// The headers with the end of the limit, in the order in which they are tried.
const RESETS: [&str; 5] = [
    "ratelimit-reset",
    "x-ratelimit-reset",
    "x-rate-limit-reset",
    "x-ratelimit-reset-after",
    "x-rate-limit-reset-after",
];

/// The headers with the number of requests that are left.
const REMAINING: [&str; 3] =
    ["ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining"];

/// Returns the time until the server's rate limit ends. An end that has passed is ignored, since it
/// only shows that one of the clocks is wrong.
pub(super) fn reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if has_requests_left(headers) {
        return None;
    }
    let of_policies = || of_policies(headers).and_then(|text| until(&text, now));
    RESETS.into_iter().find_map(|name| longest(headers, name, now)).or_else(of_policies)
}

/// Returns `true` if the headers say that the limit is not used up. Gateways put them on every
/// response, so their reset is not the reason for a failure then.
fn has_requests_left(headers: &HeaderMap) -> bool {
    let lines = REMAINING.into_iter().flat_map(|name| headers.get_all(name));
    let mut left = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|text| seconds(text.trim()))
        .peekable();
    left.peek().is_some() && left.all(|left| left > 0.0)
}

/// Returns the longest delay in the header `name`, which may have one for each of several limits.
fn longest(headers: &HeaderMap, name: &str, now: SystemTime) -> Option<Duration> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| match httpdate::parse_http_date(line.trim()) {
            Ok(date) => vec![date.duration_since(now).ok()],
            Err(_) => line.split(',').map(|text| until(text, now)).collect(),
        })
        .flatten()
        .max()
}

/// Returns the delay that `text` stands for: seconds, or a point in time.
fn until(text: &str, now: SystemTime) -> Option<Duration> {
    let number = seconds(text.trim())?;
    match instant::seconds(number) {
        Some(end) => {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            delay(end - now)
        }
        None => delay(number),
    }
}

/// Returns the reset in `RateLimit`. The older drafts have a list of parameters
/// (`limit=10, remaining=0, reset=7`), the newer ones a list of policies, of which the exhausted
/// ones count (`"burst";r=0;t=7, "daily";r=9;t=3600`).
fn of_policies(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all("ratelimit").iter().filter_map(|line| line.to_str().ok());
    let mut longest: Option<(f64, &str)> = None;
    for policy in lines.flat_map(|line| line.split(',')) {
        let parameter = |names: [&str; 2]| {
            policy.split(';').find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                names.iter().any(|n| name.trim().eq_ignore_ascii_case(n)).then_some(value.trim())
            })
        };
        if parameter(["r", "remaining"]).and_then(seconds).is_some_and(|left| left > 0.0) {
            continue;
        }
        if let Some(text) = parameter(["t", "reset"])
            && let Some(number) = seconds(text)
            && longest.is_none_or(|(known, _)| number > known)
        {
            longest = Some((number, text));
        }
    }
    longest.map(|(_, text)| text.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// Tue, 14 Nov 2023 22:13:20 GMT
    const NOW: u64 = 1_700_000_000;

    /// Guards against a failure that is taken for a limit: gateways send these headers with all they
    /// answer.
    #[test]
    fn a_limit_that_is_not_used_up_says_nothing() {
        for (left, reset) in [("4999", None), ("0", Some(60)), ("0, 7", Some(60)), ("?", Some(60))]
        {
            for (name, reset_name) in [
                ("x-ratelimit-remaining", "x-ratelimit-reset"),
                ("ratelimit-remaining", "ratelimit-reset"),
                ("x-rate-limit-remaining", "x-rate-limit-reset"),
            ] {
                assert_eq!(of(&[(name, left), (reset_name, "60")]), reset, "{name}: {left}");
            }
        }
    }

    fn of(lines: &[(&'static str, &'static str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        reset(&headers, UNIX_EPOCH + Duration::from_secs(NOW)).map(|delay| delay.as_secs())
    }

    #[test]
    fn the_end_of_a_limit_is_seconds_or_a_point_in_time() {
        for name in RESETS {
            for (value, expected) in [
                ("7", Some(7)),
                (" 6.2 ", Some(7)),
                ("0", Some(0)),
                ("1700000060", Some(60)),
                ("1700000060.5", Some(61)),
                ("1700000060000", Some(60)),
                ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60)),
                ("5, 30", Some(30)),
                ("1e300", Some(u64::from(u32::MAX))),
                // It has passed by the local clock.
                ("1699999999", None),
                ("Tue, 14 Nov 2023 22:12:20 GMT", None),
                ("-1", None),
                ("inf", None),
                ("NaN", None),
                ("soon", None),
                ("", None),
            ] {
                assert_eq!(of(&[(name, value)]), expected, "{name}: {value}");
            }
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("x-ratelimit-reset", "5"), ("x-ratelimit-reset", "30")]), Some(30));
        assert_eq!(of(&[("x-ratelimit-reset", "soon"), ("ratelimit", "reset=5")]), Some(5));
    }

    #[test]
    fn rate_limit_is_read_in_each_of_its_drafts() {
        for (value, expected) in [
            ("limit=10, remaining=0, reset=7", Some(7)),
            ("limit=10,remaining=0,reset=1700000060", Some(60)),
            (r#""default";r=0;t=7"#, Some(7)),
            (r#""burst";r=0;t=7, "daily";r=9;t=3600"#, Some(7)),
            (r#""burst";r=0;t=7, "daily";r=0;t=3600"#, Some(3600)),
            (r#""daily"; r=0; T=3600"#, Some(3600)),
            (r#""default";t=7"#, Some(7)),
            (r#""default";r=5;t=7"#, None),
            (r#""default";r=0"#, None),
            ("reset=-1", None),
            ("reset=", None),
            (";;,,==", None),
        ] {
            assert_eq!(of(&[("ratelimit", value)]), expected, "{value}");
        }
    }
}
