//! The circuit breaker of forced renewals: whether a rejection may force one, and when the next.
//!
//! A forced renewal is a *cure* if a replay with its token is accepted, and *ineffective* if a
//! request with its token is rejected again. Each ineffective one is followed by a longer pause: an
//! API that responds 401 to everything must not cause a stream of token requests. This is the
//! circuit breaker pattern with one request in the half-open state
//! (<https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker>).

use std::time::Duration;

use crate::policy::challenge::Evidence;

/// The time for which a forced token that was accepted, and never rejected, stays on probation.
/// (Where no request can be replayed, no replay can show a cure.)
const PROBATION: Duration = Duration::from_secs(60);

/// Before that, one rejection of such a token does not count if no replay has shown whether it is a
/// cure (the caller left, the body was not kept, the API failed). This exception applies once in
/// this time, or until the next cure.
const DOUBT: Duration = Duration::from_secs(600);

/// The most renewals that are forced in a row; then one per second is allowed, however many cures
/// there are. An API that responds 401 at random looks cured each time. So does each of two
/// replicas of a client whose server keeps only one token valid: they invalidate each other's token
/// with every call.
const MAX_BURST: u32 = 30;
const REFILL: Duration = Duration::from_secs(1);

/// The pause after the first ineffective renewal; it doubles up to one of the limits.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE_ACCEPTED: Duration = Duration::from_secs(60);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// The shortest pause while no request was accepted with the token. It may only be too new for the
/// API, and its successor would be newer still.
const MIN_PAUSE_UNACCEPTED: Duration = Duration::from_secs(60);

/// After this many ineffective renewals in a row, a 401 without `invalid_token` forces none for
/// [`WEAK_PAUSE`], as long as other requests are accepted with the token in each [`WINDOW`].
const MAX_WEAK: u32 = 5;
const WEAK_PAUSE: Duration = Duration::from_secs(15 * 60);
const WINDOW: Duration = Duration::from_secs(30);

/// The time without a rejection after which ineffective renewals are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Breaker {
    /// Ineffective renewals in a row.
    ineffective: u32,
    ineffective_at: Duration,
    /// The number of renewals that weak evidence has forced since the last cure, and that nothing
    /// has shown to be a cure.
    unproven: u32,
    /// The time of the last rejection since then that forced no renewal.
    refused_at: Duration,
    /// The time of the last rejection that was not held against a token on probation.
    doubted_at: Option<Duration>,
    token: Token,
    /// Forced renewals that count against the burst, as of `counted_at`.
    burst: u32,
    counted_at: Duration,
}

