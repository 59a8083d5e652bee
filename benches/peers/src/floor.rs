//! The least that a layer which reacts to a 401 could do: put a fixed header on the request, look at
//! the response's status, and hold on to something to tell. It knows no clock, no end of a token,
//! no origin and no newer token. Each of its services has a header of its own, and shares nothing.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tower::{BoxError, Service};

use crate::{
    Contestant, Entry,
    common::{Body, Inner, TOKEN_LENGTH, drive, token},
};

pub const NAME: &str = "floor: status check";

pub const ENTRIES: &[Entry] = &[(NAME, || {
    Contestant::new(NAME, "bare", || {
        let value = format!("Bearer {}", token(TOKEN_LENGTH));
        let header = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).expect("a header");
        let rejections = Arc::new(AtomicU64::new(0));
        let mut service = Watched { inner: Inner, header, rejections };
        Box::new(move |rounds| drive(&mut service, rounds))
    })
})];

struct Watched<S> {
    inner: S,
    header: HeaderValue,
    rejections: Arc<AtomicU64>,
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Watching<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(header::AUTHORIZATION, self.header.clone());
        Watching { future: self.inner.call(request), rejections: Arc::clone(&self.rejections) }
    }
}

struct Watching<F> {
    future: F,
    rejections: Arc<AtomicU64>,
}

impl<F> Future for Watching<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.future).poll(cx)).map_err(Into::into);
        if result.as_ref().is_ok_and(|it| it.status() == StatusCode::UNAUTHORIZED) {
            self.rejections.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(result)
    }
}
