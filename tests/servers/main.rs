//! The crate against servers that nobody here wrote: processes of their own, real sockets, real
//! time. `tests/all` installs them and runs this with `REAL_SERVERS=1`; without it nothing is run,
//! and one line says so.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod clients;
mod django;
mod harness;
mod log;
mod nginx;
mod oidc;
mod runner;
mod scenarios;

fn main() -> std::process::ExitCode {
    // Set, and nothing is skipped: what is missing is an error.
    match std::env::var("REAL_SERVERS").as_deref() {
        Ok("1") => {}
        Ok("later") => return std::process::ExitCode::SUCCESS,
        _ => {
            let features =
                if cfg!(feature = "testing-tls") { "" } else { ", and what needs --all-features" };
            println!("\nnot run: real servers{features}. `tests/all` runs everything\n");
            return std::process::ExitCode::SUCCESS;
        }
    }
    assert!(harness::is_installed(), "not installed: run tests/servers/install");
    log::capture();
    let mut tests = Vec::new();
    scenarios::add(&mut tests);
    django::add(&mut tests);
    oidc::add(&mut tests);
    nginx::add(&mut tests);
    clients::add(&mut tests);
    runner::run(tests)
}
