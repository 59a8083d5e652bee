//! Prints how many allocations, and of how many bytes, the given number of requests makes (what
//! grows in place is in the bytes only):
//! `allocations NAME ROUNDS`.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program that measures and prints")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("a name");
    let rounds = arguments.next().and_then(|rounds| rounds.parse().ok()).expect("rounds");
    let mut worker = peers::hit::worker(&name);
    let region = Region::new(ALLOCATOR);
    worker(rounds);
    let change = region.change();
    println!("{} {}", change.allocations, change.bytes_allocated);
}
