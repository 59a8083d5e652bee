//! An API rejects a token, or accepts one on probation.
//!
//! A call is sent at most three times: first, with a token that was requested before its 401
//! arrived, and with one that was requested after it. The circuit breaker in `breaker` decides
//! whether a rejection may force a renewal.

use std::time::Duration;

use super::{Answer, InFlight, Launch, Phase, Refusal, State, Token, Trigger, Usable, Which};
use crate::{clock::Now, policy::challenge::Evidence, token::IssuedToken};

/// The time within which the rejection of a newest token may only mean that it is too new for the
/// API.
const SETTLING: Duration = Duration::from_secs(120);

/// The first pause of a newest token that an API rejects while it accepts the former one, and the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A response that rejects a token, and the call that it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rejected {
    /// The generation of the token that the request carried.
    pub(crate) generation: u64,
    pub(crate) evidence: Evidence,
    /// The call so far, without this response.
    pub(crate) call: Call,
    /// Whether the request was kept and may be sent again.
    pub(crate) is_replayable: bool,
}

/// A call and the tokens that it was rejected with.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Call {
    /// The time of the first rejection.
    since: Option<Duration>,
    tried: [Option<u64>; 3],
}

/// Whether a request was sent for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    First,
    Replay,
}

impl Call {
    /// Records the rejection of `generation` at `now`.
    pub(crate) fn rejected(&mut self, generation: u64, now: Duration) {
        self.since.get_or_insert(now);
        if let Some(place) = self.tried.iter_mut().find(|place| place.is_none()) {
            *place = Some(generation);
        }
    }

    /// Returns a call whose replay with `token` was rejected, and of which no more is known. The
    /// rejection may have caused the request for the token, or it may be later.
    pub(crate) fn of_replay(token: &IssuedToken) -> Self {
        let asked_after = token.forced.then_some(token.schedule.t0.mono);
        Self { since: Some(asked_after.unwrap_or(Duration::MAX)), tried: [None; 3] }
    }

    /// Returns `true` if another replay may follow the next one.
    pub(crate) fn may_be_sent_twice(&self) -> bool {
        self.tried.iter().filter(|tried| tried.is_none()).count() > 1
    }

    pub(crate) fn sending(&self) -> Sending {
        if self.since.is_none() { Sending::First } else { Sending::Replay }
    }

    /// Returns the generation of the token that was rejected last.
    pub(crate) fn last_tried(&self) -> u64 {
        self.tried.iter().flatten().last().copied().unwrap_or_default()
    }

    pub(super) fn has_tried(&self, token: &Token) -> bool {
        self.tried.iter().flatten().any(|&generation| token.is(generation))
    }

    /// Returns `true` if the token was requested after the first rejection.
    fn was_asked_since(&self, token: &Token) -> bool {
        self.since.is_some_and(|since| token.schedule.t0.mono >= since)
    }

    fn is_over(&self) -> bool {
        self.tried.iter().all(Option::is_some)
    }
}

impl Token {
    /// Returns `true` if `generation` is one of this token: its own, or that of a probe.
    fn is(&self, generation: u64) -> bool {
        (self.generation..=self.last_probe).contains(&generation)
    }
}

impl State {
    pub(super) fn rejected(
        &mut self,
        rejected: &Rejected,
        now: Now,
        launch: &mut Option<Launch>,
    ) -> Answer {
        let Rejected { generation, evidence, mut call, is_replayable } = *rejected;
        let before = call;
        call.rejected(generation, now.mono);
        let is = |token: &Token| token.is(generation);
        if let Some(newest) = self.newest.filter(is) {
            if before.was_asked_since(&newest) {
                // The API rejects the earlier token as well as one that was requested since.
                self.breaker.ineffective(now.mono);
                return Answer::Refuse(Refusal::ReplayRejected);
            }
            if self.fall_back(&newest, generation, is_replayable, now) {
                return self.replace(&call, evidence, now, launch);
            }
            if self.in_flight.is_none() {
                self.breaker.rejected(evidence, now.mono);
            }
            let answer = self.force(&call, evidence, now, launch);
            // Without a renewal, the former token may still serve this call.
            return match (answer, self.untried_token(&call, now)) {
                (Answer::Refuse(_), Some((which, token))) if is_replayable => {
                    self.replay_with(which, &token, now)
                }
                _ => answer,
            };
        }
        if self.former.is_some_and(|former| is(&former)) {
            if self.is_believed(evidence) {
                match self.phase {
                    Phase::Proven => self.former.iter_mut().for_each(|f| f.is_rejected = true),
                    _ => self.drop_former(),
                }
            }
        } else if self.newest.is_none() && self.is_uncacheable(generation) {
            // There is no other token to compare it with.
            return Answer::Refuse(Refusal::SameToken);
        }
        self.replace(&call, evidence, now, launch)
    }

