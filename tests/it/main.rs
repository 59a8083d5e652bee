//! What the crate does, as its users see it. One binary, a module for each subject.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests"
)]

mod bad_answers;
mod contract;
mod failure;
mod flight;
mod fuzz;
mod http;
mod kit;
mod life;
mod month;
mod orders;
mod origins;
mod readme;
mod rejection;
mod replays;
mod secrets;
mod smoke;
mod stacks;
mod tap;
#[cfg(feature = "tracing")]
mod telemetry;
mod ui;
