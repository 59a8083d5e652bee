//! Measures this crate beside its peers, and writes the report: see `benches/README.md`.
//! With the system's allocator: those that count are in `allocations` and `memory`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]

use std::{io, process::ExitCode};

use peers::{
    callgrind, cost,
    herd::{Ends, Field, Who},
    hit,
    measure::Spread,
    part::{self, Measured, PARTS},
    report, tables,
};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["report"] => report::write(&Measured::all(true)?)?,
        ["report", "--no-trees"] => report::write(&Measured::all(false)?)?,
        ["write"] => report::write(&Measured::kept()?)?,
        ["data", part] => println!("{}", part::measure(part)?),
        // What `hit` and `tokens` run under callgrind.
        ["child", name, rounds, heap] => {
            callgrind::child(hit::worker(name), number(rounds)? as u64, number(heap)? as u64);
        }
        ["work", way, bytes, rounds, heap] => {
            let worker = cost::worked(way, number(bytes)?);
            let worker = worker.ok_or_else(|| io::Error::other("no such way"))?;
            callgrind::child(worker, number(rounds)? as u64, number(heap)? as u64);
        }
        // For a profiler: one herd, again and again.
        ["herd", waiters, who] => {
            let who = Who::ALL.into_iter().find(|one| one.name() == who);
            let field = Field::new(2, number(waiters)?);
            let who = who.ok_or_else(|| io::Error::other("no such herd"))?;
            let last = (0..50).map(|_| field.turn(who, Ends::Well).last.as_secs_f64() * 1e6);
            println!("{} µs", tables::show(Spread::of(last.collect()), 0));
        }
        [part] if part == "crates" || PARTS.contains(&part) => {
            println!("{}", tables::all(&Measured::one(part)?));
        }
        _ => {
            eprintln!("peers [report [--no-trees]] | write | crates | {}", PARTS.join(" | "));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}