    /// Returns `true` if the newest token was rejected and the former one is tried first.
    fn fall_back(
        &mut self,
        newest: &Token,
        generation: u64,
        is_replayable: bool,
        now: Now,
    ) -> bool {
        let Some(former) = self.usable_former(now) else { return false };
        // A request that cannot be replayed is served only by a token that the next call gets.
        if !is_replayable && !former.schedule.is_before_hard(now) {
            return false;
        }
        match &mut self.phase {
            Phase::Trial => {
                let next = now.mono.saturating_add(FIRST_PAUSE);
                self.phase = Phase::Benched { pause: FIRST_PAUSE, next, probe: None };
                true
            }
            Phase::Benched { pause, next, probe } => {
                if *probe == Some(generation) {
                    *probe = None;
                    *pause = pause.saturating_mul(2).min(MAX_PAUSE);
                    *next = now.mono.saturating_add(*pause);
                }
                true
            }
            // Some instances of the API may lag behind others. A request that cannot be replayed
            // must not be rejected twice.
            Phase::Proven => is_replayable && now.since(newest.schedule.t0) < SETTLING,
            Phase::Alone => false,
        }
    }

    /// Returns how to handle `call` after the renewal that it waited for has published a token.
    pub(super) fn replace_after_wait(
        &mut self,
        call: &Call,
        evidence: Evidence,
        now: Now,
        launch: &mut Option<Launch>,
    ) -> Answer {
        let newest = self.newest.as_ref();
        if newest.is_some_and(|newest| call.has_tried(newest) && call.was_asked_since(newest)) {
            return Answer::Refuse(Refusal::SameToken);
        }
        self.replace(call, evidence, now, launch)
    }

    /// Returns a usable token that `call` was not rejected with, in the order in which they are
    /// used.
    pub(crate) fn untried(&self, call: &Call, now: Now) -> Option<Which> {
        self.untried_token(call, now)
            .filter(|(_, token)| token.schedule.is_usable(now))
            .map(|(which, _)| which)
    }

    fn untried_token(&self, call: &Call, now: Now) -> Option<(Which, Token)> {
        let newest = self.newest.map(|newest| (Which::Newest, newest));
        let former = self.usable_former(now).map(|former| (Which::Former, former));
        let is_former_first = self.is_benched(now) || self.usable_newest(now).is_none();
        let order = if is_former_first { [former, newest] } else { [newest, former] };
        // The last replay is reserved for a token that is known to be accepted, or was requested
        // since.
        let is_good = |which: Which, token: &Token| {
            let is_proven = which == Which::Newest && self.phase == Phase::Proven;
            call.may_be_sent_twice() || is_proven || call.was_asked_since(token)
        };
        let mut order = order.into_iter().flatten();
        order.find(|(which, token)| !call.has_tried(token) && is_good(*which, token))
    }

    /// Returns `true` if the token with this generation is known to be rejected, or was replaced
    /// and is no longer kept.
    pub(crate) fn is_rejected(&self, generation: u64) -> bool {
        let mut kept = self.newest.iter().chain(&self.former);
        match kept.find(|token| token.is(generation)) {
            Some(token) => token.is_rejected,
            None => !self.is_uncacheable(generation),
        }
    }

    /// Returns `true` if the token with this generation serves only the calls that waited for it.
    fn is_uncacheable(&self, generation: u64) -> bool {
        self.uncacheable_from.is_some_and(|from| generation >= from)
    }

