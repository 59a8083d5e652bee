//! The measurements of `peers::memory`, with an allocator that counts: `memory rows`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]

use std::{alloc::System, io, process::ExitCode};

use peers::memory;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> io::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("rows") => {
            for row in memory::rows(&held)? {
                println!("{}\t{}", row.bytes, row.what);
            }
        }
        Some("serve") => memory::serve()?,
        _ => {
            eprintln!("memory rows | serve");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What has been asked for and not given back.
fn held() -> i64 {
    let stats = ALLOCATOR.stats();
    // Both count what a reallocation adds or takes, too.
    i64::try_from(stats.bytes_allocated).unwrap_or(i64::MAX)
        - i64::try_from(stats.bytes_deallocated).unwrap_or(i64::MAX)
}
