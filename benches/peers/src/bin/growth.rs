//! Tables of what grows: `growth herd | refusals | peek | tokens | detour | memory | loopback | trees`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures and prints")]

use std::{io, process::ExitCode, time::Duration};

use peers::{
    cost::{self, Challenge},
    herd::{self, Ends, Field, Who},
    loopback::{self, Protocol, Scene},
    measure::Spread,
    memory, trees,
};

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["herd"] => herds(&[1, 10, 100, 1_000, 10_000, 100_000]),
        ["herd", waiters] => herds(&[waiters.parse().map_err(io::Error::other)?]),
        // For a profiler: one of them, again and again.
        ["herd", waiters, who] => {
            let who = Who::ALL.into_iter().find(|one| one.name() == who);
            let field = Field::new(2, waiters.parse().map_err(io::Error::other)?);
            let who = who.ok_or_else(|| io::Error::other("no such herd"))?;
            let last = (0..50).map(|_| field.turn(who, Ends::Well).last.as_secs_f64() * 1e6);
            let last: Vec<f64> = last.collect();
            let least = last.iter().copied().fold(f64::INFINITY, f64::min);
            println!("{} µs, at least {least:.0}", show(Spread::of(last), 0));
        }
        ["refusals"] => refusals(),
        ["peek"] => peeks(),
        ["tokens"] => tokens(),
        // What `tokens` runs under callgrind.
        ["work", way, bytes, rounds] => {
            let number = |text: &str| text.parse().map_err(io::Error::other);
            let way = cost::Way::named(way).ok_or_else(|| io::Error::other("no such way"))?;
            way.worker(number(bytes)? as usize)(number(rounds)?);
        }
        ["detour"] => detours(),
        ["memory"] => {
            for row in memory::measure()? {
                println!("{:>10}  {}", row.bytes, row.what);
            }
        }
        ["loopback"] => loopbacks(),
        ["trees"] => print_trees(true)?,
        ["trees", "unbuilt"] => print_trees(false)?,
        _ => {
            eprintln!(
                "growth herd | refusals | peek | tokens | detour | memory | loopback | trees"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn herds(sizes: &[usize]) {
    for threads in [2, 1] {
        for ends in [Ends::Well, Ends::Badly] {
            let sizes: &[usize] = match ends {
                Ends::Well => sizes,
                Ends::Badly => &[10_000],
            };
            println!("\n{threads} worker(s), the renewal ends {ends:?}: µs from the arrival");
            println!(
                "{:<34} {:>7} {:>8} {:>24} {:>24} {:>27} {:>20} {:>7}",
                "", "waiters", "requests", "first", "median", "last", "x its floor", "x Notify"
            );
            for &waiters in sizes {
                let herds = herd::arrivals(threads, waiters, ends, 9);
                let notify = herds[0].last.median;
                for herd in &herds {
                    println!(
                        "{:<34} {:>7} {:>8} {:>24} {:>24} {:>27} {:>20} {:>7.2}",
                        herd.who.name(),
                        herd.waiters,
                        herd.requests,
                        show(herd.first, 1),
                        show(herd.median, 0),
                        show(herd.last, 0),
                        show(herd.over, 2),
                        herd.last.median / notify,
                    );
                }
            }
        }
    }
}

fn refusals() {
    println!(
        "\n{:<20} {:>8} {:>8} {:>24}",
        "refused after 50 ms", "waiters", "requests", "last, ms"
    );
    for refusal in herd::refusals(100, Duration::from_millis(50), 3) {
        println!(
            "{:<20} {:>8} {:>8} {:>24}",
            refusal.who.name(),
            refusal.waiters,
            refusal.requests,
            show(refusal.last, 1)
        );
    }
}

fn peeks() {
    println!("\n{:>7} {:>20} {:>20} {:>20}  ns", "threads", "reference", "peek", "over");
    for threads in [1, 2] {
        let peek = cost::peeks(threads, 41);
        println!(
            "{threads:>7} {:>20} {:>20} {:>20}",
            show(peek.reference, 1),
            show(peek.peek, 1),
            show(peek.over, 1)
        );
    }
}

fn tokens() {
    println!("\n{:<20} {:>6} {:>22} {:>12}", "over bare", "bytes", "ns", "instructions");
    for row in cost::lengths(101, Some("work")) {
        println!(
            "{:<20} {:>6} {:>22} {:>12}",
            row.way.name(),
            row.bytes,
            show(row.nanoseconds, 0),
            row.instructions.map_or_else(|| "-".to_owned(), |count| count.to_string())
        );
    }
}

fn detours() {
    println!("\n{:<14} {:>22} {:>22} {:>20}", "401 with", "accepted, ns", "rejected, ns", "ratio");
    for challenge in [Challenge::None, Challenge::InvalidToken] {
        let detour = cost::detours(challenge, 301);
        println!(
            "{:<14} {:>22} {:>22} {:>20}",
            format!("{challenge:?}"),
            show(detour.accepted, 0),
            show(detour.rejected, 0),
            show(detour.ratio, 2)
        );
    }
}

fn loopbacks() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for tasks in [1, 16] {
            for bytes in [1_200, 40] {
                println!(
                    "\n{}, {tasks} task(s), a token of {bytes} bytes; shares over a fixed header",
                    protocol.name()
                );
                println!(
                    "{:<24} {:>8} {:>22} {:>24} {:>20} {:>20} {:>20} {:>20}",
                    "", "req/s", "p50 µs", "p99 µs", "client CPU µs", "p50 %", "p99 %", "CPU %"
                );
                let scene = Scene { protocol, tasks, bytes };
                for row in loopback::measure(scene, 40, Duration::from_millis(60)) {
                    println!(
                        "{:<24} {:>8.0} {:>22} {:>24} {:>20} {:>20} {:>20} {:>20}",
                        row.way.name(),
                        row.per_second.median,
                        show(row.p50, 1),
                        show(row.p99, 1),
                        show(row.cpu, 2),
                        show(row.p50_share, 1),
                        show(row.p99_share, 1),
                        show(row.cpu_share, 1),
                    );
                }
            }
        }
    }
}

fn print_trees(build: bool) -> io::Result<()> {
    println!("\n{:<34} {:<10} {:<8} {:>6} {:>9}", "", "features", "version", "crates", "build, s");
    trees::measure(build, |tree| {
        let took = tree.build.map(|took| format!("{:.1}", took.as_secs_f64()));
        println!(
            "{:<34} {:<10} {:<8} {:>6} {:>9}",
            tree.name,
            tree.features,
            tree.version,
            tree.crates,
            took.as_deref().unwrap_or("-")
        );
    })?;
    Ok(())
}

/// The middle, and a quarter from either end.
fn show(spread: Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}..{:.digits$})", spread.median, spread.low, spread.high)
}
