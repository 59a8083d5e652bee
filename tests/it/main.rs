//! Tests of the public API: one binary, with a module for each subject.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests"
)]

#[cfg(all(feature = "testing", feature = "rustls", feature = "axum"))]
mod adapter_axum;
#[cfg(all(feature = "testing", feature = "rustls", feature = "oauth2"))]
mod adapter_oauth2;
#[cfg(all(feature = "testing", feature = "rustls", feature = "reqwest"))]
mod adapter_reqwest;
#[cfg(all(feature = "testing", feature = "rustls", feature = "reqwest-middleware"))]
mod adapter_reqwest_middleware;
#[cfg(all(feature = "testing", feature = "rustls"))]
mod adapter_support;
#[cfg(all(feature = "testing", feature = "rustls", feature = "tonic"))]
mod adapter_tonic;
mod attempts;
mod bad_answers;
mod budget;
mod configured;
mod contract;
mod failure;
mod flight;
mod former;
mod fuzz;
mod http;
mod kit;
mod life;
mod lifetimes;
mod month;
mod orders;
mod origins;
mod outage;
mod provider;
mod readme;
mod refusals;
mod rejection;
mod replays;
mod revocations;
mod runtimes;
mod secrets;
mod smoke;
mod stacks;
mod tap;
#[cfg(feature = "tracing")]
mod telemetry;
mod ui;
