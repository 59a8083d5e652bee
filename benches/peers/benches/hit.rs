//! `peers::hit` for criterion: whole requests, each beside its base.
#![allow(missing_docs, reason = "criterion's macros")]

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use peers::{entries, measure::batch};

fn hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    for (name, make) in entries() {
        let mut worker = (make().worker)();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                Duration::from_secs_f64(batch(&mut worker, rounds) * rounds as f64 / 1e9)
            });
        });
    }
}

criterion_group!(benches, hit);
criterion_main!(benches);
