//! What is done to the servers, and which failures of calls that makes unavoidable.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use tower_oauth2_client_credentials::{TokenCache, credentials::RotatingSecret};

use crate::{
    harness::stand::Stand,
    record::{Cause, Record},
    wire::{Mode, Wire},
};

/// Between two faults.
const PAUSE: Duration = Duration::from_millis(1500);

/// How long the crate may take to notice that a fault is over: the longest pause after a failure
/// that lasted as long as ours do, and something for a busy machine.
const RECOVERY: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The server is killed and started again; its API, which is in the same process, with it.
    Killed,
    /// SIGSTOP, and SIGCONT two seconds later.
    Frozen,
    /// Token requests take 0.7 s.
    Slow,
    /// Token requests are answered with this.
    Answers(&'static str),
    /// All tokens are withdrawn.
    Revoked,
    /// The server has a new secret; the client has it half a second later.
    Rotated,
    /// The answers to token requests come a few bytes at a time.
    Trickled,
    /// Token requests get interim responses without end, and no answer.
    Interim,
    /// Connections for token requests are reset when they are used again.
    ResetReused,
}

impl Fault {
    /// The schedule, over and over. A server that runs no `secret` keeps its own.
    const ALL: [Self; 14] = [
        Self::Revoked,
        Self::Answers("500"),
        Self::Frozen,
        Self::Rotated,
        Self::Slow,
        Self::ResetReused,
        Self::Revoked,
        Self::Killed,
        Self::Trickled,
        Self::Answers("503"),
        Self::Answers("html"),
        Self::Revoked,
        Self::Interim,
        Self::Answers("empty"),
    ];

    fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::Killed | Self::Answers("html" | "empty") => 1000,
            Self::Frozen | Self::Answers(_) | Self::Interim => 2000,
            Self::Slow | Self::Trickled => 4000,
            // Long enough for a token to be renewed twice.
            Self::ResetReused => 10_000,
            Self::Rotated => 500,
            Self::Revoked => 0,
        })
    }

    /// No client could have had a good answer. `token_is_spent`: the last token that was issued is
    /// at its end, so that a newer one was needed.
    fn excuses(self, cause: &Cause, token_is_spent: bool) -> bool {
        match self {
            Self::Killed => true,
            Self::Frozen | Self::Slow | Self::Trickled | Self::ResetReused => false,
            Self::Answers(_) | Self::Rotated | Self::Interim => {
                matches!(cause, Cause::Token(_)) && token_is_spent
            }
            // A token that was issued just before and arrived just after: its replay was rejected,
            // too, and such an API is left alone for 10 s.
            Self::Revoked => matches!(cause, Cause::Cooldown),
        }
    }
}

/// A server under test, and what is known of its clients from outside.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    lifetime: Duration,
    caches: Vec<TokenCache>,
    /// For each cache.
    tokens: Mutex<Vec<Seen>>,
    windows: Mutex<Vec<Window>>,
    over: AtomicBool,
}

/// The newest token of a cache, as seen from outside.
struct Seen {
    cache: TokenCache,
    token: Option<HeaderValue>,
    came: Instant,
}

/// From before a fault until all clients had got over it.
struct Window {
    fault: Fault,
    start: Instant,
    end: Option<Instant>,
}

