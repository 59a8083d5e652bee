//! Measures this crate beside its peers: `cargo build --release && target/release/peers hit`.
//! With the system's allocator: the one that counts is in `allocations`, and `cargo run` would not
//! build that.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]

use std::process::ExitCode;

use peers::{hit, threads};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", name, rounds] => hit::child(name, rounds.parse().unwrap_or(0)),
        ["hit"] => print_hits(&hit::measure_all()),
        ["threads"] => print_threads(&threads::measure_all()),
        _ => {
            eprintln!("peers hit | threads | child NAME ROUNDS");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn print_hits(hits: &[hit::Hit]) {
    println!("| a token at hand | over | ns | quartiles | instructions | allocations | bytes |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for hit in hits {
        println!(
            "| {} | {} | {:.0} | {:.0}..{:.0} | {} | {} | {} |",
            hit.name,
            hit.base,
            hit.nanos.median,
            hit.nanos.low,
            hit.nanos.high,
            hit.instructions,
            hit.allocations,
            hit.bytes
        );
    }
}

fn print_threads(all: &[threads::Threads]) {
    println!(
        "| a token at hand | ns of processor time over the base: threads, median, quartiles |"
    );
    println!("|---|---|");
    for one in all {
        let points: Vec<_> = one
            .points
            .iter()
            .map(|(threads, nanos)| {
                format!("{threads}: {:.0} ({:.0}..{:.0})", nanos.median, nanos.low, nanos.high)
            })
            .collect();
        println!("| {} | {} |", one.name, points.join(", "));
    }
}