/// The facts about the newest token.
#[derive(Clone, Debug, PartialEq)]
struct Token {
    probation: Probation,
    since: Duration,
    /// Whether a request with it was accepted since it was watched.
    is_accepted: bool,
    /// Whether a request with it was accepted since the current window began.
    is_accepted_in_window: bool,
    window_ends: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probation {
    /// No rejection caused the renewal, or it was a cure.
    None,
    /// A rejection caused the renewal; no replay has shown yet whether it is a cure.
    Pending,
    /// A rejection caused the renewal, and the new token was rejected as well.
    Failed,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            ineffective: 0,
            ineffective_at: Duration::ZERO,
            unproven: 0,
            refused_at: Duration::ZERO,
            doubted_at: None,
            token: Token::new(Probation::None, Duration::ZERO),
            burst: 0,
            counted_at: Duration::ZERO,
        }
    }

    /// Records a new token. `forced` means that a rejection caused the renewal.
    pub(super) fn published(&mut self, forced: bool, now: Duration) {
        if forced {
            self.token = Token::new(Probation::Pending, now);
        } else {
            // Requests that were accepted with the token before it will be accepted with this one.
            self.token.probation = Probation::None;
            self.token.since = now;
        }
    }

    /// Records the rejection of a request with the newest token that is not a replay. Unless this
    /// is a new revocation, it shows that the renewal that fetched the token was ineffective.
    pub(super) fn rejected(&mut self, evidence: Evidence, now: Duration) {
        if self.token.probation != Probation::Pending {
            return;
        }
        let age = now.saturating_sub(self.token.since);
        // Callers that do not report responses never report an acceptance.
        if age >= MAX_PAUSE || self.token.is_accepted && age >= PROBATION {
            self.unproven = self.unproven.saturating_add(u32::from(evidence == Evidence::Weak));
            if self.unproven >= MAX_WEAK {
                self.ineffective = self.ineffective.max(MAX_WEAK - 1);
                self.ineffective(now);
            }
            return;
        }
        if self.token.is_accepted
            && self.doubted_at.is_none_or(|at| now.saturating_sub(at) >= DOUBT)
        {
            self.doubted_at = Some(now);
            return;
        }
        self.ineffective(now);
    }

    /// Records an ineffective renewal: a replay was rejected although its token was requested after
    /// the first rejection, or a forced renewal returned the rejected token again.
    pub(super) fn ineffective(&mut self, now: Duration) {
        if self.token.probation == Probation::Failed {
            return;
        }
        self.token.probation = Probation::Failed;
        self.ineffective = self.ineffective.saturating_add(1);
        self.ineffective_at = now;
        self.token.window_ends = now.saturating_add(WINDOW);
        self.token.is_accepted_in_window = false;
    }

    /// Records the acceptance of a replay with the newest token.
    pub(super) fn replay_accepted(&mut self) {
        if self.token.probation != Probation::None {
            self.token.probation = Probation::None;
            self.ineffective = 0;
            self.unproven = 0;
            self.doubted_at = None;
        }
        self.request_accepted();
    }

    /// Records the acceptance of a request with the newest token that is not a replay.
    pub(super) fn request_accepted(&mut self) {
        self.token.is_accepted = true;
        self.token.is_accepted_in_window = true;
    }

    /// Returns `true` if the breaker waits for a request to be accepted with the newest token.
    pub(super) fn is_watching(&self) -> bool {
        let is_closed = self.ineffective == 0 && self.token.probation == Probation::None;
        if is_closed || !self.token.is_accepted {
            return !is_closed;
        }
        self.ineffective >= MAX_WEAK && !self.token.is_accepted_in_window
    }

    /// Returns `true` if [`request_accepted`](Self::request_accepted) would change nothing.
    pub(super) fn knows_acceptance(&self) -> bool {
        self.token.is_accepted && self.token.is_accepted_in_window
    }

    /// Returns `true` if a replay with the newest token may be accepted.
    pub(super) fn is_promising(&self) -> bool {
        self.token.probation != Probation::Failed || self.token.is_accepted
    }

    /// Returns `true` if no forced renewal was ineffective since the last cure, or within
    /// [`FORGOTTEN_AFTER`].
    pub(super) fn is_trusting(&self) -> bool {
        self.ineffective == 0
    }

    /// Returns `true` if some requests are rejected whatever their token, while others are accepted
    /// with the newest.
    pub(super) fn knows_misuse(&self) -> bool {
        self.ineffective > 0 && self.token.is_accepted
    }

    /// Returns the time from which a renewal may be forced, if it is later than `now`.
    pub(super) fn cooldown_until(&mut self, evidence: Evidence, now: Duration) -> Option<Duration> {
        self.forget(now);
        let until = self.until(evidence, now);
        if until.is_some() {
            self.refused_at = now;
        }
        until
    }

    /// Forgets ineffective renewals once nothing has been rejected for a while: where an API lags
    /// behind new tokens, each revocation looks ineffective at first.
    fn forget(&mut self, now: Duration) {
        let last = self.ineffective_at.max(self.refused_at);
        if now.saturating_sub(last) >= FORGOTTEN_AFTER {
            self.ineffective = 0;
            self.unproven = 0;
            self.doubted_at = None;
            if self.token.is_accepted {
                self.token.probation = Probation::None;
            }
        }
    }

    fn until(&mut self, evidence: Evidence, now: Duration) -> Option<Duration> {
        let mut until = Duration::ZERO;
        if self.ineffective > 0 {
            let pause = pause(self.ineffective, self.token.is_accepted);
            until = self.ineffective_at.saturating_add(pause);
        }
        if self.ineffective >= MAX_WEAK && evidence == Evidence::Weak {
            until = until.max(self.weak_until(now));
        }
        if self.burst_at(now) >= MAX_BURST {
            until = until.max(self.counted_at.saturating_add(REFILL));
        }
        (until > now).then_some(until)
    }

    /// Returns the end of the window in which other requests were accepted with the token.
    fn weak_until(&mut self, now: Duration) -> Duration {
        let token = &mut self.token;
        if now >= token.window_ends && token.is_accepted_in_window {
            token.is_accepted_in_window = false;
            token.window_ends = now.saturating_add(WINDOW);
        }
        token.window_ends.min(self.ineffective_at.saturating_add(WEAK_PAUSE))
    }

    /// Returns the breaker's decisions at `now`, for the enumeration of states.
    #[cfg(test)]
    pub(super) fn summary(&self, now: Duration) -> String {
        let mut copy = self.clone();
        let strong = copy.cooldown_until(Evidence::Strong, now).is_some();
        let weak = copy.cooldown_until(Evidence::Weak, now).is_some();
        let token = &self.token;
        format!(
            "{:?} {} {} {} {strong} {weak} {}",
            token.probation,
            token.is_accepted,
            token.is_accepted_in_window,
            self.ineffective.min(6),
            self.doubted_at.is_some(),
        )
    }

    /// Records a forced renewal.
    pub(super) fn renewal_forced(&mut self, now: Duration) {
        self.burst = self.burst_at(now).saturating_add(1);
        self.counted_at = now;
    }

    fn burst_at(&self, now: Duration) -> u32 {
        let refilled = now.saturating_sub(self.counted_at).as_secs() / REFILL.as_secs();
        self.burst.saturating_sub(u32::try_from(refilled).unwrap_or(u32::MAX))
    }
}

