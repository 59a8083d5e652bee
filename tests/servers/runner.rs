//! Runs the tests one after the other, each on a runtime of its own and with a time limit: a lost
//! wake-up shows as a hang. libtest is no help here, as it cannot leave all of them out and say so.

use std::{
    env, fs,
    future::Future,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{harness::run_folder, log};

/// Far more than any of them takes.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Test {
    name: String,
    body: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Test {
    pub(crate) fn new(
        name: impl Into<String>,
        body: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), body: Box::pin(body) }
    }
}

/// Arguments are parts of names, as for any test binary.
#[allow(clippy::disallowed_methods, reason = "tells how long a test took, and decides nothing")]
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all = tests.len();
    let tests: Vec<Test> = tests
        .into_iter()
        .filter(|test| wanted.is_empty() || wanted.iter().any(|part| test.name.contains(part)))
        .collect();
    let chosen = tests.len();
    println!("\nrunning {chosen} tests against real servers");
    let start = Instant::now();
    let mut failed = Vec::new();
    for Test { name, body } in tests {
        let start = Instant::now();
        let result = one(body);
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("test {name} ... ok ({took:.1} s)"),
            Err(why) => {
                println!("test {name} ... FAILED ({took:.1} s): {why}");
                failed.push(name);
            }
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        chosen - failed.len(),
        failed.len(),
        all - chosen,
        start.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        let _in_target = fs::remove_dir_all(run_folder());
        return ExitCode::SUCCESS;
    }
    println!("failed: {}; what the servers said: {}", failed.join(", "), run_folder().display());
    ExitCode::FAILURE
}

fn one(body: Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<(), String> {
    drop(log::take());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // On a task, so that a panic is an error here, and drops the servers that it had.
    let mut task = runtime.spawn(body);
    let result = runtime.block_on(async { tokio::time::timeout(LIMIT, &mut task).await });
    drop(runtime);
    match result {
        Err(_) => return Err(format!("not done after {} s", LIMIT.as_secs())),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(())) => {}
    }
    let said = log::take();
    // A log that had nothing in it would be as good as any.
    if !said.contains("oauth2.renewal") {
        return Err("the crate has logged nothing".into());
    }
    log::leak(&said).map_or(Ok(()), |line| Err(format!("a secret in the log: {line}")))
}
