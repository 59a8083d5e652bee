//! `cargo bench --bench cost`: looks, lengths and detours, by criterion. See `peers::cost`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use peers::cost::{Challenge, LENGTHS, Scene, Way, time};

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a request, by the token's length");
    for bytes in LENGTHS {
        for way in Way::ALL {
            let mut worker = way.worker(bytes);
            group.bench_function(BenchmarkId::new(way.name(), bytes), |bencher| {
                bencher.iter_custom(|rounds| time(&mut worker, rounds));
            });
        }
    }
    group.finish();
}

fn detour(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a request with replay");
    let scene = Scene::new(Challenge::InvalidToken);
    let turns = |turns: u64, one: &dyn Fn() -> f64| {
        Duration::from_secs_f64((0..turns).map(|_| one()).sum::<f64>() / 1e9)
    };
    group.bench_function("accepted", |bencher| {
        bencher.iter_custom(|count| turns(count, &|| scene.accepted()));
    });
    group.bench_function("rejected and sent again", |bencher| {
        bencher.iter_custom(|count| turns(count, &|| scene.rejected()));
    });
    group.finish();
}

criterion_group!(benches, tokens, detour);
criterion_main!(benches);
