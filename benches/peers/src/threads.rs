//! What a request costs while other threads make requests with the same token: whatever they share
//! moves from core to core.

use std::{
    num::NonZero,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use serde::{Deserialize, Serialize};

use crate::{
    Contestant, Worker, entries,
    measure::{self, Spread},
};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Threads {
    pub name: String,
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
        // Kept from turn to turn, as clients live for longer than any of these.
        let mut workers: Vec<_> = contestants.iter().map(|one| many(one, threads)).collect();
        // On threads of their own, as in a turn: what a worker has for itself then comes from as
        // many arenas of the allocator.
        measure::settle(|| {
            for workers in &mut workers {
                turn_for(workers, Duration::from_millis(1));
            }
        });
        for round in 0..=TURNS {
            for ((contestant, _), samples) in all.iter().zip(&mut samples) {
                let mut turn_of = |name: &str| {
                    let at = contestants.iter().position(|one| one.name == name);
                    turn(&mut workers[at.expect("a contestant")])
                };
                let bare = turn_of(contestant.base);
                let own = turn_of(contestant.name);
                // The first warms up.
                if round > 0 {
                    samples.push(own - bare);
                }
            }
        }
        for ((_, points), samples) in all.iter_mut().zip(samples) {
            points.push((threads, Spread::of(samples)));
        }
    }
    all.into_iter()
        .map(|(contestant, points)| Threads { name: contestant.name.to_owned(), points })
        .collect()
}

/// 1, 2, 4, … up to twice the cores, and at least to 4.
pub fn counts() -> impl Iterator<Item = usize> {
    let most = (2 * cores()).max(4);
    std::iter::successors(Some(1), |threads| Some(threads * 2)).take_while(move |n| *n <= most)
}

/// Nanoseconds of processor time for one request. It is read from the threads' own clocks, not
/// derived from what passes: other work on the machine, and more threads than cores, would count.
pub fn turn(workers: &mut Vec<Worker>) -> f64 {
    turn_for(workers, TURN)
}

fn turn_for(workers: &mut Vec<Worker>, time: Duration) -> f64 {
    const BATCH: u64 = 200;
    let start = Arc::new(Barrier::new(workers.len()));
    let threads: Vec<_> = workers
        .drain(..)
        .map(|mut worker| {
            let start = Arc::clone(&start);
            thread::spawn(move || {
                worker(BATCH);
                start.wait();
                let (began, spent) = (Instant::now(), processor_time());
                let mut rounds = 0;
                while began.elapsed() < time {
                    worker(BATCH);
                    rounds += BATCH;
                }
                (processor_time() - spent, rounds, worker)
            })
        })
        .collect();
    let (mut spent, mut rounds) = (Duration::ZERO, 0);
    for thread in threads {
        let (own_spent, own_rounds, worker) = thread.join().expect("a worker");
        workers.push(worker);
        spent += own_spent;
        rounds += own_rounds;
    }
    spent.as_nanos() as f64 / rounds as f64
}

/// A worker for each of so many threads.
pub fn many(contestant: &Contestant, threads: usize) -> Vec<Worker> {
    (0..threads).map(|_| (contestant.worker)()).collect()
}

/// What this thread has had of a core.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a time that has passed")
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
