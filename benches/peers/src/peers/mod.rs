//! The peers, each over the inner service that answers at once, or over the nearest thing it has.
//!
//! Each has its token from `authorization_server` or from memory before anything is measured, by a
//! runtime that stands still afterwards: a peer's tasks of renewal sleep for hours, and none of
//! them runs beside a round.

mod aliri;
mod authorization_server;
mod aws;
mod azure;
mod cf_gears;
mod google;
mod kube;
mod middle;

use std::{
    future::{Ready, ready},
    hint,
    marker::PhantomData,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
};

use http::{Request, Response};
use tokio::runtime::{Builder, Runtime};
use tower::Service;

use crate::{
    Entry,
    common::{Body, Inner},
};

/// How long tokens live, in seconds.
const DAY: u64 = 86_400;

pub fn entries() -> Vec<Entry> {
    [
        cf_gears::ENTRIES,
        middle::ENTRIES,
        aliri::ENTRIES,
        kube::ENTRIES,
        azure::ENTRIES,
        google::ENTRIES,
        aws::ENTRIES,
    ]
    .concat()
}

/// Runs `future` to its end. With a token at hand all peers here are ready when first polled. On
/// more than one thread, those with an async lock may find it taken. They are polled again, and
/// after a while give their core away: no thread sleeps, since a runtime's would not either, as
/// long as it has other tasks. (It would run them meanwhile, which this does not: with more threads
/// than cores, a lock that is handed to a thread without a core is waited for.)
pub(crate) fn serve<F: Future>(future: F) -> F::Output {
    const POLLS: usize = 100;
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        for _ in 0..POLLS {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            hint::spin_loop();
        }
        thread::yield_now();
    }
}

/// For what happens before the rounds. Runs nothing outside of `block_on`.
fn runtime() -> Arc<Runtime> {
    Arc::new(Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

/// Several are compiled in, so that nobody who makes an HTTP client finds one by himself.
fn install_cryptography() {
    // Fails if a peer before this one did it.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// [`Inner`], but for the type of its errors: not every peer takes any.
struct WithError<E>(PhantomData<fn() -> E>);

impl<E> WithError<E> {
    fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Clone for WithError<E> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<E> Service<Request<Body>> for WithError<E> {
    type Response = Response<Body>;
    type Error = E;
    type Future = Ready<Result<Response<Body>, E>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ready(Inner.call(request).into_inner().map_err(|never| match never {}))
    }
}