impl Bench {
    pub(crate) fn new(
        name: &'static str,
        url: String,
        lifetime: u32,
        caches: Vec<TokenCache>,
    ) -> Self {
        let seen = |cache: &TokenCache| {
            let cache = cache.clone();
            Seen { cache, token: None, came: Instant::now() }
        };
        let tokens = Mutex::new(caches.iter().map(seen).collect());
        Self {
            name,
            url,
            lifetime: Duration::from_secs(lifetime.into()),
            caches,
            tokens,
            windows: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    pub(crate) fn note_tokens(&self) {
        let mut tokens = self.tokens.lock().unwrap();
        for seen in tokens.iter_mut() {
            if let Some(token) = seen.cache.peek()
                && seen.token.as_ref() != Some(token.header())
            {
                seen.token = Some(token.header().clone());
                seen.came = Instant::now();
            }
        }
    }

    pub(crate) fn issued(&self) -> u64 {
        self.caches.iter().map(TokenCache::issued).sum()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// What was done to the server while a call from `start` until `end` was on its way.
    pub(crate) fn faults(&self, start: Instant, end: Instant) -> Vec<Fault> {
        let windows = self.windows.lock().unwrap();
        let during = |window: &&Window| {
            window.start <= end && window.end.is_none_or(|closed| closed >= start)
        };
        windows.iter().filter(during).map(|window| window.fault).collect()
    }

    /// The fault that a call with the token of the cache number `which` had to fail by.
    pub(crate) fn excuse(
        &self,
        which: usize,
        start: Instant,
        end: Instant,
        cause: &Cause,
    ) -> Option<Fault> {
        let came = self.tokens.lock().unwrap()[which].came;
        // Half a second: issued in whole seconds, and noted late.
        let spent = end - came + Duration::from_millis(500) >= self.lifetime;
        self.faults(start, end).into_iter().find(|fault| fault.excuses(cause, spent))
    }

    /// How often each fault was there.
    pub(crate) fn count(&self) -> BTreeMap<Fault, usize> {
        let mut counts = BTreeMap::new();
        for window in &*self.windows.lock().unwrap() {
            *counts.entry(window.fault).or_default() += 1;
        }
        counts
    }

    fn open(&self, fault: Fault) {
        self.windows.lock().unwrap().push(Window { fault, start: Instant::now(), end: None });
    }

    fn close(&self) {
        if let Some(window) = self.windows.lock().unwrap().last_mut() {
            window.end = Some(Instant::now());
        }
    }
}

/// The schedule of one server.
pub(crate) struct Faults {
    pub(crate) bench: Arc<Bench>,
    pub(crate) stand: Stand,
    pub(crate) wire: Wire,
    pub(crate) secret: RotatingSecret,
    pub(crate) record: Arc<Record>,
}

impl Faults {
    /// Until `deadline`, and until the last fault is over.
    pub(crate) async fn run(mut self, deadline: Instant) -> Self {
        let mut schedule = Fault::ALL.into_iter().cycle();
        while let Some(fault) = schedule.next()
            && Instant::now() < deadline
        {
            if fault == Fault::Rotated && !self.stand.plan.is_django() {
                continue;
            }
            // Nobody can write into a TLS connection from outside.
            if fault == Fault::Interim && self.stand.front.is_some() {
                continue;
            }
            tokio::time::sleep(PAUSE).await;
            self.bench.open(fault);
            self.inflict(fault).await;
            self.recovered(fault).await;
            self.bench.close();
        }
        self.bench.over.store(true, Ordering::Relaxed);
        self
    }

    async fn inflict(&mut self, fault: Fault) {
        let server = &mut self.stand.server;
        match fault {
            Fault::Killed => {
                server.kill();
                tokio::time::sleep(fault.lasts()).await;
                server.start_again().await;
            }
            Fault::Frozen => {
                server.freeze();
                tokio::time::sleep(fault.lasts()).await;
                server.thaw();
            }
            Fault::Slow | Fault::Answers(_) => {
                let what = match fault {
                    Fault::Answers(answer) => format!("answer={answer}"),
                    _ => "delay_ms=700".to_owned(),
                };
                assert!(server.fault(&what).await, "the server answers");
                tokio::time::sleep(fault.lasts()).await;
                assert!(server.fault("").await, "the server answers");
            }
            Fault::Trickled | Fault::Interim | Fault::ResetReused => {
                self.wire.set(match fault {
                    Fault::Trickled => Mode::Trickle,
                    Fault::Interim => Mode::Interim,
                    _ => Mode::ResetReused,
                });
                tokio::time::sleep(fault.lasts()).await;
                self.wire.set(Mode::Pass);
            }
            Fault::Revoked => server.revoke().await,
            Fault::Rotated => {
                let next = format!("c4n4ry/{:?}", Instant::now());
                server.rotate_secret(&next).await;
                tokio::time::sleep(fault.lasts()).await;
                self.secret.set(next);
            }
        }
    }

    /// Waits until no client fails any more.
    async fn recovered(&self, fault: Fault) {
        let start = Instant::now();
        while start.elapsed() < RECOVERY {
            let since = Instant::now();
            // Each of the workers has made a call or two in the meantime.
            tokio::time::sleep(Duration::from_millis(150)).await;
            let tokens = self.bench.caches.iter().all(|cache| cache.last_error().is_none());
            if tokens && !self.record.has_failed_since(self.bench.name, since) {
                return;
            }
        }
        self.record.needless(&format!("{}: not over {fault:?} after 20 s", self.bench.name));
    }
}
