//! What people have today: a token in a mutex that is held while a new one is fetched, a header
//! formatted for each request, and a boxed future. With and without one more try after a 401.

use std::{
    hint::black_box,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::sync::Mutex;
use tower::{Service, ServiceExt};

use crate::{
    Contestant, Entry, Worker,
    common::{Body, Inner, TOKEN_LENGTH, request, token},
    peers::serve,
};

pub const ENTRIES: &[Entry] = &[
    ("by hand", || {
        let shared = Shared::default();
        Contestant::new("by hand", "bare", move || {
            worker(ByHand { inner: Inner, shared: shared.clone() })
        })
    }),
    ("by hand, with a retry", || {
        let shared = Shared::default();
        Contestant::new("by hand, with a retry", "bare", move || {
            worker(ByHandWithRetry { inner: Inner, shared: shared.clone() })
        })
    }),
];

fn worker<S>(mut service: S) -> Worker
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Error: std::fmt::Debug,
{
    let mut drive = move |rounds| {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..rounds {
            assert!(service.poll_ready(&mut cx).is_ready());
            drop(black_box(serve(service.call(request())).expect("a response")));
        }
    };
    // Fetches the token.
    drive(1);
    Box::new(drive)
}

struct Token {
    secret: String,
    expiry: Instant,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Option<Token>>>);

impl Shared {
    async fn token(&self) -> String {
        let mut guard = self.0.lock().await;
        match &*guard {
            Some(token) if Instant::now() < token.expiry => token.secret.clone(),
            _ => guard.insert(fetch().await).secret.clone(),
        }
    }
}

/// Stands for a request to the token endpoint.
async fn fetch() -> Token {
    Token { secret: token(TOKEN_LENGTH), expiry: Instant::now() + Duration::from_secs(86_400) }
}

fn authorize(request: &mut Request<Body>, token: &str) {
    let header = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header");
    request.headers_mut().insert(header::AUTHORIZATION, header);
}

#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    shared: Shared,
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = self.shared.clone();
        Box::pin(async move {
            let token = shared.token().await;
            authorize(&mut request, &token);
            inner.call(request).await
        })
    }
}

#[derive(Clone)]
struct ByHandWithRetry<S> {
    inner: S,
    shared: Shared,
}

impl<S> Service<Request<Body>> for ByHandWithRetry<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Send,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut kept = request.clone();
            let token = shared.token().await;
            authorize(&mut request, &token);
            let response = inner.call(request).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            drop(response);
            *shared.0.lock().await = None;
            let token = shared.token().await;
            authorize(&mut kept, &token);
            inner.oneshot(kept).await
        })
    }
}
