//! Points in time as servers write them: numbers of seconds since 1970, or of a fraction of one.
//!
//! Pure. The result does not depend on the current time.

/// July 2017 to February 2103, in seconds since 1970.
const PLAUSIBLE: std::ops::Range<f64> = 1.5e9..4.2e9;

/// The number of units in a second, for seconds, milliseconds, microseconds and nanoseconds.
const UNITS: [f64; 4] = [1.0, 1e3, 1e6, 1e9];

/// Returns `number` as a point in time in seconds since 1970, if that is plausible. It may be in
/// seconds, milliseconds, microseconds or nanoseconds; the plausible ranges do not overlap.
pub(crate) fn seconds(number: f64) -> Option<f64> {
    UNITS.into_iter().map(|unit| number / unit).find(|seconds| PLAUSIBLE.contains(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_point_in_time_follows_from_its_size() {
        for (number, expected) in [
            (1_764_000_000.0, Some(1_764_000_000.0)),
            (1_764_000_000_500.0, Some(1_764_000_000.5)),
            (1.764e15, Some(1.764e9)),
            (1.764e18, Some(1.764e9)),
            (3600.0, None),
            (86_399_999.0, None),
            (1.0e10, None),
            (-1.764e9, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(seconds(number), expected, "{number}");
        }
    }
}
