//! What the layer adds to a request whose token is cached, in time: `cargo bench --bench cache_hit
//! --all-features`. Takes about two minutes and builds no peer.
//!
//! Each row builds a request, sends it and drops it; `bare` is the same without any layer, so what a
//! layer adds is its row less `bare` of the same group. Times on shared machines move by 10 % and more:
//! `hot_path` counts instructions, and is the guard; `benches/peers` compares with other crates.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that measures time"
)]

#[allow(dead_code, reason = "shared with the bench crate of the peers")]
mod common;

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use tower::{Layer, Service};
use tower_http::auth::AddAuthorizationLayer;

use common::{Body, Inner, TOKEN_LENGTH, drive, drive_clones, layer, retry, token, warm};

/// A service needs more than a second of use before it owns its bytes.
fn settle<S, E>(service: &mut S)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = E>,
    E: Debug,
{
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2_500) {
        drive(service, 1_000);
    }
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one service");
    group.bench_function("bare", |bencher| bencher.iter(|| drive(&mut Inner, 1)));
    let mut service = AddAuthorizationLayer::bearer(&token(TOKEN_LENGTH)).layer(Inner);
    group.bench_function("AddAuthorization", |bencher| bencher.iter(|| drive(&mut service, 1)));
    let mut service = layer().never_replay().layer(Inner);
    settle(&mut service);
    group.bench_function("never_replay", |bencher| bencher.iter(|| drive(&mut service, 1)));
    let mut service = retry();
    group.bench_function("Retry", |bencher| bencher.iter(|| drive(&mut service, 1)));
    let mut service = layer().layer(Inner);
    settle(&mut service);
    group.bench_function("replay", |bencher| bencher.iter(|| drive(&mut service, 1)));
    group.finish();
}

fn clones(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a clone per request");
    group.bench_function("bare", |bencher| bencher.iter(|| drive_clones(&Inner, 1)));
    let service = retry();
    group.bench_function("Retry", |bencher| bencher.iter(|| drive_clones(&service, 1)));
    let service = warm(layer().layer(Inner));
    group.bench_function("replay", |bencher| bencher.iter(|| drive_clones(&service, 1)));
    group.finish();
}

/// A service for each of two threads, with one token: the time from the start of both to the end of
/// the later one.
fn two_threads(criterion: &mut Criterion) {
    fn time<S>(services: &mut [S; 2], rounds: u64) -> Duration
    where
        S: Service<Request<Body>, Response = Response<Body>> + Send,
        S::Error: Debug,
    {
        let start = Instant::now();
        thread::scope(|scope| {
            for service in services {
                scope.spawn(|| drive(service, rounds));
            }
        });
        start.elapsed()
    }

    let mut group = criterion.benchmark_group("two threads");
    let mut services = [Inner, Inner];
    group.bench_function("bare", |bencher| {
        bencher.iter_custom(|rounds| time(&mut services, rounds));
    });
    let layer = layer();
    let mut services =
        [layer.clone().never_replay().layer(Inner), layer.clone().never_replay().layer(Inner)];
    services.iter_mut().for_each(settle);
    group.bench_function("never_replay", |bencher| {
        bencher.iter_custom(|rounds| time(&mut services, rounds));
    });
    let mut services = [layer.layer(Inner), layer.layer(Inner)];
    services.iter_mut().for_each(settle);
    group.bench_function("replay", |bencher| {
        bencher.iter_custom(|rounds| time(&mut services, rounds));
    });
    group.finish();
}

criterion_group!(benches, one_thread, clones, two_threads);
criterion_main!(benches);
