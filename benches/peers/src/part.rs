//! What is measured, by parts. For a report each part runs in a process of its own, so that no
//! part finds threads or a heap with holes that another left behind.

use std::{
    env, fs, io,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    cost::{self, Challenge, Detour, Length, Peek},
    herd::{self, Ends, Herd, Refusal},
    hit::{self, Hit},
    loopback::{self, Protocol, Row, Scene},
    memory::{self, Held},
    threads::{self, Threads},
    trees::{self, Tree},
};

/// In this order: what no other work should disturb comes first, cold builds last.
pub const PARTS: [&str; 10] = [
    "hit", "threads", "herd", "refusals", "peek", "tokens", "detour", "memory", "loopback", "trees",
];

/// What is known of each part. One that was not measured is empty.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Measured {
    /// Seconds since 1970 at the start of a report.
    pub started: u64,
    /// What each part of a report took, in seconds.
    pub took: Vec<(String, f64)>,
    pub hit: Vec<Hit>,
    pub threads: Vec<Threads>,
    pub herd: Vec<Herd>,
    pub refusals: Vec<Refusal>,
    pub peek: Vec<Peek>,
    pub tokens: Vec<Length>,
    pub detour: Vec<Detour>,
    pub memory: Vec<Held>,
    pub loopback: Vec<Row>,
    pub trees: Vec<Tree>,
}

impl Measured {
    /// What the last report has measured, as far as it came.
    ///
    /// # Errors
    ///
    /// If there was none.
    pub fn kept() -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(keeping()?)?)?)
    }

    /// One part, measured in this process.
    ///
    /// # Errors
    ///
    /// If there is no such part, or a program that it starts fails.
    pub fn one(part: &str) -> io::Result<Self> {
        let mut parts = Map::new();
        parts.insert(field(part).to_owned(), measure(part)?);
        Ok(serde_json::from_value(Value::Object(parts))?)
    }

    /// All parts, each in a process of its own. Says on standard error where it is.
    ///
    /// # Errors
    ///
    /// If a part fails. Those before it are kept.
    pub fn all(build_trees: bool) -> io::Result<Self> {
        build()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut parts = Map::new();
        let mut took = Vec::new();
        parts.insert("started".to_owned(), now.as_secs().into());
        for (number, name) in PARTS.into_iter().enumerate() {
            let part = if name == "trees" && !build_trees { "crates" } else { name };
            say(&format!("{}/{} {part} …", number + 1, PARTS.len()));
            let start = Instant::now();
            let output = Command::new(env::current_exe()?)
                .args(["data", part])
                .stderr(Stdio::inherit())
                .output()?;
            if !output.status.success() {
                let text = format!("{part} ended with {}: `peers write` without it", output.status);
                return Err(io::Error::other(text));
            }
            parts.insert(name.to_owned(), serde_json::from_slice(&output.stdout)?);
            took.push((part.to_owned(), start.elapsed().as_secs_f64()));
            say(&format!("    {:.0} s", start.elapsed().as_secs_f64()));
            parts.insert("took".to_owned(), serde_json::to_value(&took)?);
            fs::write(keeping()?, serde_json::to_string_pretty(&parts)?)?;
        }
        Ok(serde_json::from_value(Value::Object(parts))?)
    }
}

/// Measures one part, as JSON.
///
/// # Errors
///
/// As [`Measured::one`].
pub fn measure(part: &str) -> io::Result<Value> {
    let value = match part {
        "hit" => serde_json::to_value(hit::measure_all()),
        "threads" => serde_json::to_value(threads::measure_all()),
        "herd" => serde_json::to_value(herds()),
        "refusals" => serde_json::to_value(herd::refusals(100, Duration::from_millis(50), 3)),
        "peek" => serde_json::to_value([1, 2].map(|threads| cost::peeks(threads, 41))),
        "tokens" => serde_json::to_value(cost::lengths(101, "work")),
        "detour" => serde_json::to_value(
            [Challenge::None, Challenge::InvalidToken].map(|what| cost::detours(what, 301)),
        ),
        "memory" => serde_json::to_value(memory::measure()?),
        "loopback" => serde_json::to_value(loopbacks()),
        "trees" => serde_json::to_value(trees(true)?),
        "crates" => serde_json::to_value(trees(false)?),
        other => return Err(io::Error::other(format!("no part {other}"))),
    };
    Ok(value?)
}

/// Where a part stands in [`Measured`].
fn field(part: &str) -> &str {
    if part == "crates" { "trees" } else { part }
}

fn herds() -> Vec<Herd> {
    const SIZES: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
    let mut herds = Vec::new();
    for threads in [2, 1] {
        for waiters in SIZES {
            // Nine turns of the largest take as long as everything else here.
            let turns = if waiters == 100_000 { 5 } else { 9 };
            herds.extend(herd::arrivals(threads, waiters, Ends::Well, turns));
        }
        herds.extend(herd::arrivals(threads, 10_000, Ends::Badly, 9));
    }
    herds
}

fn loopbacks() -> Vec<Row> {
    let mut rows = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for tasks in [1, 16] {
            for bytes in [1_200, 40] {
                let scene = Scene { protocol, tasks, bytes };
                rows.extend(loopback::measure(scene, 40, Duration::from_millis(60)));
            }
        }
    }
    rows
}

fn trees(build: bool) -> io::Result<Vec<Tree>> {
    trees::measure(build, |tree| {
        let took =
            tree.build.map_or_else(String::new, |took| format!(", {:.1} s", took.as_secs_f64()));
        say(&format!("    {}, {}: {} crates{took}", tree.name, tree.features, tree.crates));
    })
}

/// Everything of this crate, beside the program that runs, so that `allocations` and `memory`
/// count what this one measures.
fn build() -> io::Result<()> {
    if cfg!(debug_assertions) {
        return Err(io::Error::other("a build that is not optimized: add `--release`"));
    }
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).ok_or_else(|| io::Error::other("not below target/"))?;
    say("cargo build --release --bins");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let status = cargo()
        .args(["build", "--quiet", "--release", "--bins", "--manifest-path", manifest])
        .env("CARGO_TARGET_DIR", target)
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("the build failed")) }
}

/// Cargo, without what `cargo run` has told this program of its own package: build scripts look at
/// it, and would run again.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for (name, _) in env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name.to_str().is_some_and(|name| own.iter().any(|own| name.starts_with(own))) {
            cargo.env_remove(name);
        }
    }
    cargo
}

fn keeping() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("measured.json"))
}

/// Where a run is.
#[allow(clippy::print_stderr, reason = "a run takes minutes")]
fn say(text: &str) {
    eprintln!("{text}");
}
