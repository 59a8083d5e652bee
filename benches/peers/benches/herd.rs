//! `cargo bench --bench herd`: the last of many waiters, by criterion. See `peers::herd`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use peers::herd::{Ends, Field, Who};

fn herds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("herd, arrival to last");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for waiters in [100, 10_000] {
        for who in Who::ALL {
            let field = Field::new(2, waiters);
            group.bench_function(BenchmarkId::new(who.name(), waiters), |bencher| {
                bencher.iter_custom(|turns| {
                    (0..turns).map(|_| field.turn(who, Ends::Well).last).sum()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, herds);
criterion_main!(benches);
