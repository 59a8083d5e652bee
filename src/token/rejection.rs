//! What rejections have taught so far: whether a renewal may be forced by one, and when the next.
//!
//! A forced renewal is a cure when a replay with its token is accepted, and futile when a request
//! with its token is rejected again. After a futile one comes a pause, doubling: an API that
//! answers 401 to everything must not turn into a stream of token requests.

use std::time::Duration;

use super::schedule::{Accepted, cooldown};

/// How long a forced token, accepted by some requests and rejected by none, has to stand until a
/// rejection of it is news. (Where no request can be replayed, no replay can tell of a cure.)
const PROBATION: Duration = Duration::from_secs(60);

/// Before that, such a token has the benefit of the doubt if no replay has told of it (its caller has
/// left, its body was not kept, the API broke): once in so long a time, or until the next cure.
const DOUBT: Duration = Duration::from_secs(600);

/// However many cures there are, no more renewals are forced in a row than this, and then one
/// every two seconds: an API that answers 401 at random looks cured each time.
const MAX_BURST: u32 = 30;
const REFILL: Duration = Duration::from_secs(2);

/// What the response says of the token it rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staleness {
    /// That it is invalid, in so many words.
    Invalid,
    /// No more than that the request was not authorized.
    Unclear,
}

/// Whether a request was sent for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    First,
    Replay,
}

#[derive(Debug)]
pub(crate) struct Rejections {
    /// Futile renewals in a row.
    futile: u32,
    futile_at: Duration,
    /// When a token last had the benefit of the doubt.
    doubted_at: Option<Duration>,
    token: Token,
    /// Forced renewals that count against the burst, as of `counted_at`.
    burst: u32,
    counted_at: Duration,
}

/// What is known of the current token.
#[derive(Debug)]
struct Token {
    trial: Trial,
    since: Duration,
    /// A request with it was accepted since it came to be watched.
    accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// It did not come of a rejection, or it has cured one.
    None,
    /// It came of a rejection; no replay has told yet.
    Pending,
    /// It came of a rejection and was itself rejected.
    Failed,
}

impl Rejections {
    pub(crate) fn new() -> Self {
        Self {
            futile: 0,
            futile_at: Duration::ZERO,
            doubted_at: None,
            token: Token { trial: Trial::None, since: Duration::ZERO, accepted: false },
            burst: 0,
            counted_at: Duration::ZERO,
        }
    }

    /// A new token is current. `forced`: a rejection brought it.
    pub(crate) fn published(&mut self, forced: bool, now: Duration) {
        if forced {
            self.token = Token { trial: Trial::Pending, since: now, accepted: false };
        } else {
            // An ordinary renewal says nothing about the API: who accepted the token before it
            // will accept this one.
            self.token.trial = Trial::None;
            self.token.since = now;
        }
    }

    /// The current token was rejected by a request that is not a replay. Is that news, or the
    /// proof that the renewal which brought it was futile?
    pub(crate) fn rejected(&mut self, now: Duration) -> bool {
        match self.token.trial {
            Trial::None => true,
            Trial::Failed => true,
            Trial::Pending
                if self.token.accepted && now.saturating_sub(self.token.since) >= PROBATION =>
            {
                true
            }
            Trial::Pending if self.token.accepted && self.may_doubt(now) => {
                self.doubted_at = Some(now);
                true
            }
            Trial::Pending => {
                self.fail(now);
                false
            }
        }
    }

    /// The token that one for one use stands in for was rejected once more. Of that one it says
    /// nothing, as its replay may be under way: the benefit of the doubt, as above.
    pub(crate) fn rejected_beside(&mut self, now: Duration) {
        if self.token.trial == Trial::Pending && self.may_doubt(now) {
            self.doubted_at = Some(now);
        } else {
            self.rejected(now);
        }
    }

    fn may_doubt(&self, now: Duration) -> bool {
        self.doubted_at.is_none_or(|at| now.saturating_sub(at) >= DOUBT)
    }

    /// The current token was rejected by a replay.
    ///
    /// True if that is how a forced renewal turns out futile; false if the token was not on trial,
    /// and this is a rejection like any other.
    pub(crate) fn replay_rejected(&mut self, now: Duration) -> bool {
        if self.token.trial == Trial::Pending {
            self.fail(now);
        }
        self.token.trial == Trial::Failed
    }

    fn fail(&mut self, now: Duration) {
        self.token.trial = Trial::Failed;
        self.futile = self.futile.saturating_add(1);
        self.futile_at = now;
    }

    /// The renewal brought the token that was rejected.
    pub(crate) fn same_token(&mut self, now: Duration) {
        self.replay_rejected(now);
    }

    /// The current token was accepted by a replay.
    pub(crate) fn cured(&mut self) {
        if self.token.trial != Trial::None {
            self.token.trial = Trial::None;
            self.futile = 0;
            self.doubted_at = None;
        }
        self.token.accepted = true;
    }

    /// The current token was accepted by a request that is not a replay.
    pub(crate) fn accepted(&mut self) {
        self.token.accepted = true;
    }

