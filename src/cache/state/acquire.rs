//! A caller needs a token: use one, wait for the renewal, or fail.

use std::time::Duration;

use super::{Answer, Launch, PATIENCE, Phase, Refusal, State, Token, Trigger, Usable, Which};
use crate::{clock::Now, token::schedule::Age};

impl State {
    pub(super) fn acquire(&mut self, now: Now, launch: &mut Option<Launch>) -> Answer {
        let (Some(newest), Some((which, token))) = (self.newest, self.choice(now)) else {
            return match self.renewal(Trigger::Cold, now, launch) {
                Ok(flight) => Answer::Wait { flight: flight.id, until: None },
                Err(refusal) => Answer::Refuse(refusal),
            };
        };
        let left = token.schedule.left(now);
        if let Some(flight) = self.in_flight
            && let Some(until) = flight.blocks_until
            && let Some(until) = patience(until, left, now)
        {
            return Answer::Wait { flight: flight.id, until: Some(until) };
        }
        let until = match newest.schedule.age(now) {
            Age::Fresh => newest.schedule.soft_at(),
            Age::Soft => {
                let hard = newest.schedule.hard_at();
                match self.renewal(Trigger::Soft, now, launch) {
                    Ok(_) => hard,
                    Err(refusal) => self.next_look(refusal, hard, now),
                }
            }
            Age::Hard | Age::Expired => {
                let end = token.schedule.expires_at();
                match self.renewal(Trigger::Hard, now, launch) {
                    Ok(flight) => {
                        let until = flight.launched.saturating_add(PATIENCE);
                        if !self.streak.is_failing()
                            && let Some(until) = patience(until, left, now)
                        {
                            return Answer::Wait { flight: flight.id, until: Some(until) };
                        }
                        end
                    }
                    Err(refusal) => self.next_look(refusal, end, now),
                }
            }
        };
        Answer::Use(self.hand_out(which, token, until, now))
    }

    /// Returns the token to use at `now`: the one that the phase selects, or else the other.
    fn choice(&self, now: Now) -> Option<(Which, Token)> {
        let newest = self.usable_newest(now).map(|token| (Which::Newest, token));
        if self.is_benched(now) {
            let is_probe = matches!(self.phase, Phase::Benched { next, .. } if now.mono >= next);
            if !(is_probe && newest.is_some()) {
                return self.former.map(|token| (Which::Former, token));
            }
        }
        newest.or_else(|| self.usable_former(now).map(|token| (Which::Former, token)))
    }

    /// Returns the time at which a caller should ask again if no renewal may be started.
    fn next_look(&self, refusal: Refusal, deadline: Now, now: Now) -> Now {
        let until = refusal.before(deadline);
        // Callers notice when a secret is rotated in its file.
        if self.stale_refusal(now).is_some() {
            until.min(now.plus(Duration::from_secs(1)))
        } else {
            until
        }
    }

    fn hand_out(&mut self, which: Which, token: Token, until: Now, now: Now) -> Usable {
        let mut usable = Usable {
            which,
            generation: token.generation,
            until: until.min(token.schedule.expires_at()),
            on_probation: self.is_on_probation() && which == Which::Newest,
        };
        if self.is_benched(now)
            && let Phase::Benched { pause, next, probe } = &mut self.phase
        {
            if which == Which::Former {
                // Valid until the next probe, which depends on the monotonic clock only.
                usable.until = usable.until.min(token.schedule.hard_at());
                usable.until.mono = usable.until.mono.min(*next);
            } else {
                // The probe gets its own generation for this request alone, so that its response
                // can be told from late ones.
                self.generations += 1;
                usable.generation = self.generations;
                usable.until = Now::default();
                *probe = Some(self.generations);
                *next = now.mono.saturating_add(*pause);
                if let Some(newest) = &mut self.newest {
                    newest.last_probe = self.generations;
                }
            }
        }
        usable
    }
}

/// Returns the end of a wait for a caller whose token remains usable for `left`: `until`, but never
/// within the token's last second. Returns `None` if that time has passed.
fn patience(until: Duration, left: Duration, now: Now) -> Option<Duration> {
    let end = now.mono.saturating_add(left.saturating_sub(Duration::from_secs(1)));
    Some(until.min(end)).filter(|&until| now.mono < until)
}
