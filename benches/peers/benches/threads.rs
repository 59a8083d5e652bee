//! `peers::threads` for criterion: processor time of whole requests, on more and more threads.
#![allow(missing_docs, reason = "criterion's macros")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use peers::{
    entries,
    threads::{counts, many, turn},
};

fn threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    // A sample takes a turn, however many rounds are asked for.
    group.sample_size(10);
    for (name, make) in entries() {
        let contestant = make();
        for threads in counts() {
            let mut workers = many(&contestant, threads);
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|rounds| {
                    Duration::from_secs_f64(turn(&mut workers) * rounds as f64 / 1e9)
                });
            });
        }
    }
}

criterion_group!(benches, threads);
criterion_main!(benches);
