//! Times that mean something on a machine with other work on it: everything that is compared runs
//! in turns, and what is told is a median and its spread.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::Worker;

/// Of many samples: the middle one, and those a quarter from either end.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[(part * (samples.len() - 1) as f64).round() as usize];
        Self { median: at(0.5), low: at(0.25), high: at(0.75) }
    }
}

/// A service value of ours has bytes and a handle of its own only after it has made requests in
/// three seconds of the clock. Whoever is measured has lived that long: `round` is to have each
/// make some requests.
pub fn settle(mut round: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(3_200) {
        round();
        thread::sleep(Duration::from_millis(50));
    }
}

/// Nanoseconds for one round, in one batch of `rounds`.
pub fn batch(worker: &mut Worker, rounds: u64) -> f64 {
    let start = Instant::now();
    worker(rounds);
    start.elapsed().as_nanos() as f64 / rounds as f64
}

/// What `worker` costs over `base`, in nanoseconds: each batch is held against those of `base`
/// right before and right after it.
pub fn over(worker: &mut Worker, base: &mut Worker, batches: usize, rounds: u64) -> Vec<f64> {
    let mut before = batch(base, rounds);
    let mut samples = Vec::with_capacity(batches);
    for _ in 0..batches {
        let own = batch(worker, rounds);
        let after = batch(base, rounds);
        samples.push(own - f64::midpoint(before, after));
        before = after;
    }
    samples
}

/// Nanoseconds for one round while as many threads as there are `workers` make rounds for `time`.
pub fn on_threads(workers: Vec<Worker>, time: Duration) -> f64 {
    const BATCH: u64 = 200;
    let start = Arc::new(Barrier::new(workers.len()));
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                worker(BATCH);
                start.wait();
                let began = Instant::now();
                let mut rounds = 0;
                while began.elapsed() < time {
                    worker(BATCH);
                    rounds += BATCH;
                }
                began.elapsed().as_nanos() as f64 / rounds as f64
            })
        })
        .collect();
    let count = threads.len() as f64;
    threads.into_iter().map(|thread| thread.join().expect("a worker")).sum::<f64>() / count
}
