//! How failures hold back the next attempt and the next renewal. Every function takes the facts
//! and returns a delay; nothing here reads a clock.

use std::time::Duration;

use crate::error::{ErrorClass, TokenError};
use crate::random::Random;

/// The longest `Retry-After` that is waited for within a renewal.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The longest time that any failure is remembered.
const MAX_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// The longest time that a transient failure is remembered while there is no usable token: at
/// first, and once an outage has lasted for [`LONG_OUTAGE`].
const MAX_UNSERVED: Duration = Duration::from_secs(4);
const MAX_UNSERVED_LATE: Duration = Duration::from_secs(10);
const LONG_OUTAGE: Duration = Duration::from_secs(300);

/// The time for which a failed renewal is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The delay while there is a usable token.
    pub(crate) while_usable: Duration,
    /// The delay while there is none.
    pub(crate) while_none: Duration,
}

/// Returns how long a failure holds back the next renewal.
///
/// `failures` counts consecutive failed renewals of one class, from one. `unserved` is how long
/// there has been no usable token.
pub(crate) fn backoff(
    class: ErrorClass,
    retry_after: Option<Duration>,
    failures: u32,
    unserved: Duration,
    random: &mut Random,
) -> Backoff {
    let secs = Duration::from_secs;
    let doubled = |first: u64, cap: u64| {
        secs(first).saturating_mul(1_u32 << failures.saturating_sub(1).min(20)).min(secs(cap))
    };
    let delay = match class {
        // A source that panics is interrupted, and backs off like a transient failure.
        ErrorClass::Transient | ErrorClass::Interrupted => {
            let most = if unserved < LONG_OUTAGE { MAX_UNSERVED } else { MAX_UNSERVED_LATE };
            let while_usable = random.spread(doubled(1, 60)).min(secs(60));
            let while_none = random.spread(doubled(1, 60)).min(random.spread_below(most));
            return Backoff { while_usable, while_none };
        }
        // The cache's own budget knows when the next request is allowed; this is for the budget of
        // a source.
        ErrorClass::Throttled | ErrorClass::Budget => {
            // Zero, or a date that has passed, does not permit a request for every call.
            let asked = retry_after.filter(|delay| !delay.is_zero());
            asked.unwrap_or_else(|| doubled(5, 120)).min(MAX_BACKOFF)
        }
        ErrorClass::Credentials => doubled(30, 600),
        ErrorClass::Request | ErrorClass::Origin | ErrorClass::Headers => secs(60),
        ErrorClass::Malformed => doubled(5, 60),
    };
    Backoff { while_usable: delay, while_none: delay }
}

/// The step that follows a failed attempt within one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask again after this delay.
    Retry(Duration),
    GiveUp,
}

