//! Many tasks wait for one token: how long after its arrival is the first served, the middle one,
//! the last?
//!
//! The token's source is held back until every task is waiting, and lets go on a worker thread of
//! the runtime; the moment right before that is the arrival. What each waiter leaves behind is
//! dropped in its task, and so counts for those after it.

use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    hint::black_box,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, header};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, Notify, OnceCell},
};
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_client_credentials::{
    ErrorClass, OAuthClientCredentialsLayer, TokenCache, TokenError, TokenResponse, source_fn,
};

use crate::{
    common::{Body, Inner, TOKEN_LENGTH, request, token},
    measure::Spread,
};

/// How the tasks wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Who {
    /// The floor: nothing but being woken.
    Notify,
    /// The same, where every task has a share in what it waits for.
    NotifyInArc,
    Cache,
    /// The floor for a layer: a request that is kept, gets a header and is sent, once it is woken.
    Request,
    /// The same without keeping it.
    RequestUnkept,
    Layer,
    NeverReplay,
    /// By hand: a lock that is held while the token is asked for.
    Mutex,
    OnceCell,
}

impl Who {
    pub const ALL: [Self; 9] = [
        Self::Notify,
        Self::NotifyInArc,
        Self::Cache,
        Self::RequestUnkept,
        Self::NeverReplay,
        Self::Request,
        Self::Layer,
        Self::Mutex,
        Self::OnceCell,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Notify => "floor: Notify",
            Self::NotifyInArc => "Notify, in an Arc",
            Self::Cache => "TokenCache::token",
            Self::RequestUnkept => "floor: Notify, then send",
            Self::NeverReplay => "the layer, never_replay",
            Self::Request => "floor: Notify, then keep and send",
            Self::Layer => "the layer, replay",
            Self::Mutex => "by hand: Mutex",
            Self::OnceCell => "OnceCell",
        }
    }

    /// What the time is held against: the least that a waiter of this kind does.
    #[must_use]
    pub fn floor(self) -> Self {
        match self {
            Self::Layer | Self::Request => Self::Request,
            Self::NeverReplay | Self::RequestUnkept => Self::RequestUnkept,
            _ => Self::Notify,
        }
    }

    /// Larger herds take these too long.
    fn limit(self) -> usize {
        match self {
            Self::Mutex | Self::OnceCell => 10_000,
            _ => usize::MAX,
        }
    }
}

/// What they wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Ends {
    Well,
    /// The source refuses, and is not asked again.
    Badly,
}

/// One herd, again and again. Times in microseconds from the arrival.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Herd {
    pub who: Who,
    /// Workers of the runtime.
    pub threads: usize,
    pub ends: Ends,
    pub waiters: usize,
    /// How often a token was asked for in one turn, at most.
    pub requests: u64,
    pub first: Spread,
    pub median: Spread,
    pub last: Spread,
    /// How many times as long as that of [`Who::floor`] in the same turn.
    pub over: Spread,
}

/// Herds of `waiters` tasks, by all who can, in `turns` turns.
///
/// # Panics
///
/// If more than one token request was made, or a waiter got something else than what arrived.
#[must_use]
pub fn arrivals(threads: usize, waiters: usize, ends: Ends, turns: usize) -> Vec<Herd> {
    let field = Field::new(threads, waiters);
    let who: Vec<Who> = Who::ALL
        .into_iter()
        .filter(|who| waiters <= who.limit())
        // Where a waiter is not told of the failure it asks by itself: see `refusals`.
        .filter(|who| ends == Ends::Well || !matches!(who, Who::Mutex | Who::OnceCell))
        .collect();
    let mut turned: Vec<Vec<Turn>> = who.iter().map(|_| Vec::new()).collect();
    // One turn more: the first warms up.
    for turn in 0..=turns {
        for place in 0..who.len() {
            let place = (place + turn) % who.len();
            let one = field.turn(who[place], ends);
            assert!(one.requests == 1, "{}: {} token requests", who[place].name(), one.requests);
            if turn > 0 {
                turned[place].push(one);
            }
        }
    }
    let herds = who.iter().zip(&turned).map(|(&one, turns)| {
        let floor = who.iter().position(|&who| who == one.floor()).unwrap_or_default();
        Herd::of(one, (threads, ends), waiters, turns, &turned[floor])
    });
    herds.collect()
}