    /// Returns the token to replay `call` with, or the renewal to wait for.
    fn replace(
        &mut self,
        call: &Call,
        evidence: Evidence,
        now: Now,
        launch: &mut Option<Launch>,
    ) -> Answer {
        if call.is_over() {
            return Answer::Refuse(Refusal::ReplayRejected);
        }
        let Some((which, token)) = self.untried_token(call, now) else {
            return self.force(call, evidence, now, launch);
        };
        if which == Which::Newest {
            if !self.breaker.is_promising()
                && let Some(until) = self.breaker.cooldown_until(evidence, now.mono)
            {
                return Answer::Refuse(Refusal::Cooldown { until });
            }
            // The token is known to be rejected as well, and its successor is in flight. Once a
            // renewal has failed, the time of the next token is unknown.
            if let Some(flight) = self.in_flight
                && (flight.trigger == Trigger::Forced || token.is_rejected)
                && self.is_trusting()
            {
                return Answer::Wait { flight: flight.id, until: None };
            }
            if !token.schedule.is_usable(now) {
                return match self.renewal(Trigger::Cold, now, launch) {
                    Ok(flight) => Answer::Wait { flight: flight.id, until: None },
                    Err(refusal) => Answer::Refuse(refusal),
                };
            }
        }
        self.replay_with(which, &token, now)
    }

    fn replay_with(&self, which: Which, token: &Token, now: Now) -> Answer {
        let on_probation = which == Which::Newest;
        Answer::Use(Usable { which, generation: token.generation, until: now, on_probation })
    }

    /// Joins or forces a renewal, since no token is left to replay the call with, unless recent
    /// renewals were ineffective.
    fn force(
        &mut self,
        call: &Call,
        evidence: Evidence,
        now: Now,
        launch: &mut Option<Launch>,
    ) -> Answer {
        let is_believed = self.is_believed(evidence);
        let is_newest = self.newest.is_some_and(|newest| call.has_tried(&newest));
        if self.in_flight.is_none()
            && let Some(until) = self.breaker.cooldown_until(evidence, now.mono)
        {
            return Answer::Refuse(Refusal::Cooldown { until });
        }
        if let Some(newest) = self.newest.as_mut().filter(|_| is_newest) {
            newest.is_rejected |= is_believed;
        }
        let flight = match self.renewal(Trigger::Forced, now, launch) {
            Ok(flight) => flight,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        if launch.is_some() {
            self.breaker.renewal_forced(now.mono);
        }
        // One endpoint that misuses 401 must not stall other requests. So only strong evidence
        // does, and only while such evidence has proved true.
        if evidence == Evidence::Strong && self.is_trusting() {
            self.block(flight, now);
        }
        if call.is_over() {
            // The renewal is for the next calls.
            return Answer::Refuse(Refusal::ReplayRejected);
        }
        Answer::Wait { flight: flight.id, until: None }
    }

    fn block(&mut self, flight: InFlight, now: Now) {
        if let Some(flight) = self.in_flight.as_mut().filter(|f| f.id == flight.id) {
            flight.blocks_until.get_or_insert(now.mono.saturating_add(super::BLOCK));
        }
    }

    /// Returns `true` if a rejection counts against the token itself: the evidence is strong, or
    /// nothing suggests that the API misuses 401.
    fn is_believed(&self, evidence: Evidence) -> bool {
        evidence == Evidence::Strong || !self.breaker.knows_misuse()
    }

    /// Returns `true` if a rejection may make other requests wait. While renewals fail, nothing
    /// proves a rejection true or false; then it is believed once, and not for each renewal that
    /// fails.
    fn is_trusting(&self) -> bool {
        self.breaker.is_trusting() && !self.streak.is_failing()
    }

    pub(super) fn accepted(&mut self, generation: u64, sending: Sending) -> Answer {
        if let Some(newest) = self.newest.as_mut().filter(|newest| newest.is(generation)) {
            newest.is_rejected = false;
            self.phase = Phase::Proven;
            match sending {
                Sending::First => self.breaker.request_accepted(),
                Sending::Replay => self.breaker.replay_accepted(),
            }
        }
        Answer::None
    }
}
