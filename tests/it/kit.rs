//! Shared by the tests of a token's lifetime: a client between a scripted authorization server and
//! a scripted API, on clocks that only the test moves.

use std::{
    pin::pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, Builder, OAuthClientCredentials, OAuthClientCredentialsLayer, TokenCache, TokenError,
    credentials::RotatingSecret,
    testing::{AuthorizationServer, InMemory, ManualClock, ProtectedApi, ResponseBody},
};

pub(crate) type Client = OAuthClientCredentials<InMemory>;
pub(crate) type ApiResponse = Response<ResponseBody>;

pub(crate) const INVALID_TOKEN: &str = r#"Bearer error="invalid_token""#;

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A client, the two servers that it uses, and the clock.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) server: AuthorizationServer,
    pub(crate) api: ProtectedApi,
    pub(crate) layer: OAuthClientCredentialsLayer,
    pub(crate) client: Client,
    _limit: Watchdog,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// Creates the kit with more settings.
    pub(crate) fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        Self::made(|builder| {
            settings(builder.client_id("test-client").client_secret("test-secret"))
        })
    }

    /// Creates the kit with credentials that the server does not know.
    pub(crate) fn with_credentials(credentials: RotatingSecret) -> Self {
        Self::made(|builder| builder.credentials(credentials))
    }

    fn made(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let limit = Watchdog::start(secs(300));
        let clock = ManualClock::new();
        let server = AuthorizationServer::builder().clock(clock.clone()).build();
        let api = ProtectedApi::new(&server);
        let builder = OAuthClientCredentialsLayer::builder()
            .token_url(server.token_url())
            .transport(server.service())
            .clock(clock.clone())
            .jitter_seed(7);
        let layer = settings(builder).build().unwrap();
        let client = layer.layer(api.service());
        Self { clock, server, api, layer, client, _limit: limit }
    }

    pub(crate) fn cache(&self) -> TokenCache {
        self.layer.cache()
    }

    /// Makes a call through a fresh clone of the client.
    pub(crate) fn call(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<ApiResponse, BoxError>> + Send + use<> {
        self.client.clone().oneshot(get(path))
    }

    /// Makes a call that must get a response.
    pub(crate) async fn status(&self, path: &str) -> StatusCode {
        within(secs(120), self.call(path)).await.unwrap().status()
    }

    /// Makes a call that must fail because there is no token.
    pub(crate) async fn error(&self, path: &str) -> TokenError {
        token_error(&within(secs(120), self.call(path)).await.unwrap_err())
    }

    /// Makes many concurrent calls, each in its own task.
    pub(crate) async fn crowd(&self, size: usize) -> Vec<Result<StatusCode, TokenError>> {
        let calls: Vec<_> = (0..size).map(|_| tokio::spawn(self.call("/"))).collect();
        let mut results = Vec::with_capacity(size);
        for call in calls {
            results.push(match within(secs(120), call).await.unwrap() {
                Ok(response) => Ok(response.status()),
                Err(error) => Err(token_error(&error)),
            });
        }
        results
    }

    /// Returns the number of token requests sent, whether or not they arrived.
    pub(crate) fn token_requests(&self) -> u64 {
        self.server.requests() as u64 + self.server.refused_connections()
    }

    /// Checks that no request reached the API with an expired token.
    pub(crate) fn assert_no_expired_token_went_out(&self) {
        let journal = self.api.journal();
        assert!(journal.iter().all(|call| call.is_authorized()), "an expired token went out");
    }
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://api.example.com{path}")).body(Full::default()).unwrap()
}

pub(crate) fn token_error(error: &BoxError) -> TokenError {
    error.downcast_ref::<TokenError>().expect("an error about the token").clone()
}

/// Advances the time and runs all tasks that are due.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    settle().await;
}

/// Runs all tasks that can make progress. No time passes.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Awaits `future`, with a limit in the paused clock's time.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> F::Output {
    tokio::time::timeout(limit, future).await.expect("this hangs")
}

/// Polls once, with a no-op waker.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Ends the process if a test takes this much real time. A paused clock does not stop a busy loop.
pub(crate) struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(limit: Duration) -> Self {
        let (alive, died) = mpsc::channel();
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            if died.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test}: not done after {limit:?}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// A generator of reproducible random numbers (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from `low` up to, but not including, `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low)
    }

    pub(crate) fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = usize::try_from(self.between(0, choices.len() as u64)).unwrap();
        &choices[at]
    }
}

/// Returns a number from the environment, to run a test for longer or with a specific seed.
pub(crate) fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
