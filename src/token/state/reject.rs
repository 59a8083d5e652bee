//! What follows when an API rejects a token, or accepts one that is on trial.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Decision, State};
use crate::{
    clock::Now,
    error::TokenError,
    token::{
        budget::Purpose,
        flight::Flight,
        rejection::{Sending, Staleness},
        schedule::Standing,
        snapshot::Snapshot,
    },
};

/// What a caller gets whose token was rejected.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// A newer token is at hand.
    Replay(Arc<Snapshot>),
    /// A newer token is under way.
    Wait(Arc<Flight>),
    /// No newer token is to be had now.
    Stand(Standstill),
}

impl Rejection {
    fn cooldown(until: Duration, now: Now) -> Self {
        let until = now.plus(until.saturating_sub(now.mono)).system_time();
        Self::Stand(Standstill::Cooldown { until })
    }

    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "for events"))]
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Replay(_) => "replay",
            Self::Wait(_) => "renew",
            Self::Stand(Standstill::SameToken) => "same token",
            Self::Stand(Standstill::Cooldown { .. }) => "cooldown",
            Self::Stand(Standstill::ReplayRejected) => "replay rejected",
            Self::Stand(Standstill::Failed(_)) => "renewal failed",
        }
    }

    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "for events"))]
    pub(crate) fn error(&self) -> Option<&TokenError> {
        match self {
            Self::Stand(Standstill::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

/// Why a rejection stands.
#[derive(Clone, Debug)]
pub(crate) enum Standstill {
    /// The server has no other token than the rejected one.
    SameToken,
    /// Renewals have not helped lately; the next may be forced then.
    Cooldown { until: SystemTime },
    /// The newer token was rejected as well.
    ReplayRejected,
    /// The renewal failed, or is not tried again yet.
    Failed(TokenError),
}

impl State {
    /// The API rejected a request that carried the token of generation `rejected`.
    pub(crate) fn reject(
        &mut self,
        rejected: u64,
        staleness: Staleness,
        sending: Sending,
        now: Now,
    ) -> Decision<Rejection> {
        let Some(current) = self.current.clone() else {
            // The token was for one use, and there is none to compare it with.
            return Rejection::Stand(Standstill::SameToken).into();
        };
        // Others need to know when it comes to be of interest whether they are accepted, and only
        // then: an API may answer 401 at any rate of calls.
        let watching = self.rejections.is_watching();
        if self.substitute == Some(rejected) {
            self.rejections.replay_rejected(now.mono);
            let changed = self.rejections.is_watching() != watching;
            let answer = Rejection::Stand(Standstill::ReplayRejected);
            return Decision { answer, launch: None, changed };
        }
        // Generations of the same text are one token: a server may have handed it out again.
        if !(current.first_seen..=current.generation).contains(&rejected) {
            return self.reject_former(rejected, &current, sending, now);
        }
        if sending == Sending::Replay && self.rejections.replay_rejected(now.mono) {
            let changed = self.rejections.is_watching() != watching;
            let answer = Rejection::Stand(Standstill::ReplayRejected);
            return Decision { answer, launch: None, changed };
        }
        if self.aloft.is_none() {
            if self.substitute.is_some() {
                self.rejections.rejected_beside(now.mono);
            } else {
                self.rejections.rejected(now.mono);
            }
            if let Some(until) = self.rejections.cooldown_until(now.mono) {
                let changed = self.rejections.is_watching() != watching;
                return Decision { answer: Rejection::cooldown(until, now), launch: None, changed };
            }
        }
        let (flight, launch) = match self.renewal(Purpose::Convenience, now) {
            Ok(renewal) => renewal,
            Err((error, _)) => return Rejection::Stand(Standstill::Failed(error)).into(),
        };
        let mut changed = false;
        let trusting = self.is_trusting();
        if let Some(aloft) = &mut self.aloft {
            aloft.forced = true;
            // One endpoint that misuses 401 must not stall the rest: only a clear word does, and
            // only while such words have proved true.
            if staleness == Staleness::Invalid && trusting {
                changed = !aloft.blocking;
                aloft.blocking = true;
            }
        }
        if launch.is_some() {
            self.rejections.forcing(now.mono);
        }
        let answer = match sending {
            Sending::First => Rejection::Wait(flight),
            // It has had its replay; the renewal is for the next ones.
            Sending::Replay => Rejection::Stand(Standstill::ReplayRejected),
        };
        Decision { answer, launch, changed }
    }

    /// The rejected token is not the current one.
    fn reject_former(
        &mut self,
        rejected: u64,
        current: &Arc<Snapshot>,
        sending: Sending,
        now: Now,
    ) -> Decision<Rejection> {
        if sending == Sending::Replay {
            return Rejection::Stand(Standstill::ReplayRejected).into();
        }
        if rejected > current.generation {
            // It was for one use, and newer than the one at hand.
            return Rejection::Stand(Standstill::SameToken).into();
        }
        if !self.rejections.is_promising()
            && let Some(until) = self.rejections.cooldown_until(now.mono)
        {
            return Rejection::cooldown(until, now).into();
        }
        // Also the current token has been rejected, and its successor is under way. Once a renewal
        // has failed it is tried all the same: who knows when there is a successor.
        if let Some(aloft) = self.aloft.as_ref().filter(|aloft| aloft.forced)
            && self.is_trusting()
        {
            return Rejection::Wait(Arc::clone(&aloft.flight)).into();
        }
        if current.schedule.standing(now) != Standing::Expired {
            return Rejection::Replay(Arc::clone(current)).into();
        }
        match self.renewal(Purpose::Needed, now) {
            Ok((flight, launch)) => Decision::from(Rejection::Wait(flight)).and(launch),
            Err((error, _)) => Rejection::Stand(Standstill::Failed(error)).into(),
        }
    }

    /// Nothing speaks against believing a rejection. While no token can be had, nothing proves one
    /// true or false; then it is believed once, not for each renewal that fails.
    fn is_trusting(&self) -> bool {
        self.rejections.is_trusting() && self.failures.1 == 0
    }

    /// A request with the token of `generation` was accepted. True if others need to know.
    pub(crate) fn accept(&mut self, generation: u64, sending: Sending) -> bool {
        if self.substitute == Some(generation) && sending == Sending::Replay {
            self.substitute = None;
            // The API takes the one and not the other, unless others have used that since.
            if !self.rejections.is_accepted() {
                self.current = None;
            }
            self.rejections.cured();
            return true;
        }
        if self.current.as_ref().is_none_or(|current| current.generation != generation) {
            return false;
        }
        let watching = self.rejections.is_watching();
        match sending {
            Sending::First => self.rejections.accepted(),
            Sending::Replay => self.rejections.cured(),
        }
        watching
    }
}
