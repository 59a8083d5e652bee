//! Enumerates every state that a cache can reach, up to equivalence: generations are renumbered,
//! and times become phases. From each state, every event is tried, and the invariants are checked.
//!
//! The transitions of the phases are kept in `transitions.txt`. After a change on purpose:
//! `UPDATE_TRANSITIONS=1 cargo test --lib enumeration`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use super::{
    Answer, Call, Effects, Event, Failed, FlightId, Issued, Landed, Limits, Phase, Refusal,
    Rejected, SameAs, Sending, State, Which,
};
use crate::policy::challenge::Evidence;
use crate::{
    clock::Now,
    error::ErrorClass,
    token::{schedule::LifetimeLimits, source::Lifetime},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A moment of a run: the state and the time.
#[derive(Clone)]
struct Moment {
    state: State,
    now: Now,
    /// The events that led here, for the message of a failure.
    path: Vec<Step>,
}

/// Something that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Acquire,
    Timer,
    /// The clock moves to the next point at which something changes by itself.
    Pass(Point),
    New,
    SameAsNewest,
    SameAsFormer,
    Uncacheable,
    Fail,
    Refuse,
    Interrupt,
    RejectNewest(Evidence),
    RejectProbe,
    /// A replay with the newest token, which was requested after the first rejection.
    RejectReplay,
    /// A replay with the newest token, which was requested before it.
    RejectEarlyReplay,
    RejectFormer(Evidence),
    RejectOld,
    AcceptNewest,
    AcceptReplay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Second,
    Soft,
    Hard,
    Expiry,
    FormerExpiry,
    Overdue,
    Quarter,
}

const STEPS: [Step; 26] = [
    Step::Acquire,
    Step::Timer,
    Step::Pass(Point::Second),
    Step::Pass(Point::Soft),
    Step::Pass(Point::Hard),
    Step::Pass(Point::Expiry),
    Step::Pass(Point::FormerExpiry),
    Step::Pass(Point::Overdue),
    Step::Pass(Point::Quarter),
    Step::New,
    Step::SameAsNewest,
    Step::SameAsFormer,
    Step::Uncacheable,
    Step::Fail,
    Step::Refuse,
    Step::Interrupt,
    Step::RejectNewest(Evidence::Strong),
    Step::RejectNewest(Evidence::Weak),
    Step::RejectProbe,
    Step::RejectReplay,
    Step::RejectEarlyReplay,
    Step::RejectFormer(Evidence::Strong),
    Step::RejectFormer(Evidence::Weak),
    Step::RejectOld,
    Step::AcceptNewest,
    Step::AcceptReplay,
];

impl Moment {
    fn start() -> Self {
        let limits = Limits {
            lifetimes: LifetimeLimits { default: HOUR, ..LifetimeLimits::default() },
            renewal_timeout: Duration::from_secs(30),
        };
        let at = |secs| Duration::from_secs(secs);
        let now = Now { mono: at(1_000_000), wall: at(1_700_000_000) };
        Self { state: State::new(limits, None), now, path: Vec::new() }
    }

    fn landed(&self, result: Result<Issued, Failed>) -> Option<Event> {
        let flight = self.state.in_flight?.id;
        Some(Event::Landed(Landed { flight, result, wasted: 0, seed: 7 }))
    }

    fn issued(&self, same_as: Option<SameAs>, lifetime: Duration) -> Option<Event> {
        // The source is asked when the renewal is launched, and the renewal ends at its deadline.
        let ago = self.now.mono.saturating_sub(self.state.in_flight?.launched);
        let ago = ago.min(self.state.limits.renewal_timeout);
        let t0 = Now {
            mono: self.now.mono.saturating_sub(ago),
            wall: self.now.wall.saturating_sub(ago),
        };
        self.landed(Ok(Issued { lifetime: Lifetime::Of(lifetime), t0, same_as }))
    }

    fn failed(&self, class: ErrorClass, is_interrupted: bool) -> Option<Event> {
        let (retry_after, credentials_version) = (None, 0);
        self.landed(Err(Failed { class, retry_after, is_interrupted, credentials_version }))
    }

    /// Returns the event of a rejection. `first` is the generation that the call was rejected with
    /// before, and whether the token was requested after that.
    fn rejected(
        &self,
        generation: u64,
        evidence: Evidence,
        before: Option<(u64, Duration)>,
    ) -> Event {
        let mut call = Call::default();
        if let Some((generation, at)) = before {
            call.rejected(generation, at);
        }
        Event::Rejected(Rejected { generation, evidence, call, is_replayable: true })
    }

