//! The issuance budget: at most so many tokens in any period, for providers that limit or bill
//! them. A fifth is kept back for calls that have no token at all.

use std::{collections::VecDeque, time::Duration};

#[derive(Debug)]
pub(crate) struct Budget {
    tokens: u32,
    per: Duration,
    /// When the tokens of the last period were issued.
    issued: VecDeque<Duration>,
}

/// What a token is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody has no usable token.
    Needed,
    /// There is a usable one; this one would be newer.
    Convenience,
}

impl Budget {
    pub(crate) fn new(tokens: u32, per: Duration) -> Self {
        Self { tokens, per, issued: VecDeque::new() }
    }

    /// Is there a token left for `purpose`? If not, from when on there will be.
    pub(crate) fn check(&mut self, purpose: Purpose, now: Duration) -> Result<(), Duration> {
        while self.issued.front().is_some_and(|at| at.saturating_add(self.per) <= now) {
            self.issued.pop_front();
        }
        let reserve = match purpose {
            Purpose::Needed => 0,
            Purpose::Convenience => self.tokens.div_ceil(5),
        };
        let allowed = (self.tokens - reserve) as usize;
        match self.issued.len().checked_sub(allowed) {
            None => Ok(()),
            // The budget has room again when the oldest of those in excess has left the period.
            Some(excess) => Err(self
                .issued
                .get(excess)
                .map_or(now.saturating_add(self.per), |at| at.saturating_add(self.per))),
        }
    }

    pub(crate) fn spend(&mut self, now: Duration) {
        self.issued.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn convenience_gives_way_first_and_a_fifth_is_kept() {
        let mut budget = Budget::new(10, at(100));
        for second in 0..8 {
            assert_eq!(budget.check(Purpose::Convenience, at(second)), Ok(()));
            budget.spend(at(second));
        }
        assert_eq!(budget.check(Purpose::Convenience, at(8)), Err(at(100)));
        for second in [8, 9] {
            assert_eq!(budget.check(Purpose::Needed, at(second)), Ok(()));
            budget.spend(at(second));
        }
        assert_eq!(budget.check(Purpose::Needed, at(10)), Err(at(100)));
        assert_eq!(budget.check(Purpose::Convenience, at(10)), Err(at(102)));
        assert_eq!(budget.check(Purpose::Needed, at(100)), Ok(()));
    }

    #[test]
    fn no_period_has_more_than_the_budget() {
        let mut budget = Budget::new(3, at(10));
        let mut issued = Vec::new();
        for second in 0..200 {
            if budget.check(Purpose::Needed, at(second)).is_ok() {
                budget.spend(at(second));
                issued.push(second);
            }
        }
        for window in issued.windows(4) {
            assert!(window[3] - window[0] >= 10, "{window:?}");
        }
    }

    #[test]
    fn a_budget_of_one_is_for_need_alone() {
        let mut budget = Budget::new(1, at(10));
        assert_eq!(budget.check(Purpose::Convenience, at(0)), Err(at(10)));
        assert_eq!(budget.check(Purpose::Needed, at(0)), Ok(()));
        let mut none = Budget::new(0, at(10));
        assert_eq!(none.check(Purpose::Needed, at(0)), Err(at(10)));
    }
}
