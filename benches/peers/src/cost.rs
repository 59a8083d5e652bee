//! What a request with a token at hand costs where the token is long, where it is only looked at,
//! and where it is rejected and a newer one is at hand.

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use tower::{Layer, Service, retry::RetryLayer};
use tower_http::auth::AddAuthorizationLayer;
use tower_oauth2_client_credentials::{
    AccessToken, NotReplaced, OAuthClientCredentials, OAuthClientCredentialsLayer, TokenCache,
    TokenResponse, source_fn,
};

use crate::{
    Worker,
    callgrind::{self, Instructions},
    common::{Body, Inner, On401, TOKEN_LENGTH, cache, drive, layer, request, token, warm},
    measure::{Spread, batch, on_threads, over, settle},
};

/// Nanoseconds for a look at the token: the pointer, the header, its first byte.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Peek {
    pub threads: usize,
    /// By a plain reference.
    pub reference: Spread,
    pub peek: Spread,
    /// In each turn, what `peek` takes longer.
    pub over: Spread,
}

/// # Panics
///
/// If the token is gone, or a thread is.
#[must_use]
pub fn peeks(threads: usize, turns: usize) -> Peek {
    let cache = cache(TOKEN_LENGTH);
    let many = |make: &dyn Fn() -> Worker| (0..threads).map(|_| make()).collect::<Vec<_>>();
    let time = Duration::from_millis(20);
    let (mut references, mut peeks, mut overs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        let reference = on_threads(many(&|| by_reference(&cache)), time);
        let peek = on_threads(many(&|| peeking(&cache)), time);
        references.push(reference);
        peeks.push(peek);
        overs.push(peek - reference);
    }
    Peek {
        threads,
        reference: Spread::of(references),
        peek: Spread::of(peeks),
        over: Spread::of(overs),
    }
}

/// Looks at the token of `cache` by a handle of its own.
pub fn peeking(cache: &TokenCache) -> Worker {
    let mut cache = cache.clone();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let token = black_box(&mut cache).peek();
            look(token.expect("a token"));
        }
    })
}

/// The same without a cache.
pub fn by_reference(cache: &TokenCache) -> Worker {
    let token = cache.clone().peek().expect("a token").clone();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            look(black_box(&token));
        }
    })
}

#[inline]
fn look(token: &AccessToken) {
    black_box(token.header().as_bytes()[0]);
}

/// Lengths of tokens, from an opaque one to the longest that is taken.
pub const LENGTHS: [usize; 5] = [40, 200, 1_200, 4_096, 16_384];

/// Who puts a token on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Way {
    Bare,
    AddAuthorization,
    NeverReplay,
    Replay,
}

impl Way {
    pub const ALL: [Self; 4] =
        [Self::Bare, Self::AddAuthorization, Self::NeverReplay, Self::Replay];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::AddAuthorization => "AddAuthorization",
            Self::NeverReplay => "never_replay",
            Self::Replay => "replay",
        }
    }

    /// For [`worked`].
    fn base(self) -> &'static str {
        match self {
            Self::Bare => "base of bare",
            Self::AddAuthorization => "base of AddAuthorization",
            Self::NeverReplay => "base of never_replay",
            Self::Replay => "base of replay",
        }
    }

    /// Makes requests with a token of `length` bytes.
    #[must_use]
    pub fn worker(self, length: usize) -> Worker {
        let layer = || OAuthClientCredentialsLayer::from_cache(cache(length));
        match self {
            Self::Bare => Box::new(|rounds| drive(&mut Inner, rounds)),
            Self::AddAuthorization => {
                let mut service = AddAuthorizationLayer::bearer(&token(length)).layer(Inner);
                Box::new(move |rounds| drive(&mut service, rounds))
            }
            Self::NeverReplay => {
                let mut service = warm(layer().never_replay().layer(Inner));
                Box::new(move |rounds| drive(&mut service, rounds))
            }
            Self::Replay => {
                let mut service = warm(layer().layer(Inner));
                Box::new(move |rounds| drive(&mut service, rounds))
            }
        }
    }
}

