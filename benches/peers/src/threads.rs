//! What a request costs while other threads make requests with the same token: whatever they share
//! moves from core to core.

use std::{num::NonZero, thread, time::Duration};

use crate::{
    Contestant, entries,
    measure::{Spread, on_threads},
};

pub struct Threads {
    pub name: &'static str,
    /// For a number of threads: nanoseconds of processor time for one request, over the base on as
    /// many threads.
    pub points: Vec<(usize, Spread)>,
}

const TURN: Duration = Duration::from_millis(100);
const TURNS: usize = 9;

/// Whoever is measured: all that have one token for many service values. Clones for each request
/// would count the threads of the inner service too.
pub fn measure_all() -> Vec<Threads> {
    let contestants: Vec<_> = entries().into_iter().map(|(_, make)| make()).collect();
    let shared = contestants.iter().filter(|contestant| {
        contestant.name != contestant.base && !contestant.base.ends_with("a clone per request")
    });
    let mut all: Vec<_> = shared.map(|contestant| (contestant, Vec::new())).collect();
    for threads in counts() {
        let mut samples = vec![Vec::with_capacity(TURNS); all.len()];
        for _ in 0..TURNS {
            for ((contestant, _), samples) in all.iter().zip(&mut samples) {
                let base = contestants.iter().find(|base| base.name == contestant.base);
                let bare = turn(base.expect("a base"), threads);
                samples.push(turn(contestant, threads) - bare);
            }
        }
        for ((_, points), samples) in all.iter_mut().zip(samples) {
            points.push((threads, Spread::of(samples)));
        }
    }
    all.into_iter().map(|(contestant, points)| Threads { name: contestant.name, points }).collect()
}

/// 1, 2, 4, … up to twice the cores, and at least to 4.
pub fn counts() -> impl Iterator<Item = usize> {
    let most = (2 * cores()).max(4);
    std::iter::successors(Some(1), |threads| Some(threads * 2)).take_while(move |n| *n <= most)
}

/// Nanoseconds of processor time for one request. Threads that have a core each spend as much as
/// passes; with more threads than cores, each has its part of what passes.
pub fn turn(contestant: &Contestant, threads: usize) -> f64 {
    let workers = (0..threads).map(|_| (contestant.worker)()).collect();
    let busy = threads.min(cores());
    on_threads(workers, TURN) * busy as f64 / threads as f64
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
