//! Every order of expiry, soft renewal, rejection, failure and cancellation.
//!
//! The test answers the source by hand, and follows a script of events. After each event, the
//! invariants are checked; at the end, that every caller got a token or an error, and that the next
//! call is correct. The scripts are all sequences of [`LENGTH`] events, from a cold and from a warm
//! start, and many longer random ones. `ORDERS_LENGTH=5` runs all sequences with one more event.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{sync::oneshot, task::JoinHandle};
use tower_oauth2_client_credentials::{
    AccessToken, BoxError, Builder, ErrorClass, TokenCache, TokenError, TokenResponse, source_fn,
    testing::ManualClock,
};

use crate::kit::{Dice, Watchdog, from_env, secs, within};

const LENGTH: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A caller needs a token.
    Call,
    /// A request was rejected with the newest token in use.
    Reject,
    /// A request was rejected with the oldest token in use.
    RejectOldest,
    /// The replay after the last rejection was rejected as well.
    RejectAgain,
    /// That replay was accepted.
    Accept,
    /// The server responds with a new token, the same token, or an error.
    Succeed,
    Repeat,
    Fail,
    /// The caller that has waited longest gives up.
    Cancel,
    /// The newest token reaches its soft window, or expires.
    Soften,
    Expire,
}

const EVENTS: [Event; 11] = [
    Event::Call,
    Event::Reject,
    Event::RejectOldest,
    Event::RejectAgain,
    Event::Accept,
    Event::Succeed,
    Event::Repeat,
    Event::Fail,
    Event::Cancel,
    Event::Soften,
    Event::Expire,
];

type Answer = Result<TokenResponse, TokenError>;

/// The state behind the source.
#[derive(Default)]
struct Server {
    asked: Mutex<VecDeque<oneshot::Sender<Answer>>>,
    under_way: AtomicU64,
    most_at_once: AtomicU64,
    last: AtomicU64,
    at_once: AtomicBool,
}

/// A fetch, as long as its future exists.
struct UnderWay(Arc<Server>);

impl UnderWay {
    fn new(server: &Arc<Server>) -> Self {
        let under_way = server.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        server.most_at_once.fetch_max(under_way, Ordering::SeqCst);
        Self(Arc::clone(server))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    fn token(&self, number: u64) -> Answer {
        Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(secs(300)))
    }

