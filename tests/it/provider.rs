//! A token source and an API that agree on their tokens, except where a test has them disagree: the
//! API lags behind, tokens are revoked at the worst moment, the source breaks in some way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "also the helpers of tests"
)]

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_client_credentials::builder::{ForLayer, FromSource};
use tower_oauth2_client_credentials::token::BoxFuture;
use tower_oauth2_client_credentials::{
    BoxError, Builder, ErrorClass, OAuthClientCredentials, OAuthClientCredentialsLayer, TokenError,
    TokenResponse, source_fn, testing::ManualClock,
};

use crate::kit::{Dice, INVALID_TOKEN, Watchdog, get, millis};

pub(crate) const STRONG: Option<&str> = Some(INVALID_TOKEN);
pub(crate) const WEAK: Option<&str> = None;

/// The source and the API. Clones share everything.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) clock: ManualClock,
    books: Arc<Mutex<Books>>,
    _limit: Arc<Watchdog>,
}

/// How the source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// With a token.
    Well,
    /// 503.
    Unavailable,
    /// 200, and no JSON: a token was issued and is lost.
    Garbled,
    /// The connection breaks after the request was sent.
    BreaksOff,
    Panics,
    /// Never.
    Hangs,
}

/// The newest tokens that the API does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lag {
    None,
    /// Those that were issued less than this long ago: its clock is behind.
    Young(Duration),
    /// Those that are signed by the newest key, until this long after the first use of it.
    Key(Duration),
}

#[derive(Debug)]
pub(crate) struct Issued {
    text: String,
    at: Duration,
    lifetime: Duration,
    key: u32,
    is_revoked: bool,
}

/// Everything that there is to know. The fields are for tests to change.
pub(crate) struct Books {
    pub(crate) mood: Mood,
    pub(crate) lag: Lag,
    pub(crate) lifetime: Duration,
    /// How long the source takes before, and after, it issues a token.
    pub(crate) takes: [Duration; 2],
    /// The same, up to so many milliseconds at random.
    pub(crate) takes_up_to: u64,
    /// Every token that is issued within one second is the same.
    pub(crate) same_in_a_second: bool,
    pub(crate) challenge: Option<&'static str>,
    /// The API's answers take up to so many milliseconds.
    pub(crate) api_takes_up_to: u64,
    /// Paths that answer 401 to every token.
    pub(crate) misuses: &'static str,
    pub(crate) dice: Dice,
    pub(crate) tokens: Vec<Issued>,
    /// The times at which the source was asked.
    pub(crate) asked: Vec<Duration>,
    /// How many requests to the source are under way.
    pub(crate) in_flight: usize,
    pub(crate) api_calls: u64,
    key: u32,
    key_first_used: Option<Duration>,
}

impl Provider {
    pub(crate) fn new() -> Self {
        Self::with_clock(ManualClock::new())
    }

    pub(crate) fn with_clock(clock: ManualClock) -> Self {
        let books = Books {
            mood: Mood::Well,
            lag: Lag::None,
            lifetime: Duration::from_secs(3600),
            takes: [Duration::ZERO; 2],
            takes_up_to: 0,
            same_in_a_second: false,
            challenge: STRONG,
            api_takes_up_to: 0,
            misuses: "/misuses",
            dice: Dice::seeded(7),
            tokens: Vec::new(),
            asked: Vec::new(),
            in_flight: 0,
            api_calls: 0,
            key: 0,
            key_first_used: None,
        };
        let limit = Arc::new(Watchdog::start(Duration::from_secs(300)));
        Self { clock, books: Arc::new(Mutex::new(books)), _limit: limit }
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// A client's settings. Clients that are made of different ones share nothing.
    pub(crate) fn builder(&self) -> Builder<ForLayer, FromSource> {
        let provider = self.clone();
        Builder::from_source(source_fn(move |_| provider.clone().issue()))
            .clock(self.clock.clone())
            .jitter_seed(7)
    }

    pub(crate) fn layer(&self) -> OAuthClientCredentialsLayer {
        self.builder().build().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        self.layer().layer(Api(self.clone()))
    }

    pub(crate) fn asked(&self) -> usize {
        self.books().asked.len()
    }

    /// No token that was issued so far is accepted from now on.
    pub(crate) fn revoke_all(&self) {
        self.books().tokens.iter_mut().for_each(|token| token.is_revoked = true);
    }

    /// All but the newest.
    pub(crate) fn revoke_older(&self) {
        let mut books = self.books();
        let older = books.tokens.len().saturating_sub(1);
        books.tokens[..older].iter_mut().for_each(|token| token.is_revoked = true);
    }

    /// Tokens are signed by a new key from now on.
    pub(crate) fn rotate_key(&self) {
        let mut books = self.books();
        books.key += 1;
        books.key_first_used = None;
    }

    async fn issue(self) -> Result<TokenResponse, TokenError> {
        let _in_flight = InFlight::new(&self);
        let (mood, [before, after]) = {
            let mut books = self.books();
            let now = self.clock.elapsed();
            books.asked.push(now);
            let at_random = [books.random_time(), books.random_time()];
            (books.mood, [books.takes[0] + at_random[0], books.takes[1] + at_random[1]])
        };
        sleep(before).await;
        match mood {
            Mood::Well => {}
            Mood::Unavailable => {
                return Err(TokenError::new(ErrorClass::Transient, "503")
                    .with_status(StatusCode::SERVICE_UNAVAILABLE));
            }
            Mood::Garbled => {
                return Err(
                    TokenError::new(ErrorClass::Malformed, "not JSON").with_status(StatusCode::OK)
                );
            }
            Mood::BreaksOff => {
                return Err(TokenError::new(ErrorClass::Transient, "reset").with_unknown_outcome());
            }
            Mood::Panics => panic!("a source that panics, on purpose"),
            Mood::Hangs => std::future::pending().await,
        }
        let (text, lifetime) = self.books().issue(self.clock.elapsed());
        sleep(after).await;
        Ok(TokenResponse::bearer(text)?.expires_in(lifetime))
    }
}

impl Books {
    fn random_time(&mut self) -> Duration {
        match self.takes_up_to {
            0 => Duration::ZERO,
            most => millis(self.dice.between(0, most)),
        }
    }