    /// Returns the event of `step`, or `None` if it cannot happen here.
    fn event(&self, step: Step) -> Option<Event> {
        let newest = self.state.newest();
        let former = self.state.former();
        Some(match step {
            Step::Acquire => Event::Acquire,
            Step::Timer => Event::TimerDue,
            Step::Pass(_) => return None,
            Step::New => self.issued(None, HOUR)?,
            Step::SameAsNewest => {
                newest?;
                self.issued(Some(SameAs::Newest), HOUR)?
            }
            Step::SameAsFormer => {
                former?;
                self.issued(Some(SameAs::Former), HOUR)?
            }
            Step::Uncacheable => self.issued(None, Duration::ZERO)?,
            Step::Fail => self.failed(ErrorClass::Transient, false)?,
            Step::Refuse => self.failed(ErrorClass::Credentials, false)?,
            Step::Interrupt => self.failed(ErrorClass::Interrupted, true)?,
            Step::RejectNewest(evidence) => self.rejected(newest?.generation, evidence, None),
            Step::RejectProbe => match self.state.phase {
                Phase::Benched { probe: Some(probe), .. } => {
                    self.rejected(probe, Evidence::Strong, None)
                }
                _ => return None,
            },
            Step::RejectReplay => {
                let newest = newest?;
                let before = (newest.generation - 1, newest.schedule.t0.mono);
                self.rejected(newest.generation, Evidence::Strong, Some(before))
            }
            Step::RejectEarlyReplay => {
                let newest = newest?;
                let before = former.map_or(newest.generation - 1, |former| former.generation);
                self.rejected(newest.generation, Evidence::Strong, Some((before, self.now.mono)))
            }
            Step::RejectFormer(evidence) => self.rejected(former?.generation, evidence, None),
            Step::RejectOld => {
                let oldest = former.or(newest)?.generation;
                self.rejected(oldest.checked_sub(1)?, Evidence::Strong, None)
            }
            Step::AcceptNewest => {
                Event::Accepted { generation: newest?.generation, sending: Sending::First }
            }
            Step::AcceptReplay => {
                Event::Accepted { generation: newest?.generation, sending: Sending::Replay }
            }
        })
    }

    fn passed(&self, point: Point) -> Option<Self> {
        let newest = self.state.newest();
        let target = match point {
            Point::Second => self.now.plus(Duration::from_secs(1)),
            Point::Soft => newest?.schedule.soft_at(),
            Point::Hard => newest?.schedule.hard_at(),
            Point::Expiry => newest?.schedule.expires_at(),
            Point::FormerExpiry => self.state.former()?.schedule.expires_at(),
            Point::Overdue => {
                self.state.in_flight?;
                self.now.plus(Duration::from_secs(36))
            }
            Point::Quarter => self.now.plus(Duration::from_secs(901)),
        };
        let is_ahead = self.now.is_before(target);
        is_ahead.then(|| {
            let mut path = self.path.clone();
            path.push(Step::Pass(point));
            Self { state: self.state.clone(), now: target, path }
        })
    }

    /// Returns the moment after `step`, with everything checked.
    fn after(&self, step: Step) -> Option<Self> {
        if let Step::Pass(point) = step {
            return self.passed(point);
        }
        let event = self.event(step)?;
        let mut next = self.clone();
        next.path.push(step);
        let effects = next.state.on(event.clone(), next.now);
        self.check(&event, &effects, &next);
        Some(next)
    }

    /// Returns the contents of a copy of the answer at this moment.
    fn held(&self) -> Option<(u64, Option<Which>)> {
        match self.state.clone().on(Event::Acquire, self.now).answer {
            // A probe is for one request, and is not kept.
            Answer::Use(usable) if self.now.is_before(usable.until) => {
                Some((usable.generation, Some(usable.which)))
            }
            Answer::Use(_) => None,
            _ => Some((0, None)),
        }
    }

    fn check(&self, event: &Event, effects: &Effects, next: &Self) {
        let Self { state, now, path } = next;
        let is_usable = |which| match which {
            Which::Newest => state.usable_newest(*now).is_some(),
            Which::Former => state.usable_former(*now).is_some(),
            Which::Uncacheable => true,
        };
        match effects.answer {
            Answer::Use(usable) => {
                assert!(is_usable(usable.which), "an expired token is used: {path:?}");
                if let Event::Rejected(Rejected { generation, call, .. }) = event {
                    let mut call = *call;
                    call.rejected(*generation, now.mono);
                    let token = match usable.which {
                        Which::Former => state.former(),
                        _ => state.newest(),
                    };
                    let tried = token.is_some_and(|token| call.has_tried(&token));
                    assert!(
                        !tried,
                        "replayed with a token that the call was rejected with: {path:?}"
                    );
                }
            }
            Answer::Wait { flight, .. } => {
                let in_flight = state.in_flight.map(|flight| flight.id);
                assert_eq!(in_flight, Some(flight), "waits for nothing: {path:?}");
            }
            Answer::Refuse(refusal) if *event == Event::Acquire => {
                assert!(state.usable(*now).is_none(), "refused beside a usable token: {path:?}");
                assert!(matches!(refusal, Refusal::Failed { .. }), "{refusal:?}: {path:?}");
            }
            Answer::Refuse(_) | Answer::None => {}
        }
        if effects.launch.is_some() {
            let had = self.state.in_flight.map(|flight| flight.id);
            assert!(had.is_none() || effects.give_up == had, "two renewals at once: {path:?}");
        }
        let has_former = state.former().is_some();
        match state.phase {
            Phase::Trial | Phase::Benched { .. } => assert!(has_former, "no former: {path:?}"),
            Phase::Alone => assert!(!has_former, "a former that nobody uses: {path:?}"),
            Phase::Proven => assert!(state.newest().is_some(), "nothing is proven: {path:?}"),
        }
        if let (Some(newest), Some(former)) = (state.newest(), state.former()) {
            assert_ne!(newest.generation, former.generation, "{path:?}");
        }
        if !matches!(event, Event::Acquire | Event::TimerDue) && self.held() != next.held() {
            let is_probe = next.held().is_none() || self.held().is_none();
            assert!(
                effects.epoch_changed || is_probe,
                "copies of {:?} are out of date, now {:?}: {path:?}",
                self.held(),
                next.held()
            );
        }
    }

