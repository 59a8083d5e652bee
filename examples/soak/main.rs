//! Real servers, short-lived tokens, several clients at once, and faults by schedule:
//!
//! ```sh
//! cargo run --release --example soak --all-features -- --minutes 30
//! ```
//!
//! A live line a second, a table at the end. It fails if a call failed that need not have: every
//! failure must be one that the fault of that moment makes unavoidable (see `faults`). One minute
//! unless told otherwise.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that measures, prints, and may fail"
)]

mod faults;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/servers/harness/mod.rs"]
mod harness;
mod record;
mod wire;

use std::{
    env, fs,
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tower_oauth2_client_credentials::{TokenCache, credentials::RotatingSecret};

use self::{
    faults::{Bench, Faults},
    harness::{
        client::{self, Caller, get},
        run_folder,
        stand::{Plan, Provider, SECRET, Stand, ca},
    },
    record::{Record, memory},
    wire::Wire,
};

fn main() -> ExitCode {
    let Some(minutes) = minutes() else {
        println!("usage: soak [--minutes N]");
        return ExitCode::from(2);
    };
    let installed = Command::new(harness::scripts().join("install")).status();
    assert!(installed.is_ok_and(|status| status.success()), "the servers could not be installed");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = runtime.block_on(soak(Duration::from_secs_f64(minutes * 60.0)));
    let _in_target = fs::remove_dir_all(run_folder());
    result
}

fn minutes() -> Option<f64> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(1.0),
        ["--minutes", minutes] => minutes.parse().ok().filter(|minutes| *minutes > 0.0),
        _ => None,
    }
}

async fn soak(duration: Duration) -> ExitCode {
    let record = Arc::new(Record::new());
    let mut workers = JoinSet::new();
    let mut benches = Vec::new();
    for (name, plan) in [
        ("django", Plan::new(Provider::DjangoJson).lifetime(5)),
        ("nginx+oidc", Plan::new(Provider::OidcOpaque).lifetime(6).behind_nginx()),
    ] {
        let stand = plan.start().await;
        let secret = RotatingSecret::new(plan.client_id(), SECRET);
        let wire = Wire::to(&stand.auth_origin).await;
        let (callers, caches) = clients(&stand, &wire, &secret);
        let bench = Arc::new(Bench::new(name, stand.api_url(), plan.lifetime, caches));
        for (which, caller) in callers {
            for _ in 0..2 {
                workers.spawn(work(Arc::clone(&bench), which, caller.clone(), Arc::clone(&record)));
            }
        }
        workers.spawn(watch(Arc::clone(&bench)));
        benches.push((bench, stand, wire, secret));
    }

    // What is allocated once is there now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let memory_at_start = memory();
    let start = Instant::now();
    let mut schedules = JoinSet::new();
    let mut watched = Vec::new();
    for (bench, stand, wire, secret) in benches {
        watched.push(Arc::clone(&bench));
        let faults = Faults { bench, stand, wire, secret, record: Arc::clone(&record) };
        schedules.spawn(faults.run(start + duration));
    }
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    let mut done = Vec::new();
    while done.len() < watched.len() {
        tokio::select! {
            _ = second.tick() => println!("{}", record.line(start.elapsed(), &watched)),
            Some(faults) = schedules.join_next() => done.push(faults.expect("no panic")),
        }
    }
    // The servers are up: whoever is on the way comes to an end.
    record.stop();
    while let Some(worker) = workers.join_next().await {
        worker.expect("no panic");
    }
    println!("{}", record.table(start.elapsed(), &watched, memory_at_start));
    drop(done);
    if record.is_flawless() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two clients that share a token, over hyper-util; one with its own, over reqwest. Their token
/// requests go over `wire`.
fn clients(
    stand: &Stand,
    wire: &Wire,
    secret: &RotatingSecret,
) -> (Vec<(usize, Caller)>, Vec<TokenCache>) {
    let layer = || {
        let token_url = format!("{}{}", wire.origin, stand.token_path());
        let builder = stand.without_credentials().token_url(token_url);
        builder.credentials(secret.clone()).build().expect("good settings")
    };
    let (shared, own) = (layer(), layer());
    let caches = vec![shared.cache(), own.cache()];
    let ca = stand.front.is_some().then(ca);
    let callers = vec![
        (0, client::hyper(shared.clone(), stand.http(), 64)),
        (0, client::hyper(shared, stand.http(), 2)),
        (1, client::reqwest(own, ca.as_deref())),
    ];
    (callers, caches)
}

/// Calls, one after the other, with the token of the bench's cache number `which`.
async fn work(bench: Arc<Bench>, which: usize, caller: Caller, record: Arc<Record>) {
    while !record.is_stopped() {
        let start = Instant::now();
        let answer = get(&caller, &bench.url).await;
        record.add(&bench, which, start, &answer);
        tokio::time::sleep(Duration::from_millis(15)).await;
        if record.is_stopped() {
            return;
        }
    }
}

/// Notes when the bench's tokens were issued, from outside.
async fn watch(bench: Arc<Bench>) {
    while !bench.is_over() {
        bench.note_tokens();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