/// A worker by the name of its way, or by that of its base: the bare service, in a process that is
/// set up for the way and has the same heap.
#[must_use]
pub fn worked(name: &str, length: usize) -> Option<Worker> {
    let way = Way::ALL.into_iter().find(|way| [way.name(), way.base()].contains(&name))?;
    let (mut own, mut bare) = (way.worker(length), Way::Bare.worker(length));
    let is_own = name == way.name();
    // Both are made, whichever works: the heap is the same.
    Some(Box::new(move |rounds| if is_own { own(rounds) } else { bare(rounds) }))
}

/// What a request costs over the bare service.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Length {
    pub way: Way,
    pub bytes: usize,
    pub nanoseconds: Spread,
    pub instructions: Instructions,
}

/// Every way with every length. `child` is the argument by which this program runs [`worked`] with
/// a length, for callgrind.
#[must_use]
pub fn lengths(batches: usize, child: &str) -> Vec<Length> {
    const ROUNDS: u64 = 2_000;
    const HEAPS: usize = 3;
    let ways = &Way::ALL[1..];
    let mut base = Way::Bare.worker(0);
    let mut found: Vec<(Way, usize, Worker, Vec<f64>)> = LENGTHS
        .iter()
        .flat_map(|&bytes| ways.iter().map(move |&way| (way, bytes, way.worker(bytes), vec![])))
        .collect();
    settle(|| {
        for (_, _, worker, _) in &mut found {
            worker(10);
        }
    });
    for _ in 0..batches {
        for (_, _, worker, samples) in &mut found {
            samples.extend(over(worker, &mut base, 1, ROUNDS));
        }
    }
    found
        .into_iter()
        .map(|(way, bytes, _, samples)| Length {
            way,
            bytes,
            nanoseconds: Spread::of(samples),
            instructions: {
                let bytes = bytes.to_string();
                let (own, base) = ([child, way.name(), &bytes], [child, way.base(), &bytes]);
                callgrind::over(&own, &base, HEAPS)
            },
        })
        .collect()
}

/// Nanoseconds for one request that is sent again, beside one that is accepted, both by the layer
/// with replay: build, call, poll, drop.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Detour {
    /// What the rejection says.
    pub challenge: Challenge,
    pub accepted: Spread,
    pub rejected: Spread,
    pub ratio: Spread,
}

/// What stands in the `WWW-Authenticate` of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Challenge {
    /// There is none.
    None,
    /// As in RFC 6750 section 3.
    InvalidToken,
}

const CHALLENGE: &str =
    "Bearer realm=\"api\", error=\"invalid_token\", error_description=\"The token has expired\"";

/// The API takes one token only, the newest.
#[derive(Clone)]
struct Picky {
    newest: &'static AtomicU64,
    /// How many requests have arrived.
    sent: &'static AtomicU64,
    challenge: Challenge,
}

impl Service<Request<Body>> for Picky {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let token = request.headers().get(header::AUTHORIZATION).and_then(number);
        drop(black_box(request));
        self.sent.fetch_add(1, Ordering::Relaxed);
        Answer { token, api: self.clone() }
    }
}

/// Judges the token when it is polled, not when the request is sent.
struct Answer {
    token: Option<u64>,
    api: Picky,
}

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = Response::new(Body::default());
        if self.token != Some(self.api.newest.load(Ordering::Relaxed)) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            if self.api.challenge == Challenge::InvalidToken {
                let challenge = HeaderValue::from_static(CHALLENGE);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
        }
        Poll::Ready(Ok(response))
    }
}

