//! `cargo bench --bench loopback`: real requests, by criterion. See `peers::loopback`.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use peers::loopback::{Protocol, Scene, Stand, Way};

fn loopback(criterion: &mut Criterion) {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut group = criterion.benchmark_group(format!("loopback, {}", protocol.name()));
        for bytes in [40, 1_200] {
            let stand = Stand::new(Scene { protocol, tasks: 1, bytes });
            for way in Way::ALL {
                group.bench_function(BenchmarkId::new(way.name(), bytes), |bencher| {
                    bencher.iter_custom(|requests| stand.time(way, requests));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, loopback);
criterion_main!(benches);
