//! Everything that the crate and the crates below it log, at the most verbose level; and whether a
//! secret is in it.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tracing_subscriber::filter::LevelFilter;

use crate::harness::{run_folder, stand::SECRET};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn log() -> MutexGuard<'static, Vec<u8>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        log().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on everything is kept, also what goes through the crate `log`.
pub(crate) fn capture() {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(|| Sink)
        .init();
}

/// What has been logged since the last time.
pub(crate) fn take() -> String {
    String::from_utf8_lossy(&std::mem::take(&mut *log())).into_owned()
}

/// The secrets and tokens that the servers have seen, as `PEER` lines in their logs have them, in
/// all the forms in which they went over the wire.
pub(crate) fn secrets() -> BTreeSet<String> {
    let mut secrets = BTreeSet::from([SECRET.to_owned()]);
    for entry in fs::read_dir(run_folder()).into_iter().flatten().flatten() {
        let Ok(text) = fs::read(entry.path()) else { continue };
        for line in String::from_utf8_lossy(&text).lines() {
            let Some(json) = line.strip_prefix("PEER ") else { continue };
            let Ok(line) = serde_json::from_str::<serde_json::Value>(json) else { continue };
            if let Some((scheme, value)) =
                line["authorization"].as_str().and_then(|header| header.split_once(' '))
            {
                secrets.insert(value.to_owned());
                if scheme == "Basic" {
                    let pair = STANDARD.decode(value).expect("base64");
                    let pair = String::from_utf8(pair).expect("UTF-8");
                    secrets.extend(pair.split_once(':').map(|(_, secret)| secret.to_owned()));
                }
            }
            let answer = line["answer"].as_str().unwrap_or_default();
            if let Ok(answer) = serde_json::from_str::<serde_json::Value>(answer) {
                secrets.extend(answer["access_token"].as_str().map(str::to_owned));
            }
            let request = line["request"].as_str().unwrap_or_default();
            secrets.extend(
                request
                    .split('&')
                    .filter_map(|pair| pair.strip_prefix("client_secret="))
                    .map(str::to_owned),
            );
        }
    }
    secrets
}

/// The first line with a secret in it.
pub(crate) fn leak(log: &str) -> Option<String> {
    let secrets = secrets();
    log.lines()
        .find(|line| secrets.iter().any(|secret| line.contains(secret.as_str())))
        .map(str::to_owned)
}