/// The number that a token begins with.
fn number(header: &HeaderValue) -> Option<u64> {
    let digits = header.as_bytes().get(7..15)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// In each turn, some requests go out with a token that is then replaced, because one more of them
/// was rejected; the rest find the newer one at hand when their rejections arrive.
///
/// # Panics
///
/// If a request is not accepted in the end.
#[must_use]
pub fn detours(challenge: Challenge, turns: usize) -> Detour {
    let (mut accepted, mut rejected, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let scene = Scene::new(challenge);
    for turn in 0..=turns {
        let (plain, detour) = (scene.accepted(), scene.rejected());
        // The first warms up.
        if turn > 0 {
            accepted.push(plain);
            rejected.push(detour);
            ratios.push(detour / plain);
        }
    }
    Detour {
        challenge,
        accepted: Spread::of(accepted),
        rejected: Spread::of(rejected),
        ratio: Spread::of(ratios),
    }
}

/// An API, a layer before it, and requests in flight between.
pub struct Scene {
    runtime: tokio::runtime::Runtime,
    newest: &'static AtomicU64,
    /// How many requests have arrived.
    sent: &'static AtomicU64,
    challenge: Challenge,
}

/// Requests in flight at the same time.
const IN_FLIGHT: usize = 32;

impl Scene {
    /// # Panics
    ///
    /// If there is no runtime to be had.
    #[must_use]
    pub fn new(challenge: Challenge) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let number = |start| -> &'static AtomicU64 { Box::leak(Box::new(AtomicU64::new(start))) };
        Self { runtime, newest: number(1), sent: number(0), challenge }
    }

    /// A layer of its own for each turn: one alone would soon force no more renewals, as rejections
    /// that come one after the other are not believed for ever.
    fn service(&self) -> OAuthClientCredentials<Picky> {
        let newest = self.newest;
        let cache = TokenCache::new(source_fn(move |_| async move {
            let token =
                format!("{:08x}{}", newest.load(Ordering::Relaxed), token(TOKEN_LENGTH - 8));
            Ok(TokenResponse::bearer(token)?.expires_in(Duration::from_secs(86_400)))
        }));
        self.runtime.block_on(cache.token()).expect("a token");
        let layer = OAuthClientCredentialsLayer::from_cache(cache.clone());
        warm(layer.layer(Picky { newest, sent: self.sent, challenge: self.challenge }))
    }

    /// Nanoseconds for one request that is accepted.
    pub fn accepted(&self) -> f64 {
        self.turn(false)
    }

    /// The same for one that is rejected, and then accepted with the token at hand.
    pub fn rejected(&self) -> f64 {
        self.turn(true)
    }

    fn turn(&self, reject: bool) -> f64 {
        let mut cx = Context::from_waker(Waker::noop());
        let mut service = self.service();
        assert!(service.poll_ready(&mut cx).is_ready());
        let first = service.call(request());
        let mut answers = Vec::with_capacity(IN_FLIGHT);

        let start = Instant::now();
        answers.extend((0..IN_FLIGHT).map(|_| service.call(request())));
        let mut took = start.elapsed();

        if reject {
            self.newest.fetch_add(1, Ordering::Relaxed);
        }
        let first = self.runtime.block_on(first).expect("an answer");
        let why = first.extensions().get::<NotReplaced>();
        assert_eq!(first.status(), StatusCode::OK, "{why:?}");

        let sent = self.sent.load(Ordering::Relaxed);
        let start = Instant::now();
        for answer in answers {
            let mut answer = pin!(answer);
            match answer.as_mut().poll(&mut cx) {
                Poll::Ready(Ok(response)) => {
                    assert_eq!(black_box(response).status(), StatusCode::OK);
                }
                _ => panic!("not served at once"),
            }
        }
        took += start.elapsed();
        let again = if reject { IN_FLIGHT } else { 0 };
        let sent = self.sent.load(Ordering::Relaxed) - sent;
        assert_eq!(sent, again as u64, "requests that were sent again");
        took.as_nanos() as f64 / IN_FLIGHT as f64
    }
}

/// Bytes of the futures of a request, each around the same inner one.
#[derive(Clone, Copy, Debug)]
pub struct Futures {
    pub inner: usize,
    pub never_replay: usize,
    pub retry: usize,
    pub replay: usize,
}

#[must_use]
pub fn futures() -> Futures {
    fn size<S: Service<Request<Body>>>(_: &S) -> usize {
        size_of::<S::Future>()
    }
    Futures {
        inner: size(&Inner),
        never_replay: size(&layer().never_replay().layer(Inner)),
        retry: size(&RetryLayer::new(On401).layer(Inner)),
        replay: size(&layer().layer(Inner)),
    }
}

/// For criterion: the time of so many rounds.
pub fn time(worker: &mut Worker, rounds: u64) -> Duration {
    Duration::from_secs_f64(batch(worker, rounds) * rounds as f64 / 1e9)
}
