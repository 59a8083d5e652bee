//! A simulated month of a client, with outages, slow responses, 429s, revocations, rotated secrets,
//! clock steps and suspends, on a schedule derived from a seed.
//!
//! To repeat a seed: `MONTH_SEED=7 cargo test --all-features --test it month`.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, NotReplaced, OAuthClientCredentialsLayer, TokenError,
    credentials::RotatingSecret,
    endpoint::TransportRequestBody,
    testing::{AuthorizationServer, InMemory, ManualClock, ProtectedApi, ResponseBody},
};

use crate::kit::{Dice, Watchdog, from_env, get, secs};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// One call per minute, about 40,000 in total.
const PACE: Duration = Duration::from_secs(60);

/// Tokens that are not explained by a lifetime, revocation, suspend or clock step: the first, and
/// the one at the end that is not used up.
const SMALL_CONSTANT: u64 = 2;

/// The fault of the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Down,
    /// Slower, but within the timeout of an attempt.
    Slow(u64),
    /// Slower than the timeout of an attempt.
    TooSlow,
    /// Responds 429 with this `Retry-After`.
    Throttled(u64),
}

impl Trouble {
    /// No token is available, nor for the longest backoff afterwards.
    fn lasts(self) -> Option<Duration> {
        match self {
            Self::None | Self::Slow(_) => None,
            Self::Down | Self::TooSlow => Some(secs(60)),
            Self::Throttled(seconds) => Some(secs(seconds.max(60))),
        }
    }
}

#[derive(Clone)]
struct Road {
    trouble: Arc<Mutex<Trouble>>,
    server: InMemory,
}

impl Road {
    async fn carry(
        self,
        request: http::Request<TransportRequestBody>,
    ) -> Result<http::Response<ResponseBody>, BoxError> {
        let trouble = *self.trouble.lock().unwrap();
        match trouble {
            Trouble::None => {}
            Trouble::Down => return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Trouble::Slow(seconds) => tokio::time::sleep(secs(seconds)).await,
            // The request is lost as well, since a token that no caller receives would count as
            // issued.
            Trouble::TooSlow => std::future::pending().await,
            Trouble::Throttled(seconds) => {
                let throttling = AuthorizationServer::new();
                throttling.respond_once(
                    tower_oauth2_client_credentials::testing::Answer::too_many_requests(
                        &seconds.to_string(),
                    ),
                );
                return Ok(throttling.service().oneshot(request).await?);
            }
        }
        Ok(self.server.oneshot(request).await?)
    }
}

/// An API that does not accept a token at once.
#[derive(Clone)]
struct Lagging {
    api: InMemory,
    lag: Duration,
    clock: ManualClock,
    first_used: Arc<Mutex<HashMap<Vec<u8>, Duration>>>,
}