    fn next_token(&self) -> Answer {
        self.token(self.last.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Answers the oldest fetch, if there is one.
    fn answer(&self, answer: impl FnOnce() -> Answer) {
        if let Some(asked) = self.asked.lock().unwrap().pop_front() {
            let _ = asked.send(answer());
        }
    }
}

struct Run {
    clock: ManualClock,
    server: Arc<Server>,
    cache: TokenCache,
    calls: VecDeque<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<AccessToken>>>,
    replayed: Arc<Mutex<Option<AccessToken>>>,
}

impl Run {
    fn new() -> Self {
        let server = Arc::<Server>::default();
        let source = {
            let server = Arc::clone(&server);
            source_fn(move |_| {
                let under_way = UnderWay::new(&server);
                async move {
                    let server = &under_way.0;
                    if server.at_once.load(Ordering::SeqCst) {
                        return server.next_token();
                    }
                    let (answer, asked) = oneshot::channel();
                    server.asked.lock().unwrap().push_back(answer);
                    asked.await.unwrap()
                }
            })
        };
        let clock = ManualClock::new();
        let cache = Builder::from_source(source)
            .clock(clock.clone())
            .jitter_seed(7)
            // Renewals end only when the script says so.
            .attempt_timeout(secs(100_000))
            .renewal_timeout(secs(100_000))
            .build()
            .unwrap()
            .cache();
        let (seen, replayed) = (Arc::default(), Arc::default());
        Self { clock, server, cache, calls: VecDeque::new(), seen, replayed }
    }

    /// Makes a call, and checks its immediate result.
    fn call(&mut self) {
        let (mut cache, clock, seen) =
            (self.cache.clone(), self.clock.clone(), Arc::clone(&self.seen));
        self.calls.push_back(tokio::spawn(async move {
            match cache.token().await {
                Ok(token) => {
                    assert!(token.expires_at().unwrap() > clock.wall(), "an expired token");
                    seen.lock().unwrap().push(token);
                }
                Err(_) => assert!(cache.peek().is_none(), "an error in spite of a usable token"),
            }
        }));
    }

    fn reject(&mut self, token: Option<AccessToken>) {
        let Some(token) = token else { return };
        let (cache, replayed) = (self.cache.clone(), Arc::clone(&self.replayed));
        self.calls.push_back(tokio::spawn(async move {
            if let Ok(newer) = cache.rejected(&token).await {
                assert_ne!(newer.expose_secret(), token.expose_secret(), "the token of the 401");
                *replayed.lock().unwrap() = Some(newer);
            }
        }));
    }

    async fn happen(&mut self, event: Event) {
        let seen = |at: fn(&[AccessToken]) -> Option<&AccessToken>| {
            at(&self.seen.lock().unwrap()).cloned()
        };
        match event {
            Event::Call => self.call(),
            Event::Reject => self.reject(seen(<[_]>::last)),
            Event::RejectOldest => self.reject(seen(<[_]>::first)),
            Event::RejectAgain | Event::Accept => {
                let replayed = self.replayed.lock().unwrap().take();
                match (replayed, event) {
                    (Some(token), Event::Accept) => self.cache.accepted(&token),
                    (Some(token), _) => self.cache.rejected_again(&token),
                    (None, _) => {}
                }
            }
            Event::Succeed => self.server.answer(|| self.server.next_token()),
            Event::Repeat => {
                let last = self.server.last.load(Ordering::SeqCst);
                self.server.answer(|| self.server.token(last));
            }
            Event::Fail => {
                self.server.answer(|| Err(TokenError::new(ErrorClass::Request, "on purpose")));
            }
            Event::Cancel => {
                if let Some(call) = self.calls.pop_front() {
                    call.abort();
                }
            }
            Event::Soften | Event::Expire => {
                let wall = self.clock.wall();
                let newest = self.seen.lock().unwrap().last().map(|t| t.expires_at().unwrap());
                let left = newest.and_then(|end| end.duration_since(wall).ok()).unwrap_or_default();
                let until = if event == Event::Soften { secs(80) } else { secs(0) };
                tokio::time::advance(left.saturating_sub(until)).await;
            }
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    /// Checks the invariants that always hold.
    fn check(&mut self) {
        assert!(self.server.most_at_once.load(Ordering::SeqCst) <= 1, "two renewals at once");
        let wall = self.clock.wall();
        if let Some(token) = self.cache.peek() {
            assert!(token.expires_at().unwrap() > wall, "an expired token is cached");
        }
    }

    /// Checks that every caller gets a token or an error, and that the next call is correct.
    async fn end(mut self) -> Result<(), BoxError> {
        self.server.at_once.store(true, Ordering::SeqCst);
        self.server.answer(|| self.server.next_token());
        for call in std::mem::take(&mut self.calls) {
            if let Err(error) = within(secs(400), call).await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        crate::kit::settle().await;
        // The longest time for which a failure or an ineffective renewal is remembered.
        tokio::time::advance(secs(300)).await;
        let token = within(secs(1), self.cache.token()).await?;
        assert!(token.expires_at().unwrap() > self.clock.wall());
        let mut newer = within(secs(1), self.cache.rejected(&token)).await;
        if let Err(reason) = &newer
            && let Some(until) = reason.retry_at()
        {
            // A renewal that the script forced was ineffective, and this 401 showed it.
            tokio::time::advance(until.duration_since(self.clock.wall())?).await;
            newer = within(secs(1), self.cache.rejected(&token)).await;
        }
        let newer = newer?;
        assert_ne!(newer.expose_secret(), token.expose_secret());
        self.cache.accepted(&newer);
        assert!(within(secs(1), self.cache.rejected(&newer)).await.is_ok(), "cured, so at once");
        self.check();
        Ok(())
    }
}

/// Runs a script on its own runtime, and prints it if it fails.
fn run(script: &[Event]) {
    struct Shown<'a>(&'a [Event]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the script: {:?}", self.0);
            }
        }
    }
    let _shown = Shown(script);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut run = Run::new();
        for &event in script {
            run.happen(event).await;
            run.check();
        }
        run.end().await.unwrap();
    });
}

#[test]
fn every_order_of_expiry_renewal_rejection_failure_and_cancellation_comes_out_right() {
    let _limit = Watchdog::start(secs(3600));
    let length = from_env("ORDERS_LENGTH").unwrap_or(LENGTH);
    let count = EVENTS.len() as u64;
    for warm in [false, true] {
        for number in 0..count.pow(u32::try_from(length).unwrap()) {
            let mut script = if warm { vec![Event::Call, Event::Succeed] } else { Vec::new() };
            let mut rest = number;
            for _ in 0..length {
                script.push(EVENTS[usize::try_from(rest % count).unwrap()]);
                rest /= count;
            }
            // From a cold start, only a call has an effect.
            if warm || script[0] == Event::Call {
                run(&script);
            }
        }
    }
}

#[test]
fn long_scripts_by_chance_come_out_right() {
    let _limit = Watchdog::start(secs(3600));
    for seed in 0..from_env("ORDERS_SEEDS").unwrap_or(2000) {
        let mut dice = Dice::seeded(seed);
        let mut script = vec![Event::Call];
        for _ in 0..dice.between(5, 40) {
            script.push(*dice.one_of(&EVENTS));
        }
        run(&script);
    }
}

/// An explicit case: the soft renewal returns a token while 401s for its predecessor, and one for
/// itself, arrive.
#[test]
fn a_soft_renewal_that_succeeds_while_401s_arrive() {
    use Event::{Accept, Call, Fail, Reject, RejectAgain, Soften, Succeed};

    let _limit = Watchdog::start(secs(300));
    let warm = [Call, Succeed, Soften, Call];
    for rest in [
        [Reject, Reject, Succeed, Accept],
        [Reject, Succeed, Reject, Accept],
        [Succeed, Reject, Reject, Succeed],
        [Reject, Fail, Reject, Call],
        [Reject, Succeed, RejectAgain, Call],
    ] {
        run(&[&warm[..], &rest[..]].concat());
    }
}