    /// Checks that a call succeeds once the server and the API have recovered, whatever came
    /// before.
    fn check_recovery(&self) {
        let mut moment = self.clone();
        moment.now = moment.now.plus(Duration::from_secs(901));
        for _ in 0..4 {
            match moment.state.on(Event::Acquire, moment.now).answer {
                Answer::Use(_) => return,
                Answer::Wait { .. } => {
                    let issued = moment.issued(None, HOUR);
                    moment.state.on(issued.unwrap_or(Event::Acquire), moment.now);
                }
                Answer::Refuse(_) | Answer::None => {}
            }
        }
        panic!("never served: {:?}", self.path);
    }

    /// Returns a key that is the same for equivalent moments.
    fn key(&self) -> String {
        let Self { state, now, .. } = self;
        let newest = state.newest().map(|newest| {
            let is_young = now.since(newest.schedule.t0) < Duration::from_secs(120);
            let life = newest.schedule.age(*now);
            (life, is_young, newest.forced, state.is_rejected(newest.generation))
        });
        let former = state
            .former()
            .map(|former| (former.schedule.age(*now), state.is_rejected(former.generation)));
        let phase = match state.phase {
            Phase::Benched { pause, next, probe } => {
                let due = now.mono >= next;
                format!("benched {} {due} {}", pause.as_secs().min(4), probe.is_some())
            }
            other => format!("{other:?}"),
        };
        let flight = state.in_flight.map(|flight| {
            let waits = now.mono.saturating_sub(flight.launched) < Duration::from_secs(1);
            let blocks = flight.blocks_until.is_some_and(|until| now.mono < until);
            (flight.trigger.as_str(), waits, blocks)
        });
        let failure = state.failure_until(*now).map(|until| now.is_before(until));
        let refusal = state.stale_refusal(*now).is_some();
        let breaker = state.breaker.summary(now.mono);
        format!("{newest:?} {former:?} {phase} {flight:?} {failure:?} {refusal} {breaker}")
    }

    /// Returns the phase, for the graph.
    fn phase(&self) -> String {
        let phase = match (self.state.newest(), self.state.phase) {
            (None, _) => "Empty",
            (_, Phase::Proven) => "Proven",
            (_, Phase::Trial) => "Trial",
            (_, Phase::Benched { .. }) => "Benched",
            (_, Phase::Alone) => "Alone",
        };
        let flight = if self.state.in_flight.is_some() { ", renewing" } else { "" };
        format!("{phase}{flight}")
    }
}

/// Visits every transition between inequivalent moments, by a breadth-first search.
fn explore(mut visit: impl FnMut(&Moment, Step, &Moment)) -> usize {
    let mut seen = BTreeSet::new();
    let mut queue = VecDeque::from([Moment::start()]);
    while let Some(moment) = queue.pop_front() {
        for step in STEPS {
            let Some(next) = moment.after(step) else { continue };
            visit(&moment, step, &next);
            if seen.insert(next.key()) {
                next.check_recovery();
                queue.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn in_every_state_every_event_keeps_the_invariants() {
    let mut transitions = BTreeMap::<(String, String), BTreeSet<String>>::new();
    let states = explore(|from, step, to| {
        let edge = (from.phase(), to.phase());
        if edge.0 != edge.1 {
            transitions.entry(edge).or_default().insert(format!("{step:?}"));
        }
    });
    assert!(states > 1000, "{states}");
    let mut graph = String::new();
    for ((from, to), steps) in transitions {
        let steps = steps.into_iter().collect::<Vec<_>>().join(" | ");
        let _ = writeln!(graph, "{from} -> {to}: {steps}");
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cache/state/transitions.txt");
    if std::env::var_os("UPDATE_TRANSITIONS").is_some() {
        std::fs::write(file, &graph).unwrap();
    }
    let kept = include_str!("transitions.txt");
    assert_eq!(graph, kept, "{states} states; see the top of this file");
}

#[test]
fn a_state_is_data() {
    let moment = Moment::start();
    let mut other = moment.clone();
    assert!(moment.state == other.state);
    other.state.on(Event::Acquire, other.now);
    assert!(moment.state != other.state);
    assert!(format!("{:?}", other.state).contains("in_flight: Some"));
    assert_eq!(other.state.in_flight.unwrap().id, FlightId(1));
}
