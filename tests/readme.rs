//! The README's programs, pasted: each becomes a package of its own under `target/readme`, with the
//! dependencies that the README names, is built, and calls a scripted API with a token.
//!
//! It builds some 150 crates, so `cargo test` leaves it out. `.ci/run` runs it:
//! `cargo test --all-features --test readme`
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tower_oauth2_client_credentials::testing::{AuthorizationServer, ProtectedApi};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../README.md");

/// The blocks that open with this line, whole.
fn blocks(opening: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while lines.any(|line| line == opening) {
        let block = lines.by_ref().take_while(|line| *line != "```");
        blocks.push(block.map(|line| format!("{line}\n")).collect());
    }
    blocks
}

/// Writes the package of a program, with this very crate in place of the published one.
fn package(name: &str, dependencies: &str, program: &str) -> PathBuf {
    let directory = Path::new(ROOT).join("target/readme").join(name);
    fs::create_dir_all(directory.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{dependencies}\n\
         [workspace]\n\n[patch.crates-io]\n\
         tower-oauth2-client-credentials = {{ path = {ROOT:?} }}\n"
    );
    fs::write(directory.join("Cargo.toml"), manifest).unwrap();
    // The versions that the tests run with.
    fs::copy(Path::new(ROOT).join("Cargo.lock"), directory.join("Cargo.lock")).unwrap();
    fs::write(directory.join("src/main.rs"), program).unwrap();
    directory
}

async fn run(name: &str, dependencies: &str, program: &str) {
    let server = AuthorizationServer::builder().client("my-service", "s3cr3t").build();
    let api = ProtectedApi::new(&server);
    let (tokens, calls) = (server.serve().await.unwrap(), api.serve().await.unwrap());
    let mut local = program.to_owned();
    for (from, to) in [
        ("https://auth.example.com/oauth/token", tokens.url(server.token_path())),
        ("https://api.example.com", calls.url("").trim_end_matches('/').to_owned()),
    ] {
        assert!(local.contains(from), "{name} has no {from}");
        local = local.replace(from, &to);
    }
    let directory = package(name, dependencies, &local);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--manifest-path"]).arg(directory.join("Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", Path::new(ROOT).join("target/readme/target"));
    cargo.env("CLIENT_SECRET", "s3cr3t").stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || cargo.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name} failed: {said}");
    assert_eq!(said, "the API answers 200 OK\n", "{name}");
    assert_eq!((server.requests(), api.accepted(), api.rejected()), (1, 1, 0), "{name}");
    println!("{name}: {said}");
}

/// The same with anyhow, by what the README says of it.
fn with_anyhow(program: &str) -> String {
    let boxed = "client.oneshot(request).await.map_err(anyhow::Error::from_boxed)?";
    assert!(README.contains(boxed));
    let result = "Result<(), Box<dyn std::error::Error + Send + Sync>>";
    assert!(program.contains(result));
    program.replace(result, "anyhow::Result<()>").replace("client.oneshot(request).await?", boxed)
}

#[tokio::main]
async fn main() {
    let (dependencies, programs) = (blocks("```toml"), blocks("```rust,no_run"));
    assert_eq!((dependencies.len(), programs.len()), (2, 2), "one program for each manifest");
    for (name, (dependencies, program)) in
        ["hyper", "reqwest-middleware"].into_iter().zip(dependencies.iter().zip(&programs))
    {
        // A crate may not have the name of one that it depends on.
        run(&format!("readme-{name}"), dependencies, program).await;
        let dependencies = format!("{dependencies}anyhow = \"1\"\n");
        run(&format!("readme-{name}-anyhow"), &dependencies, &with_anyhow(program)).await;
    }
}
