//! The compiler messages for programs that do not compile.

use std::process::Command;

/// Compiles `tests/ui/<name>.rs`, a target that nothing else compiles, with the dependencies of
/// this build. Returns the compiler's output on one line.
fn compile(name: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--no-run", "--offline", "--quiet", "--color=never", "--test", name]);
    cargo.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    cargo.args(features());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // Cargo's variables for tests: build scripts of dependencies would see them as a change, and
    // everything would be rebuilt.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            cargo.env_remove(&*name);
        }
    }
    let output = cargo.output().unwrap();
    assert!(!output.status.success(), "{name} compiles");
    let said = String::from_utf8(output.stderr).unwrap();
    said.split_whitespace().filter(|word| *word != "|").collect::<Vec<_>>().join(" ")
}

/// The features of this build.
fn features() -> Vec<String> {
    let features = [
        ("rustls", cfg!(feature = "rustls")),
        ("ring", cfg!(feature = "ring")),
        ("aws-lc-rs", cfg!(feature = "aws-lc-rs")),
        ("tracing", cfg!(feature = "tracing")),
        ("testing", cfg!(feature = "testing")),
        ("testing-tls", cfg!(feature = "testing-tls")),
    ];
    if features.iter().all(|(_, on)| *on) {
        return vec!["--all-features".to_owned()];
    }
    let on: Vec<_> = features.iter().filter_map(|(name, on)| on.then_some(*name)).collect();
    let default = cfg!(feature = "default");
    let mut arguments = vec![format!("--features={}", on.join(","))];
    arguments.extend((!default).then(|| "--no-default-features".to_owned()));
    arguments
}

/// The failing bound is three traits away from the user's code.
#[test]
fn a_body_that_cannot_be_sent_again_gets_an_error_that_says_what_to_do() {
    let said = compile("not_a_replay_body");
    for sentence in [
        "a request with a body of type `Upload` cannot be kept to be sent again after a 401",
        "box the body: `http_body_util::BodyExt::boxed_unsync(body)` works for every `Send` body",
        "or implement `ReplayBody` for it: three lines if it can be cloned",
        "or do without: `.never_replay()` on the layer takes every body",
    ] {
        assert!(said.contains(sentence), "{sentence}\n\n{said}");
    }
}

// A layer setting on a builder without a layer used to be found by a list of names at build time.
#[test]
fn a_setting_without_effect_does_not_compile_and_the_error_says_where_it_has_one() {
    let said = compile("a_setting_without_effect");
    for sentence in [
        "method not found in `tower_oauth2_client_credentials::Builder<ForCache>`",
        "the method was found for - `tower_oauth2_client_credentials::Builder<ForLayer, S>`",
        "doesn't satisfy `ForEndpoint: HasCache`",
        "method not found in `tower_oauth2_client_credentials::Builder<ForCache, FromSource>`",
        "doesn't satisfy `FromCache: MakesCache`",
        "due to 5 previous errors",
    ] {
        assert!(said.contains(sentence), "{sentence}\n\n{said}");
    }
}
