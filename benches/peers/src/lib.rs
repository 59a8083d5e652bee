//! Who is measured, and how.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that measures, by the clock of the machine"
)]

pub mod bars;
pub mod by_hand;
pub mod callgrind;
#[path = "../../common/mod.rs"]
mod common;
pub mod cost;
pub mod floor;
pub mod herd;
pub mod hit;
pub mod loopback;
pub mod measure;
pub mod memory;
pub mod ours;
pub mod part;
pub mod peers;
pub mod plot;
pub mod report;
pub mod tables;
pub mod threads;
pub mod trees;

/// Makes the given number of requests. What it needs is its own; nothing else runs on its thread.
pub type Worker = Box<dyn FnMut(u64) + Send>;

/// Somebody whose cost for a request with a token at hand is measured.
///
/// A round is one request as `common::request` makes it, which is built, authorized, taken by an
/// inner service that answers at once, and dropped.
pub struct Contestant {
    pub name: &'static str,
    /// What it is measured over: the name of the contestant that does the same without a token.
    pub base: &'static str,
    /// Makes a worker with a service value (or client, or handle) of its own. All workers of one
    /// `Contestant` share one token: clones of one layer.
    pub worker: Box<dyn Fn() -> Worker>,
}

impl Contestant {
    pub fn new(
        name: &'static str,
        base: &'static str,
        worker: impl Fn() -> Worker + 'static,
    ) -> Self {
        Self { name, base, worker: Box::new(worker) }
    }
}

/// Those who keep a request to send it again after a 401. The others do not.
pub const KEEPING: [&str; 5] = [
    "Retry",
    "replay",
    "replay, a clone per request",
    "by hand, with a retry",
    "cf-gears, auto refresh",
];

/// Makes a contestant with its token at hand: nothing of what it sets up is measured.
pub type Entry = (&'static str, fn() -> Contestant);

/// All of them, by name. Made one at a time, so that a run under callgrind holds only its own.
pub fn entries() -> Vec<Entry> {
    [ours::ENTRIES, floor::ENTRIES, by_hand::ENTRIES, &peers::entries()].concat()
}