impl Lagging {
    async fn answer(
        self,
        request: http::Request<http_body_util::Full<bytes::Bytes>>,
    ) -> io::Result<http::Response<ResponseBody>> {
        let token = request.headers()[http::header::AUTHORIZATION].as_bytes().to_vec();
        let mut response = self.api.oneshot(request).await?;
        let now = self.clock.elapsed();
        let first = *self.first_used.lock().unwrap().entry(token).or_insert(now);
        if now < first + self.lag {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok(response)
    }
}

/// How long a token without a former one may be rejected: by the lag, and by the pause after the
/// first attempt to cure that.
fn settles(lag: Duration) -> Duration {
    if lag.is_zero() { lag } else { lag + secs(120) }
}

async fn live_through(seed: u64, lifetime: Duration, lag: Duration) {
    let mut dice = Dice::seeded(seed);
    let clock = ManualClock::new();
    let server = AuthorizationServer::builder().clock(clock.clone()).build();
    server.issue_for(lifetime);
    let api = ProtectedApi::new(&server);
    let secret = RotatingSecret::new("test-client", "test-secret");
    let trouble = Arc::new(Mutex::new(Trouble::None));
    let road = Road { trouble: Arc::clone(&trouble), server: server.service() };
    let layer = OAuthClientCredentialsLayer::builder()
        .token_url(server.token_url())
        .credentials(secret.clone())
        .transport(tower::service_fn(move |request| road.clone().carry(request)))
        .clock(clock.clone())
        .jitter_seed(seed)
        .build()
        .unwrap();
    let mut cache = layer.cache();
    let lagging =
        Lagging { api: api.service(), lag, clock: clock.clone(), first_used: Arc::default() };
    let mut client = layer.layer(tower::service_fn(move |request| lagging.clone().answer(request)));

    let (mut revocations, mut steps) = (0, 0);
    let mut trouble_until = Duration::ZERO;
    let mut next_event = secs(3600);
    let mut new_secret: Option<(Duration, String)> = None;
    // Until then a token may be unavailable.
    let mut excused_until = Duration::ZERO;
    let (mut calls, mut failed) = (0_u64, 0_u64);

    while clock.elapsed() < MONTH {
        let now = clock.elapsed();
        if now >= trouble_until {
            let over = std::mem::replace(&mut *trouble.lock().unwrap(), Trouble::None);
            if let Some(lasts) = over.lasts() {
                excused_until = excused_until.max(now + lasts + settles(lag));
            }
        }
        if new_secret.as_ref().is_some_and(|(at, _)| now >= *at) {
            secret.set(new_secret.take().unwrap().1);
            // The token may have expired meanwhile, without a former one.
            excused_until = excused_until.max(now + settles(lag));
        }
        if now >= next_event {
            next_event = now + secs(dice.between(600, 4 * 3600));
            // A new fault ends the previous one.
            if let Some(lasts) =
                std::mem::replace(&mut *trouble.lock().unwrap(), Trouble::None).lasts()
            {
                excused_until = excused_until.max(now + lasts + settles(lag));
            }
            match dice.between(0, 9) {
                0 | 1 => *trouble.lock().unwrap() = Trouble::Down,
                2 => *trouble.lock().unwrap() = Trouble::Slow(dice.between(1, 9)),
                3 => *trouble.lock().unwrap() = Trouble::TooSlow,
                4 => {
                    let seconds = *dice.one_of(&[1, 5, 20, 300, 86_400]);
                    *trouble.lock().unwrap() = Trouble::Throttled(seconds.min(900));
                }
                5 => {
                    server.revoke_all();
                    revocations += 1;
                }
                6 => {
                    // The server gets the new secret first, and the client a little later.
                    let text = format!("secret-{}", dice.roll());
                    server.change_secret("test-client", text.clone());
                    new_secret = Some((now + secs(dice.between(0, 600)), text));
                }
                7 => {
                    let by = secs(dice.between(1, 5 * 3600));
                    if dice.roll().is_multiple_of(2) {
                        clock.step_wall_forward(by);
                    } else {
                        clock.step_wall_back(by);
                    }
                    steps += 1;
                }
                _ => {
                    clock.suspend(secs(dice.between(600, 8 * 3600)));
                    steps += 1;
                }
            }
            // The next token may have no former one to stand in for it.
            excused_until = excused_until.max(clock.elapsed() + settles(lag));
            let trouble = *trouble.lock().unwrap();
            if trouble != Trouble::None {
                trouble_until = now + secs(*dice.one_of(&[20, 120, 600, 3 * 3600]));
            }
        }

        let excused = trouble.lock().unwrap().lasts().is_some()
            || new_secret.is_some()
            || clock.elapsed() <= excused_until;
        calls += 1;
        let started = clock.wall();
        match (&mut client).oneshot(get("/")).await {
            Ok(response) if response.status() == StatusCode::OK => {}
            Ok(response) => {
                failed += 1;
                let reason = response.extensions().get::<NotReplaced>();
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                assert!(excused, "401, and a token could have been had: {reason:?}");
            }
            Err(error) => {
                failed += 1;
                let error = error.downcast_ref::<TokenError>().expect("about the token").clone();
                assert!(cache.peek().is_none(), "an error in spite of a token: {error:?}");
                assert!(excused, "an error, and a token could have been had: {error:?}");
            }
        }
        let took = clock.wall().duration_since(started).unwrap_or_default();
        assert!(took <= secs(31), "a call took {took:?}");
        tokio::time::sleep(PACE).await;
    }

    // The earliest renewal: the margin, the window and the maximum jitter before the end.
    let least = lifetime - secs(30) - secs(300) - secs(60);
    let lifetimes = clock.elapsed().as_secs() / least.as_secs();
    let mut most = lifetimes + revocations + steps + SMALL_CONSTANT;
    if !lag.is_zero() {
        // One more where a token had no former one.
        most += revocations + steps;
    }
    let issued = cache.issued();
    assert!(issued <= most, "{issued} tokens, {lifetimes} lifetimes, {revocations} revocations");
    assert!(calls > 10_000 && failed < calls / 4, "{failed} of {calls} calls failed");
}

fn month(lifetime: Duration, lag: Duration) {
    let _limit = Watchdog::start(secs(600));
    let seeds: Vec<u64> = from_env("MONTH_SEED").map_or_else(|| SEEDS.collect(), |seed| vec![seed]);
    for seed in seeds {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap()
                .block_on(live_through(seed, lifetime, lag));
        }));
        if let Err(panic) = lived {
            eprintln!("again: MONTH_SEED={seed} cargo test --all-features --test it month");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_month_with_tokens_of_an_hour() {
    month(secs(3600), Duration::ZERO);
}

#[test]
fn a_month_with_tokens_of_a_day() {
    month(secs(86_400), Duration::ZERO);
}

#[test]
fn a_month_with_an_api_that_accepts_a_token_two_seconds_after_its_first_use() {
    month(secs(3600), secs(2));
}

#[test]
fn a_month_with_an_api_that_accepts_a_token_a_minute_after_its_first_use() {
    month(secs(3600), secs(60));
}