    fn issue(&mut self, now: Duration) -> (String, Duration) {
        if self.same_in_a_second
            && let Some(last) = self.tokens.last().filter(|t| t.at.as_secs() == now.as_secs())
        {
            return (last.text.clone(), last.lifetime);
        }
        let text = format!("t{}", self.tokens.len() + 1);
        let (lifetime, key) = (self.lifetime, self.key);
        self.tokens.push(Issued { text: text.clone(), at: now, lifetime, key, is_revoked: false });
        (text, lifetime)
    }

    fn accepts(&mut self, text: &str, now: Duration) -> bool {
        let token = self.tokens.iter().find(|token| token.text == text).expect("a token of ours");
        assert!(now < token.at + token.lifetime, "{text} goes out at {now:?}, and has expired");
        let lags = match self.lag {
            Lag::None => false,
            Lag::Young(age) => now < token.at + age,
            Lag::Key(age) if token.key == self.key => {
                now < *self.key_first_used.get_or_insert(now) + age
            }
            Lag::Key(_) => false,
        };
        !lags && !token.is_revoked
    }
}

async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// A request to the source, also when it panics or is dropped.
struct InFlight(Provider);

impl InFlight {
    fn new(provider: &Provider) -> Self {
        provider.books().in_flight += 1;
        Self(provider.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.books().in_flight -= 1;
    }
}

#[derive(Clone)]
pub(crate) struct Api(pub(crate) Provider);

pub(crate) type Client = OAuthClientCredentials<Api>;

impl Service<Request<Full<Bytes>>> for Api {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let provider = self.0.clone();
        Box::pin(async move {
            let takes = {
                let mut books = provider.books();
                match books.api_takes_up_to {
                    0 => Duration::ZERO,
                    most => millis(books.dice.between(0, most)),
                }
            };
            sleep(takes).await;
            let line = request.headers()[header::AUTHORIZATION].to_str().unwrap();
            let text = line.strip_prefix("Bearer ").unwrap();
            let mut books = provider.books();
            books.api_calls += 1;
            let is_accepted = books.accepts(text, provider.clock.elapsed());
            let mut response = Response::new(Full::default());
            if !is_accepted || request.uri().path() == books.misuses {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                if let Some(challenge) = books.challenge {
                    let value = HeaderValue::from_static(challenge);
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
                }
            }
            Ok(response)
        })
    }
}

/// The answer to a call of `client`, or why it has none.
pub(crate) async fn answer(client: &Client, path: &str) -> Result<StatusCode, BoxError> {
    client.clone().oneshot(get(path)).await.map(|response| response.status())
}

/// The calls that failed, by a 401 or an error, and when they were made.
#[derive(Default)]
pub(crate) struct Failures {
    pub(crate) at: Vec<Duration>,
    pub(crate) calls: usize,
    /// The longest that a call took.
    pub(crate) slowest: Duration,
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, ends) = (self.count(), (self.at.first(), self.at.last()));
        write!(f, "{failed} of {} calls failed, from and to {ends:?}", self.calls)
    }
}

impl Failures {
    pub(crate) fn count(&self) -> usize {
        self.at.len()
    }

    /// From the first to the last.
    pub(crate) fn span(&self) -> Duration {
        match (self.at.first(), self.at.last()) {
            (Some(first), Some(last)) => *last - *first,
            _ => Duration::ZERO,
        }
    }
}

impl Provider {
    /// Calls `client` every `pace` for so long, without waiting for the answer to the last call.
    pub(crate) async fn traffic(
        &self,
        client: &Client,
        pace: Duration,
        lasts: Duration,
    ) -> Failures {
        let start = self.clock.elapsed();
        let mut calls = Vec::new();
        while self.clock.elapsed() < start + lasts {
            let (client, clock) = (client.clone(), self.clock.clone());
            calls.push(tokio::spawn(async move {
                let at = clock.elapsed();
                let answer = answer(&client, "/").await;
                (at, clock.elapsed() - at, answer.is_ok_and(|status| status == StatusCode::OK))
            }));
            tokio::time::sleep(pace).await;
        }
        let mut failures = Failures { calls: calls.len(), ..Failures::default() };
        for call in calls {
            let (at, took, is_ok) = call.await.unwrap();
            failures.slowest = failures.slowest.max(took);
            if !is_ok {
                failures.at.push(at);
            }
        }
        failures
    }
}
