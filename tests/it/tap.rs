//! Shared helpers: a source of tokens that a test can hold back, and requests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;
use tower_oauth2_client_credentials::{
    Builder, OAuthClientCredentialsLayer, TokenError, TokenResponse, TokenSource,
    builder::{ForLayer, FromSource},
    token::{Attempt, BoxFuture},
};

pub(crate) type Body = Full<Bytes>;

/// Returns the builder of a layer with its own source.
pub(crate) type LayerBuilder = Builder<ForLayer, FromSource>;

pub(crate) const API: &str = "https://api.example.com/v1";

/// A source that issues `t1`, `t2` and so on, while it is open.
pub(crate) struct Tap {
    asked: AtomicU64,
    open: watch::Sender<bool>,
    failing: Mutex<Option<TokenError>>,
    repeating: Mutex<Option<u64>>,
}

impl Tap {
    pub(crate) fn open() -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicU64::new(0),
            open: watch::Sender::new(true),
            failing: Mutex::default(),
            repeating: Mutex::default(),
        })
    }

    pub(crate) fn closed() -> Arc<Self> {
        let tap = Self::open();
        tap.close();
        tap
    }

    /// Makes token requests wait for `release` from now on.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.open.send_replace(true);
    }

    /// Returns an error instead of a token from now on.
    pub(crate) fn fail(&self, error: TokenError) {
        *self.failing.lock().unwrap() = Some(error);
    }

    /// Issues the token with this number from now on.
    pub(crate) fn repeat(&self, number: u64) {
        *self.repeating.lock().unwrap() = Some(number);
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn layer(self: &Arc<Self>) -> OAuthClientCredentialsLayer {
        self.builder().build().unwrap()
    }

    pub(crate) fn builder(self: &Arc<Self>) -> LayerBuilder {
        Builder::from_source(Arc::clone(self))
    }
}

impl TokenSource for Tap {
    fn fetch<'a>(&'a self, _: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            if let Some(error) = self.failing.lock().unwrap().clone() {
                return Err(error);
            }
            let number = self.repeating.lock().unwrap().unwrap_or(number);
            Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(Duration::from_secs(3600)))
        })
    }
}

/// Runs all tasks of this runtime that can make progress.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn get<B: Default>() -> Request<B> {
    Request::get(API).body(B::default()).unwrap()
}

pub(crate) fn post(body: &'static str) -> Request<Body> {
    Request::post(API).body(Full::from(body)).unwrap()
}

pub(crate) fn ok<R: Default>() -> Response<R> {
    Response::new(R::default())
}

pub(crate) fn unauthorized<R: Default>() -> Response<R> {
    rejected(StatusCode::UNAUTHORIZED, R::default())
}

pub(crate) fn rejected<R>(status: StatusCode, body: R) -> Response<R> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Returns the number of the token that a request carries.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().unwrap().strip_prefix("Bearer ")
}
