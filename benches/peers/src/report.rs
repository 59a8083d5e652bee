//! Writes what was measured where people read it: `benches/README.md` with its pictures, and the
//! short table of the README of the crate.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{bars, floor, herd::Ends, part::Measured, plot, tables};

/// Between these two lines everything is replaced.
const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->";

/// # Errors
///
/// If a file is not there, or has lost its markers.
pub fn write(measured: &Measured) -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let benches = root.join("benches");
    let text = format!(
        "{}\n\n## Bars\n\n{}\n\n{}\n",
        facts(measured),
        bars::bars(measured),
        tables::all(measured)
    );
    replace(&benches.join("README.md"), &text)?;
    if !measured.hit.is_empty() {
        replace(&root.join("README.md"), &format!("{}\n", tables::short(measured)))?;
    }
    if !measured.threads.is_empty() {
        fs::write(benches.join("threads.svg"), threads(measured))?;
    }
    if !measured.herd.is_empty() {
        fs::write(benches.join("herd.svg"), herds(measured))?;
    }
    Ok(())
}

fn replace(path: &PathBuf, with: &str) -> io::Result<()> {
    let text = fs::read_to_string(path)?;
    let lost = || io::Error::other(format!("{}: no {BEGIN}", path.display()));
    let (before, rest) = text.split_once(BEGIN).ok_or_else(lost)?;
    let (_, after) = rest.split_once(END).ok_or_else(lost)?;
    fs::write(path, format!("{before}{BEGIN}\n{with}\n{END}{after}"))
}

/// When, where, and of whom.
fn facts(measured: &Measured) -> String {
    let took: Vec<String> =
        measured.took.iter().map(|(part, seconds)| format!("{part} {seconds:.0}")).collect();
    let all: f64 = measured.took.iter().map(|(_, seconds)| seconds).sum();
    format!(
        "{} (UTC). {}, {} core(s), {}; {}.\n\nPeers: {}.\n\nThe run took {:.0} minutes; in seconds: {}.",
        date(measured.started),
        processor(),
        thread::available_parallelism().map_or(1, usize::from),
        first_line("uname", &["-sr"]),
        first_line("rustc", &["--version"]),
        versions(),
        all / 60.0,
        took.join(", ")
    )
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "an unknown processor".to_owned(), |(_, model)| model.to_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| Some(text.lines().next()?.to_owned())).unwrap_or_default()
}

/// Of those that are measured, and of what everybody stands on.
fn versions() -> String {
    const NAMES: [&str; 13] = [
        "aliri_tokens",
        "aws-smithy-runtime",
        "azure_core",
        "cf-gears-toolkit-auth",
        "google-cloud-auth",
        "kube-client",
        "middle",
        "tower",
        "tower-http",
        "http",
        "hyper",
        "hyper-util",
        "tokio",
    ];
    let lock = include_str!("../Cargo.lock");
    let packages: Vec<(&str, &str, &str)> = lock
        .split("[[package]]")
        .filter_map(|package| {
            let of = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key));
                line.map(|value| value.trim_matches([' ', '=', '"']))
            };
            Some((of("name")?, of("version")?, package))
        })
        .collect();
    let own = packages.iter().find(|(name, ..)| *name == "peers").map_or("", |own| own.2);
    let version = |name: &str| {
        // Where there are several of one name, the version stands beside it.
        let beside = own.lines().find_map(|line| {
            line.trim().strip_prefix(&format!("\"{name} "))?.split(['"', ' ']).next()
        });
        let only = packages.iter().find(|one| one.0 == name).map(|one| one.1);
        beside.or(only).unwrap_or("unknown")
    };
    let told: Vec<String> = NAMES.iter().map(|name| format!("{name} {}", version(name))).collect();
    told.join(", ")
}

/// Of seconds since 1970: the day, by Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

fn threads(measured: &Measured) -> String {
    let lines = measured.threads.iter().map(|one| {
        let style = match one.name.as_str() {
            "never_replay" | "replay" => plot::Style::Own,
            "AddAuthorization" | "Retry" | floor::NAME => plot::Style::Floor,
            _ => plot::Style::Other,
        };
        let points = one.points.iter().map(|(threads, nanos)| (*threads as f64, nanos.median));
        plot::Line { name: one.name.clone(), style, points: points.collect() }
    });
    plot::svg(
        "Processor time of a request over the base, ns, by threads",
        "threads",
        &lines.collect::<Vec<_>>(),
    )
}

fn herds(measured: &Measured) -> String {
    use crate::herd::Who;
    let lines = [Who::Notify, Who::Cache, Who::Layer, Who::Mutex, Who::OnceCell].map(|who| {
        let style = match who {
            Who::Cache | Who::Layer => plot::Style::Own,
            Who::Notify => plot::Style::Floor,
            _ => plot::Style::Other,
        };
        let points = measured
            .herd
            .iter()
            .filter(|herd| (herd.who, herd.threads, herd.ends) == (who, 2, Ends::Well))
            .map(|herd| (herd.waiters as f64, herd.last.median / 1e3));
        plot::Line { name: who.name().to_owned(), style, points: points.collect() }
    });
    plot::svg("Arrival of a token to the last waiter served, ms, by waiters", "waiters", &lines)
}
