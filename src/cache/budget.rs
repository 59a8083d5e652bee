//! The issuance budget: a limit on the token requests in any period that may have issued a token,
//! for providers that limit or bill them. A fifth is reserved for calls that have no token at all.

use std::{collections::VecDeque, time::Duration};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    tokens: u32,
    per: Duration,
    /// The times of the requests of the last period. At most `tokens`.
    spent: VecDeque<Duration>,
    /// No request is made before this time: one is in flight, or one was wasted.
    paused_until: Duration,
}

/// The use of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A caller has no usable token.
    Needed,
    /// There is a usable token, and a newer one would replace it.
    Convenience,
}

impl Budget {
    pub(crate) fn new(tokens: u32, per: Duration) -> Self {
        Self { tokens, per, spent: VecDeque::new(), paused_until: Duration::ZERO }
    }

    /// Reserves one request for `purpose`, or returns the time from which one is allowed. The
    /// caller reports how the request ended with [`succeeded`](Self::succeeded),
    /// [`wasted`](Self::wasted) or [`refund`](Self::refund); without any of them (a panic, an
    /// aborted task) it counts as wasted.
    pub(crate) fn reserve(&mut self, purpose: Purpose, now: Duration) -> Result<(), Duration> {
        while self.spent.front().is_some_and(|at| at.saturating_add(self.per) <= now) {
            self.spent.pop_front();
        }
        if now < self.paused_until {
            return Err(self.paused_until);
        }
        let kept_back = match purpose {
            Purpose::Needed => 0,
            Purpose::Convenience => self.tokens.div_ceil(5),
        };
        let allowed = (self.tokens - kept_back) as usize;
        if let Some(excess) = self.spent.len().checked_sub(allowed) {
            // A request is allowed again once the oldest of those in excess has left the period.
            let at = self.spent.get(excess).copied().unwrap_or(now);
            return Err(at.saturating_add(self.per));
        }
        self.spent.push_back(now);
        self.wasted(now);
        Ok(())
    }

    /// Records that a token arrived.
    pub(crate) fn succeeded(&mut self) {
        self.end_pause();
    }

    /// Ends the pause that the last request began.
    pub(crate) fn end_pause(&mut self) {
        self.paused_until = Duration::ZERO;
    }

    /// Records a request that may have issued a token but returned none. A tenth of the average
    /// interval passes before the next request, so that a short outage does not spend the budget.
    pub(crate) fn wasted(&mut self, now: Duration) {
        self.paused_until = self.paused_until.max(now.saturating_add(self.pause()));
    }

    /// Returns the request made at `at` to the budget: it cannot have issued a token.
    pub(crate) fn refund(&mut self, at: Duration) {
        if let Some(place) = self.spent.iter().rposition(|&spent| spent == at) {
            self.spent.remove(place);
        }
        // Another request may have begun a later pause since.
        if self.paused_until == at.saturating_add(self.pause()) {
            self.paused_until = Duration::ZERO;
        }
    }

    fn pause(&self) -> Duration {
        self.per / self.tokens.saturating_mul(10).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn issue(budget: &mut Budget, purpose: Purpose, now: Duration) -> Result<(), Duration> {
        budget.reserve(purpose, now)?;
        budget.succeeded();
        Ok(())
    }

    #[test]
    fn convenience_gives_way_first_and_a_fifth_is_kept() {
        let mut budget = Budget::new(10, at(100));
        for second in 0..8 {
            assert_eq!(issue(&mut budget, Purpose::Convenience, at(second)), Ok(()));
        }
        assert_eq!(issue(&mut budget, Purpose::Convenience, at(8)), Err(at(100)));
        for second in [8, 9] {
            assert_eq!(issue(&mut budget, Purpose::Needed, at(second)), Ok(()));
        }
        assert_eq!(issue(&mut budget, Purpose::Needed, at(10)), Err(at(100)));
        assert_eq!(issue(&mut budget, Purpose::Convenience, at(10)), Err(at(102)));
        assert_eq!(issue(&mut budget, Purpose::Needed, at(100)), Ok(()));
    }

    #[test]
    fn no_period_has_more_than_the_budget_however_requests_end() {
        let mut budget = Budget::new(3, at(10));
        let mut spent = Vec::new();
        for second in 0..200 {
            if budget.reserve(Purpose::Needed, at(second)).is_ok() {
                match second % 3 {
                    0 => budget.succeeded(),
                    1 => budget.wasted(at(second)),
                    _ => {}
                }
                spent.push(second);
            }
        }
        for window in spent.windows(4) {
            assert!(window[3] - window[0] >= 10, "{window:?}");
        }
    }

    #[test]
    fn a_budget_of_one_is_for_need_alone() {
        let mut budget = Budget::new(1, at(10));
        assert_eq!(issue(&mut budget, Purpose::Convenience, at(0)), Err(at(10)));
        assert_eq!(issue(&mut budget, Purpose::Needed, at(0)), Ok(()));
        let mut none = Budget::new(0, at(10));
        assert_eq!(issue(&mut none, Purpose::Needed, at(0)), Err(at(10)));
    }

    #[test]
    fn a_wasted_request_is_followed_by_a_pause_and_a_free_one_is_not() {
        let mut budget = Budget::new(24, at(86_400));
        assert_eq!(budget.reserve(Purpose::Needed, at(0)), Ok(()));
        assert_eq!(budget.reserve(Purpose::Needed, at(1)), Err(at(360)), "it is under way");
        budget.wasted(at(30));
        assert_eq!(budget.reserve(Purpose::Needed, at(389)), Err(at(390)));
        assert_eq!(budget.reserve(Purpose::Needed, at(390)), Ok(()));
        budget.refund(at(390));
        assert_eq!(budget.reserve(Purpose::Needed, at(390)), Ok(()));
        assert_eq!(budget.spent.len(), 2);
    }

    /// Pins the third token of two: the slower of two attempts was given back the other's place.
    #[test]
    fn a_free_attempt_gives_back_its_own_place_and_no_other() {
        let mut budget = Budget::new(2, at(60));
        assert_eq!(budget.reserve(Purpose::Needed, at(0)), Ok(()));
        assert_eq!(budget.reserve(Purpose::Needed, at(10)), Ok(()));
        budget.refund(at(0));
        budget.succeeded();
        assert_eq!(budget.reserve(Purpose::Needed, at(60)), Ok(()));
        budget.succeeded();
        assert_eq!(budget.reserve(Purpose::Needed, at(64)), Err(at(70)), "that of 10 s");
        budget.refund(at(60));
        assert!(budget.paused_until <= at(64), "{budget:?}");
    }
}