/// Returns what follows the failed attempt `number` (from 1). A transient failure is tried
/// `attempts` times in all.
pub(crate) fn next_attempt(
    error: &TokenError,
    number: u32,
    attempts: u32,
    random: &mut Random,
) -> Next {
    match error.class() {
        ErrorClass::Transient if number < attempts => {
            let ceiling =
                Duration::from_millis(200).saturating_mul(1 << (2 * (number - 1)).min(20));
            Next::Retry(random.up_to(ceiling.min(Duration::from_secs(2))))
        }
        ErrorClass::Throttled | ErrorClass::Budget if number < 3 => match error.retry_after() {
            Some(delay) if delay <= MAX_WAIT => Next::Retry(delay),
            _ => Next::GiveUp,
        },
        // The source sends nothing unless the credentials have changed since they were refused.
        ErrorClass::Credentials if number < 2 && error.fingerprint().is_some() => {
            Next::Retry(Duration::ZERO)
        }
        ErrorClass::Malformed if number < 2 => Next::Retry(Duration::ZERO),
        _ => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn error(class: ErrorClass) -> TokenError {
        TokenError::new(class, "x")
    }

    #[test]
    fn backoff_is_by_class_and_capped() {
        let mut random = Random::seeded(3);
        let mut at = |class, failures| {
            let none = Duration::ZERO;
            backoff(class, None, failures, none, &mut random).while_usable
        };
        for class in [ErrorClass::Transient, ErrorClass::Interrupted] {
            for (n, base) in [(1, 1.0), (2, 2.0), (5, 16.0)] {
                let delay = at(class, n).as_secs_f64();
                assert!((base * 0.8..=base * 1.2).contains(&delay), "{n}: {delay}");
            }
            for n in 7..100 {
                assert!(at(class, n) <= secs(60.0));
            }
        }
        assert_eq!(at(ErrorClass::Credentials, 1), secs(30.0));
        assert_eq!(at(ErrorClass::Credentials, 2), secs(60.0));
        assert_eq!(at(ErrorClass::Credentials, u32::MAX), secs(600.0));
        assert_eq!(at(ErrorClass::Request, 9), secs(60.0));
        assert_eq!(at(ErrorClass::Malformed, 1), secs(5.0));
        assert_eq!(at(ErrorClass::Malformed, 40), secs(60.0));
        assert_eq!(at(ErrorClass::Throttled, 1), secs(5.0));
        assert_eq!(at(ErrorClass::Throttled, 40), secs(120.0));
        assert_eq!(at(ErrorClass::Budget, 2), secs(10.0));
    }

    #[test]
    fn retry_after_is_kept_up_to_a_quarter_of_an_hour() {
        let mut random = Random::seeded(3);
        for (asked, kept) in [(20.0, 20.0), (86_400.0, 900.0), (0.0, 5.0)] {
            let asked = Some(secs(asked));
            let delay = backoff(ErrorClass::Throttled, asked, 1, Duration::ZERO, &mut random);
            assert_eq!(delay, Backoff { while_usable: secs(kept), while_none: secs(kept) });
        }
    }

    /// Prevents calls from failing for up to a minute after the server has recovered.
    #[test]
    fn callers_without_a_token_are_held_back_for_seconds_at_the_most() {
        let mut random = Random::seeded(3);
        for n in 1..50 {
            for (unserved, most) in [(0.0, 4.0), (299.0, 4.0), (300.0, 10.0), (1e6, 10.0)] {
                let unserved = secs(unserved);
                let delay = backoff(ErrorClass::Transient, None, n, unserved, &mut random);
                assert!(delay.while_none <= secs(most), "{n}, {unserved:?}: {delay:?}");
                assert!(n < 4 || delay.while_none >= secs(most * 0.6), "{n}: {delay:?}");
            }
        }
    }

    #[test]
    fn attempts_within_a_renewal_are_by_class() {
        let mut random = Random::seeded(3);
        let transient = error(ErrorClass::Transient);
        let mut longest = Duration::ZERO;
        for _ in 0..1000 {
            for number in [1, 2] {
                let Next::Retry(delay) = next_attempt(&transient, number, 3, &mut random) else {
                    panic!("given up");
                };
                longest = longest.max(delay);
            }
        }
        assert!(longest > secs(0.5) && longest <= secs(2.0), "{longest:?}");
        let mut next = |error: &TokenError, number| next_attempt(error, number, 3, &mut random);
        assert_eq!(next(&transient, 3), Next::GiveUp);
        let soon = error(ErrorClass::Throttled).with_retry_after(secs(5.0));
        assert_eq!(next(&soon, 1), Next::Retry(secs(5.0)));
        let later = error(ErrorClass::Throttled).with_retry_after(secs(5.1));
        assert_eq!(next(&later, 1), Next::GiveUp);
        assert_eq!(next(&error(ErrorClass::Throttled), 1), Next::GiveUp);
        assert_eq!(next(&error(ErrorClass::Request), 1), Next::GiveUp);
        let malformed = error(ErrorClass::Malformed);
        assert_eq!(next(&malformed, 1), Next::Retry(Duration::ZERO));
        assert_eq!(next(&malformed, 2), Next::GiveUp);
        let refused = error(ErrorClass::Credentials);
        assert_eq!(next(&refused, 1), Next::GiveUp, "nothing to compare");
        let refused = refused.with_fingerprint(7);
        assert_eq!(next(&refused, 1), Next::Retry(Duration::ZERO));
        assert_eq!(next(&refused, 2), Next::GiveUp);
    }

    #[test]
    fn while_a_failure_is_remembered_a_renewal_makes_one_attempt() {
        let mut random = Random::seeded(3);
        let transient = error(ErrorClass::Transient);
        assert_eq!(next_attempt(&transient, 1, 1, &mut random), Next::GiveUp);
    }
}