impl Token {
    fn new(probation: Probation, since: Duration) -> Self {
        Self {
            probation,
            since,
            is_accepted: false,
            is_accepted_in_window: false,
            window_ends: Duration::ZERO,
        }
    }
}

/// The pause after the `n`-th ineffective renewal in a row (from 1).
fn pause(n: u32, is_accepted: bool) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32 << n.saturating_sub(1).min(20));
    if is_accepted {
        doubled.min(MAX_PAUSE_ACCEPTED)
    } else {
        doubled.clamp(MIN_PAUSE_UNACCEPTED, MAX_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: Evidence = Evidence::Strong;
    const WEAK: Evidence = Evidence::Weak;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A breaker whose newest token is the `n`-th in a row that was of no use, at 0 s.
    fn after(n: u32) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..n {
            breaker.published(true, at(0));
            breaker.ineffective(at(0));
        }
        breaker
    }

    fn is_news(breaker: &mut Breaker, now: Duration) -> bool {
        let before = breaker.ineffective;
        breaker.rejected(STRONG, now);
        breaker.ineffective == before
    }

    #[test]
    fn a_cure_makes_the_next_rejection_news_at_once() {
        let mut breaker = Breaker::new();
        for second in [0, 2, 4] {
            assert!(is_news(&mut breaker, at(second)));
            assert_eq!(breaker.cooldown_until(STRONG, at(second)), None);
            breaker.renewal_forced(at(second));
            breaker.published(true, at(second));
            breaker.replay_accepted();
        }
    }

    #[test]
    fn an_ineffective_renewal_starts_one_pause_however_many_replays_fail() {
        let mut breaker = Breaker::new();
        breaker.published(true, at(0));
        for _ in 0..500 {
            breaker.ineffective(at(1));
        }
        assert_eq!(breaker.cooldown_until(STRONG, at(1)), Some(at(61)));
        assert!(!breaker.is_promising());
        breaker.published(true, at(61));
        assert!(!is_news(&mut breaker, at(62)), "a first use of a forced token shows as much");
        assert_eq!(breaker.cooldown_until(STRONG, at(62)), Some(at(122)));
    }

    #[test]
    fn a_token_that_nobody_used_is_kept_for_a_minute() {
        let pauses: Vec<_> = (1..=7).map(|n| pause(n, false).as_secs()).collect();
        assert_eq!(pauses, [60, 60, 60, 80, 160, 300, 300]);
        let pauses: Vec<_> = (1..=5).map(|n| pause(n, true).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 60, 60]);
        assert_eq!(pause(u32::MAX, false), at(300));
    }

    #[test]
    fn an_api_that_refuses_everything_costs_eight_renewals_in_ten_minutes() {
        for (is_accepted, most) in [(false, 7), (true, 14)] {
            let (mut now, mut renewals) = (at(0), 0);
            while now < at(600) {
                renewals += 1;
                now += pause(renewals, is_accepted);
            }
            assert!(renewals <= most, "{renewals}");
        }
    }

    #[test]
    fn others_who_are_accepted_keep_the_pause_under_a_minute() {
        let mut breaker = after(6);
        assert_eq!(breaker.cooldown_until(STRONG, at(0)), Some(at(300)));
        assert!(breaker.is_watching());
        breaker.request_accepted();
        assert_eq!(breaker.cooldown_until(STRONG, at(0)), Some(at(60)));
        assert!(breaker.is_promising() && !breaker.is_watching() && breaker.knows_misuse());
        breaker.published(false, at(30));
        assert_eq!(breaker.cooldown_until(STRONG, at(30)), Some(at(60)), "kept across a renewal");
        breaker.replay_accepted();
        assert_eq!(breaker.cooldown_until(STRONG, at(30)), Some(at(60)), "no cure");
    }

    /// The windows: a misused 401 costs five renewals and then one in a quarter of an hour, and a
    /// revocation is still noticed within a minute.
    #[test]
    fn weak_evidence_forces_little_while_others_are_accepted() {
        let mut breaker = after(5);
        breaker.request_accepted();
        let mut now = at(0);
        while breaker.cooldown_until(WEAK, now).is_some() {
            if breaker.is_watching() {
                breaker.request_accepted();
            }
            now += at(1);
        }
        assert_eq!(now, at(900));
        assert_eq!(after(4).cooldown_until(WEAK, at(80)), None);

        for revoked_at in 0..120 {
            let mut breaker = after(5);
            let mut now = at(0);
            while breaker.cooldown_until(WEAK, now).is_some() {
                if breaker.is_watching() && now <= at(revoked_at) {
                    breaker.request_accepted();
                }
                now += at(1);
            }
            let took = now.saturating_sub(at(revoked_at));
            assert!(took <= at(61), "revoked at {revoked_at} s, not noticed for {took:?}");
        }
    }

    /// Pins the pauses that grow with each revocation at an API that lags behind new tokens.
    #[test]
    fn a_quarter_of_an_hour_without_a_rejection_begins_again() {
        let mut breaker = after(5);
        breaker.request_accepted();
        assert!(breaker.cooldown_until(WEAK, at(500)).is_some());
        assert!(breaker.cooldown_until(WEAK, at(1399)).is_none());
        assert!(!breaker.is_trusting(), "there was a rejection at 500 s");
        assert!(breaker.cooldown_until(WEAK, at(1400)).is_none());
        assert!(breaker.is_trusting() && !breaker.knows_misuse());
    }

    #[test]
    fn a_clear_word_is_bound_by_the_shorter_pauses_only() {
        let mut breaker = after(5);
        breaker.request_accepted();
        assert_eq!(breaker.cooldown_until(STRONG, at(60)), None);
        assert!(breaker.cooldown_until(WEAK, at(60)).is_some());
    }

    #[test]
    fn where_nothing_is_replayed_a_minute_of_acceptance_stands_for_a_cure() {
        let mut breaker = Breaker::new();
        breaker.published(true, at(0));
        breaker.request_accepted();
        assert!(is_news(&mut breaker, at(60)));
        breaker.published(true, at(61));
        breaker.request_accepted();
        assert!(is_news(&mut breaker, at(62)), "the benefit of the doubt");
        breaker.published(true, at(63));
        breaker.request_accepted();
        assert!(!is_news(&mut breaker, at(122)), "once, and not a second less than a minute");
        breaker.published(true, at(661));
        assert!(!is_news(&mut breaker, at(662)), "none has accepted it");
        breaker.published(true, at(663));
        breaker.request_accepted();
        assert!(is_news(&mut breaker, at(664)), "and ten minutes later once more");
        breaker.published(true, at(665));
        breaker.replay_accepted();
        breaker.published(true, at(666));
        breaker.request_accepted();
        assert!(is_news(&mut breaker, at(667)), "also after a cure");
    }

    /// Pins the renewal a minute for requests that cannot be replayed: nothing shows that it helps.
    #[test]
    fn without_replays_weak_evidence_forces_five_and_then_one_a_quarter_of_an_hour() {
        let mut breaker = Breaker::new();
        let mut forced = 0;
        for minute in 0..60 {
            let now = at(62 * minute);
            breaker.rejected(WEAK, now);
            if breaker.cooldown_until(WEAK, now).is_none() {
                forced += 1;
                breaker.renewal_forced(now);
                breaker.published(true, now);
            }
            breaker.request_accepted();
        }
        assert!((6..=10).contains(&forced), "{forced} in an hour");
    }

    /// Pins the pause after a revocation for callers who never report an acceptance.
    #[test]
    fn a_rejection_is_news_after_five_minutes_though_nobody_was_seen_accepted() {
        let mut breaker = Breaker::new();
        breaker.published(true, at(0));
        assert!(is_news(&mut breaker, at(300)));
        breaker.published(true, at(301));
        assert!(!is_news(&mut breaker, at(600)));
    }

    #[test]
    fn an_api_that_rejects_at_random_is_held_to_one_renewal_a_second() {
        let mut breaker = Breaker::new();
        let mut forced = 0;
        for millis in 0..600_000_u64 {
            let now = Duration::from_millis(millis);
            if is_news(&mut breaker, now) && breaker.cooldown_until(STRONG, now).is_none() {
                forced += 1;
                breaker.renewal_forced(now);
                breaker.published(true, now);
                breaker.replay_accepted();
            }
        }
        assert!((600..=640).contains(&forced), "{forced}");
    }
}