    /// A request with the current token was accepted since it came to be watched.
    pub(crate) fn is_accepted(&self) -> bool {
        self.token.accepted
    }

    /// Is it of interest whether requests with the current token are accepted?
    pub(crate) fn is_watching(&self) -> bool {
        !self.token.accepted && (self.futile > 0 || self.token.trial != Trial::None)
    }

    /// A replay with the current token has a chance.
    pub(crate) fn is_promising(&self) -> bool {
        self.token.trial != Trial::Failed || self.token.accepted
    }

    /// No rejection has turned out to be one that no newer token cures.
    pub(crate) fn is_trusting(&self) -> bool {
        self.futile == 0
    }

    /// From when on a renewal may be forced, if not at once.
    pub(crate) fn cooldown_until(&self, now: Duration) -> Option<Duration> {
        let mut until = Duration::ZERO;
        if self.futile > 0 {
            let accepted = if self.token.accepted { Accepted::BySome } else { Accepted::ByNone };
            until = self.futile_at.saturating_add(cooldown(self.futile, accepted));
        }
        if self.burst_at(now) >= MAX_BURST {
            until = until.max(self.counted_at.saturating_add(REFILL));
        }
        (until > now).then_some(until)
    }

    /// A renewal is being forced.
    pub(crate) fn forcing(&mut self, now: Duration) {
        self.burst = self.burst_at(now).saturating_add(1);
        self.counted_at = now;
    }

    fn burst_at(&self, now: Duration) -> u32 {
        let refilled = now.saturating_sub(self.counted_at).as_secs() / REFILL.as_secs();
        self.burst.saturating_sub(u32::try_from(refilled).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_cure_makes_the_next_rejection_news_at_once() {
        let mut rejections = Rejections::new();
        for second in [0, 2, 4] {
            assert!(rejections.rejected(at(second)));
            assert_eq!(rejections.cooldown_until(at(second)), None);
            rejections.forcing(at(second));
            rejections.published(true, at(second));
            rejections.cured();
        }
    }

    #[test]
    fn a_futile_renewal_starts_the_pause_and_only_one_per_token() {
        let mut rejections = Rejections::new();
        rejections.published(true, at(0));
        for _ in 0..500 {
            rejections.replay_rejected(at(1));
        }
        assert_eq!(rejections.cooldown_until(at(1)), Some(at(11)));
        assert!(!rejections.is_promising());
        rejections.published(true, at(11));
        assert!(!rejections.rejected(at(12)), "a first use of a forced token tells as much");
        assert_eq!(rejections.cooldown_until(at(12)), Some(at(32)));
    }

    #[test]
    fn others_who_accept_the_token_keep_the_pause_under_a_minute() {
        let mut rejections = Rejections::new();
        for _ in 0..6 {
            rejections.published(true, at(0));
            rejections.replay_rejected(at(0));
        }
        assert_eq!(rejections.cooldown_until(at(0)), Some(at(300)));
        assert!(rejections.is_watching());
        rejections.accepted();
        assert_eq!(rejections.cooldown_until(at(0)), Some(at(60)));
        assert!(rejections.is_promising() && !rejections.is_watching());
        rejections.published(false, at(30));
        assert_eq!(rejections.cooldown_until(at(30)), Some(at(60)), "kept across a renewal");
        rejections.cured();
        assert_eq!(rejections.cooldown_until(at(30)), Some(at(60)), "an ordinary token cures not");
    }

    #[test]
    fn where_nothing_is_replayed_a_minute_of_acceptance_stands_for_a_cure() {
        let mut rejections = Rejections::new();
        rejections.published(true, at(0));
        rejections.accepted();
        assert!(rejections.rejected(at(60)));
        rejections.published(true, at(61));
        rejections.accepted();
        assert!(rejections.rejected(at(62)), "the benefit of the doubt");
        rejections.published(true, at(63));
        rejections.accepted();
        assert!(!rejections.rejected(at(122)), "once, and not a second less than a minute");
        rejections.published(true, at(661));
        assert!(!rejections.rejected(at(662)), "none has accepted it");
        rejections.published(true, at(663));
        rejections.accepted();
        assert!(rejections.rejected(at(664)), "and ten minutes later once more");
        rejections.published(true, at(665));
        rejections.cured();
        rejections.published(true, at(666));
        rejections.accepted();
        assert!(rejections.rejected(at(667)), "also after a cure");
    }

    #[test]
    fn an_api_that_rejects_at_random_is_held_to_one_renewal_every_two_seconds() {
        let mut rejections = Rejections::new();
        let mut forced = 0;
        for millis in 0..600_000_u64 {
            let now = Duration::from_millis(millis);
            if rejections.rejected(now) && rejections.cooldown_until(now).is_none() {
                forced += 1;
                rejections.forcing(now);
                rejections.published(true, now);
                rejections.cured();
            }
        }
        assert!((300..=340).contains(&forced), "{forced}");
    }
}