impl Herd {
    fn of(
        who: Who,
        (threads, ends): (usize, Ends),
        waiters: usize,
        turns: &[Turn],
        floor: &[Turn],
    ) -> Self {
        let pairs = turns.iter().zip(floor);
        let spread = |part: fn(&Turn) -> Duration| {
            Spread::of(turns.iter().map(|turn| part(turn).as_secs_f64() * 1e6).collect())
        };
        Self {
            who,
            threads,
            ends,
            waiters,
            requests: turns.iter().map(|turn| turn.requests).max().unwrap_or_default(),
            first: spread(|turn| turn.first),
            median: spread(|turn| turn.median),
            last: spread(|turn| turn.last),
            over: Spread::of(
                pairs
                    .map(|(turn, floor)| turn.last.as_secs_f64() / floor.last.as_secs_f64())
                    .collect(),
            ),
        }
    }
}

/// One herd, once.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub requests: u64,
    pub first: Duration,
    pub median: Duration,
    pub last: Duration,
}

/// A runtime, and where its waiters leave their times. It lives as long as the program, so that no
/// waiter has a count to keep of it.
#[derive(Clone, Copy)]
pub struct Field {
    runtime: &'static Runtime,
    notes: &'static Notes,
}

struct Notes {
    token: String,
    requests: AtomicU64,
    /// How many tasks have been seen to wait.
    waiting: AtomicUsize,
    gate: Notify,
    /// Nanoseconds since `origin`.
    arrived: AtomicU64,
    served: Vec<AtomicU64>,
    origin: Instant,
    /// What the floor waits for.
    bell: Notify,
}

impl Notes {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run of less than 500 years")
    }

    /// The token endpoint.
    async fn fetch(&self, ends: Ends) -> Result<String, TokenError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.gate.notified().await;
        let answer = match ends {
            Ends::Well => Ok(self.token.clone()),
            Ends::Badly => Err(TokenError::new(ErrorClass::Credentials, "refused")),
        };
        self.arrived.store(self.now(), Ordering::Relaxed);
        answer
    }

    /// One waiter's task. `future` says whether it got what was to be had.
    async fn wait(&self, place: usize, future: impl Future<Output = bool>) {
        {
            let mut future = pin!(future);
            let mut seen = false;
            let as_it_should = poll_fn(|cx| {
                let poll = future.as_mut().poll(cx);
                if poll.is_pending() && !seen {
                    seen = true;
                    self.waiting.fetch_add(1, Ordering::Release);
                }
                poll
            });
            assert!(as_it_should.await, "a waiter got something else than what arrived");
        }
        self.served[place].store(self.now(), Ordering::Release);
    }
}

impl Field {
    /// # Panics
    ///
    /// If there are no threads to be had.
    #[must_use]
    pub fn new(threads: usize, waiters: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_time()
            .build()
            .expect("a runtime");
        let notes = Notes {
            token: token(TOKEN_LENGTH),
            requests: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            gate: Notify::new(),
            arrived: AtomicU64::new(0),
            served: (0..waiters).map(|_| AtomicU64::new(0)).collect(),
            origin: Instant::now(),
            bell: Notify::new(),
        };
        Self { runtime: Box::leak(Box::new(runtime)), notes: Box::leak(Box::new(notes)) }
    }

