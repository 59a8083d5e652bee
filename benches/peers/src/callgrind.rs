//! Instructions of one request over another, counted by callgrind.
//!
//! The same request takes the allocator hundreds of instructions more or less with what the heap
//! holds. So each is counted on several heaps that look as if they had been in use for a while, and
//! held against the other on the same one.

use std::{env, mem, process::Command, thread};

use serde::{Deserialize, Serialize};

use crate::Worker;

/// On several heaps.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Instructions {
    pub median: i64,
    pub least: i64,
    pub most: i64,
}

/// This program is run again, under callgrind, with the arguments of either, and two numbers more:
/// how many rounds, and which heap. It is to hand both to [`child`].
///
/// # Panics
///
/// If valgrind is not installed, or a run fails.
#[must_use]
pub fn over(own: &[&str], base: &[&str], heaps: usize) -> Instructions {
    const ROUNDS: i64 = 2_000;
    let one = |heap: usize| (count(own, ROUNDS, heap) - count(base, ROUNDS, heap)) / ROUNDS;
    let mut counts: Vec<i64> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=heaps).map(|heap| scope.spawn(move || one(heap))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a count")).collect()
    });
    counts.sort_unstable();
    Instructions {
        median: counts[counts.len() / 2],
        least: counts[0],
        most: counts[counts.len() - 1],
    }
}

/// What callgrind looks at.
pub fn child(mut worker: Worker, rounds: u64, heap: u64) {
    use_heap(heap);
    // The first may grow something that is there to stay.
    worker(1_000);
    collected(&mut worker, rounds);
}

/// Callgrind collects inside of this function only, and finds it by its name.
#[inline(never)]
fn collected(worker: &mut Worker, rounds: u64) {
    worker(rounds);
}

/// A thousand blocks stay, with a thousand holes between, of up to 3,000 bytes each.
fn use_heap(heap: u64) {
    let mut seed = heap;
    let blocks: Vec<Vec<u8>> = (0..2_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            Vec::with_capacity((seed >> 33) as usize % 3_000 + 1)
        })
        .collect();
    for (at, block) in blocks.into_iter().enumerate() {
        if at % 2 == 0 {
            drop(block);
        } else {
            mem::forget(block);
        }
    }
}

fn count(who: &[&str], rounds: i64, heap: usize) -> i64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=peers::callgrind::collected")
        .arg(env::current_exe().expect("the path of this program"))
        .args(who)
        .args([rounds.to_string(), heap.to_string()])
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{who:?} failed under callgrind: {text}");
    let line = text.lines().find_map(|line| line.split("Collected :").nth(1));
    match line.and_then(|count| count.trim().parse().ok()) {
        None | Some(0) => panic!("callgrind counted nothing: {text}"),
        Some(count) => count,
    }
}
