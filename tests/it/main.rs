//! What the crate does, as its users see it. One binary, a module for each subject.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod contract;
mod kit;
mod origins;
mod rejections;
mod secrets;
mod smoke;
mod stacks;
#[cfg(feature = "tracing")]
mod telemetry;
mod ui;