    /// One herd, from the first task to the last.
    ///
    /// # Panics
    ///
    /// If a waiter got something else than what arrived, or nothing for a minute.
    #[must_use]
    pub fn turn(&self, who: Who, ends: Ends) -> Turn {
        let notes = self.notes;
        notes.requests.store(0, Ordering::Relaxed);
        notes.waiting.store(0, Ordering::Relaxed);
        notes.served.iter().for_each(|served| served.store(0, Ordering::Relaxed));
        self.spawn(who, ends);
        let patience = Instant::now() + Duration::from_secs(60);
        while notes.waiting.load(Ordering::Acquire) < notes.served.len() {
            assert!(Instant::now() < patience, "{}: not all of them wait", who.name());
            thread::sleep(Duration::from_millis(1));
        }
        // Until the workers sleep.
        thread::sleep(Duration::from_millis(5));
        notes.gate.notify_one();
        for served in &notes.served {
            while served.load(Ordering::Acquire) == 0 {
                assert!(Instant::now() < patience, "{}: not all are served", who.name());
                thread::sleep(Duration::from_millis(1));
            }
        }
        // Until the last tasks are gone.
        thread::sleep(Duration::from_millis(2));
        let arrived = notes.arrived.load(Ordering::Relaxed);
        let mut after: Vec<u64> = notes
            .served
            .iter()
            .map(|served| served.load(Ordering::Relaxed).saturating_sub(arrived))
            .collect();
        after.sort_unstable();
        Turn {
            requests: notes.requests.load(Ordering::Relaxed),
            first: Duration::from_nanos(after[0]),
            median: Duration::from_nanos(after[after.len() / 2]),
            last: Duration::from_nanos(after[after.len() - 1]),
        }
    }

    fn spawn(&self, who: Who, ends: Ends) {
        let notes = self.notes;
        let places = 0..notes.served.len();
        match who {
            Who::Notify => {
                for place in places {
                    self.runtime.spawn(notes.wait(place, async {
                        notes.bell.notified().await;
                        true
                    }));
                }
                self.runtime.spawn(async move {
                    let _what_arrived = notes.fetch(ends).await;
                    notes.bell.notify_waiters();
                });
            }
            Who::NotifyInArc => {
                let bell = Arc::new(Notify::new());
                for place in places {
                    let bell = Arc::clone(&bell);
                    self.runtime.spawn(notes.wait(place, async move {
                        bell.notified().await;
                        true
                    }));
                }
                self.runtime.spawn(async move {
                    let _what_arrived = notes.fetch(ends).await;
                    bell.notify_waiters();
                });
            }
            Who::Cache => {
                let cache = self.cache(ends);
                for place in places {
                    let token = cache.token();
                    self.runtime.spawn(
                        notes.wait(
                            place,
                            async move { token.await.is_ok() == (ends == Ends::Well) },
                        ),
                    );
                }
            }
            Who::Request | Who::RequestUnkept => {
                let header = HeaderValue::from_str(&format!("Bearer {}", notes.token));
                let header = header.expect("a header");
                for place in places {
                    let header = header.clone();
                    self.runtime.spawn(notes.wait(place, async move {
                        let mut request = request();
                        notes.bell.notified().await;
                        if ends == Ends::Badly {
                            return true;
                        }
                        let kept = (who == Who::Request).then(|| request.clone());
                        request.headers_mut().insert(header::AUTHORIZATION, header);
                        let answer = Inner.call(request).await;
                        drop(black_box(kept));
                        answer.is_ok()
                    }));
                }
                self.runtime.spawn(async move {
                    let _what_arrived = notes.fetch(ends).await;
                    notes.bell.notify_waiters();
                });
            }
            Who::Layer => {
                let layer = OAuthClientCredentialsLayer::from_cache(self.cache(ends));
                self.spawn_calls(&layer.layer(Inner), ends);
            }
            Who::NeverReplay => {
                let layer = OAuthClientCredentialsLayer::from_cache(self.cache(ends));
                self.spawn_calls(&layer.never_replay().layer(Inner), ends);
            }
            Who::Mutex => {
                let held = Arc::new(Mutex::new(None::<ByHand>));
                for place in places {
                    let held = Arc::clone(&held);
                    self.runtime.spawn(notes.wait(place, async move {
                        by_hand(&held, || notes.fetch(ends)).await.is_ok() == (ends == Ends::Well)
                    }));
                }
            }
            Who::OnceCell => {
                let cell = Arc::new(OnceCell::new());
                for place in places {
                    let cell = Arc::clone(&cell);
                    self.runtime.spawn(notes.wait(place, async move {
                        cell.get_or_try_init(|| notes.fetch(ends)).await.is_ok()
                            == (ends == Ends::Well)
                    }));
                }
            }
        }
    }

    fn spawn_calls<S>(&self, service: &S, ends: Ends)
    where
        S: Service<Request<Body>, Error: Debug, Future: Send> + Clone + Send + 'static,
    {
        let notes = self.notes;
        for place in 0..notes.served.len() {
            let mut service = service.clone();
            self.runtime.spawn(notes.wait(place, async move {
                service.ready().await.expect("a service that is always ready");
                service.call(request()).await.is_ok() == (ends == Ends::Well)
            }));
        }
    }

    fn cache(&self, ends: Ends) -> TokenCache {
        let notes = self.notes;
        TokenCache::new(source_fn(move |_| async move {
            let token = notes.fetch(ends).await?;
            Ok(TokenResponse::bearer(token)?.expires_in(Duration::from_secs(86_400)))
        }))
    }
}

/// What one writes for oneself.
struct ByHand {
    token: String,
    expires_at: Instant,
}

async fn by_hand<F>(
    held: &Mutex<Option<ByHand>>,
    fetch: impl FnOnce() -> F,
) -> Result<String, TokenError>
where
    F: Future<Output = Result<String, TokenError>>,
{
    let mut held = held.lock().await;
    if let Some(held) = held.as_ref().filter(|held| Instant::now() < held.expires_at) {
        return Ok(held.token.clone());
    }
    let token = fetch().await?;
    let expires_at = Instant::now() + Duration::from_secs(86_400);
    *held = Some(ByHand { token: token.clone(), expires_at });
    Ok(token)
}

/// A herd whose token endpoint takes its time and then refuses.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refusal {
    pub who: Who,
    pub waiters: usize,
    /// In one turn, at most.
    pub requests: u64,
    /// Milliseconds from the first task to the last waiter's failure.
    pub last: Spread,
}

/// Herds of `waiters` tasks, each turn with an endpoint that answers after `latency`.
///
/// # Panics
///
/// If a waiter gets a token.
#[must_use]
pub fn refusals(waiters: usize, latency: Duration, turns: usize) -> Vec<Refusal> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    let refusals = [Who::Cache, Who::Layer, Who::Mutex, Who::OnceCell].map(|who| {
        let turns = (0..turns).map(|_| refusal(&runtime, who, waiters, latency));
        let (requests, last): (Vec<u64>, Vec<f64>) = turns.unzip();
        let requests = requests.into_iter().max().unwrap_or_default();
        Refusal { who, waiters, requests, last: Spread::of(last) }
    });
    refusals.to_vec()
}

fn refusal(runtime: &Runtime, who: Who, waiters: usize, latency: Duration) -> (u64, f64) {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let fetch = move || async move {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(latency).await;
        Err::<String, _>(TokenError::new(ErrorClass::Credentials, "refused"))
    };
    REQUESTS.store(0, Ordering::Relaxed);
    let started = OnceLock::new();
    let failures = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let begin = || started.get_or_init(Instant::now);
        match who {
            Who::Cache | Who::Layer => {
                let source =
                    source_fn(move |_| async move { TokenResponse::bearer(fetch().await?) });
                let cache = TokenCache::new(source);
                let service = OAuthClientCredentialsLayer::from_cache(cache.clone()).layer(Inner);
                begin();
                for _ in 0..waiters {
                    if who == Who::Cache {
                        let token = cache.token();
                        tasks.spawn(async { token.await.is_err() });
                    } else {
                        let answer = service.clone().oneshot(request());
                        tasks.spawn(async { answer.await.is_err() });
                    }
                }
            }
            Who::OnceCell => {
                let cell = Arc::new(OnceCell::new());
                begin();
                for _ in 0..waiters {
                    let cell = Arc::clone(&cell);
                    tasks.spawn(async move { cell.get_or_try_init(fetch).await.is_err() });
                }
            }
            _ => {
                let held = Arc::new(Mutex::new(None));
                begin();
                for _ in 0..waiters {
                    let held = Arc::clone(&held);
                    tasks.spawn(async move { by_hand(&held, fetch).await.is_err() });
                }
            }
        }
        tasks.join_all().await
    });
    assert!(failures.into_iter().all(|failed| failed), "a token out of nowhere");
    let took = started.get().map(Instant::elapsed).unwrap_or_default();
    (REQUESTS.load(Ordering::Relaxed), took.as_secs_f64() * 1e3)
}
