//! What a dependency brings along: how many crates, and how long they take to build from nothing.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// One dependency, alone in a program.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Tree {
    pub name: String,
    pub features: String,
    pub version: String,
    /// It and all that it needs, but for what only build scripts need.
    pub crates: usize,
    /// One build in release, everything downloaded before. `None` where none was asked for.
    pub build: Option<Duration>,
}

/// Names, features, and the line of a Cargo.toml. `{}` is where this crate is.
const DEPENDENCIES: [(&str, &str, &str); 5] = [
    ("tower-oauth2-client-credentials", "default", "{ path = \"{}\" }"),
    ("tower-oauth2-client-credentials", "none", "{ path = \"{}\", default-features = false }"),
    ("aliri_tokens", "default", "\"0.3\""),
    ("middle", "default", "\"0.5\""),
    ("cf-gears-toolkit-auth", "default", "\"0.8\""),
];

/// All of them, one after the other; `each` is told as soon as one is known.
///
/// # Errors
///
/// If cargo fails. It needs the network.
pub fn measure(build: bool, mut each: impl FnMut(&Tree)) -> io::Result<Vec<Tree>> {
    let folder = std::env::temp_dir().join(format!("trees-{}", std::process::id()));
    let probes: Vec<Probe> = DEPENDENCIES
        .iter()
        .enumerate()
        .map(|(number, dependency)| Probe::new(&folder.join(number.to_string()), *dependency))
        .collect::<io::Result<_>>()?;
    // All downloads before the first build.
    for probe in &probes {
        probe.cargo(&["fetch"])?;
    }
    let trees = probes.iter().map(|probe| probe.measure(build).inspect(&mut each)).collect();
    fs::remove_dir_all(&folder)?;
    trees
}

struct Probe {
    folder: PathBuf,
    name: &'static str,
    features: &'static str,
}

impl Probe {
    fn new(
        folder: &Path,
        (name, features, line): (&'static str, &'static str, &str),
    ) -> io::Result<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let line = line.replace("{}", &own.display().to_string());
        fs::create_dir_all(folder.join("src"))?;
        fs::write(
            folder.join("Cargo.toml"),
            format!(
                "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
                 [workspace]\n\n[dependencies]\n{name} = {line}\n"
            ),
        )?;
        fs::write(folder.join("src/main.rs"), "fn main() {}\n")?;
        Ok(Self { folder: folder.to_owned(), name, features })
    }

    fn measure(&self, build: bool) -> io::Result<Tree> {
        let tree = self.cargo(&["tree", "--offline", "-e", "normal", "--prefix", "none"])?;
        let text = String::from_utf8_lossy(&tree.stdout).into_owned();
        let crates: BTreeSet<&str> = text
            .lines()
            .map(|line| line.trim_end_matches(" (*)"))
            .filter(|line| !line.is_empty() && !line.starts_with("probe "))
            .collect();
        let version = crates
            .iter()
            .find_map(|line| line.strip_prefix(self.name)?.strip_prefix(" v"))
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_default();
        let build = if build {
            let start = Instant::now();
            self.cargo(&["build", "--release", "--offline"])?;
            Some(start.elapsed())
        } else {
            None
        };
        Ok(Tree {
            name: self.name.to_owned(),
            features: self.features.to_owned(),
            version: version.to_owned(),
            crates: crates.len(),
            build,
        })
    }

    fn cargo(&self, arguments: &[&str]) -> io::Result<Output> {
        let output = crate::part::cargo()
            .args(arguments)
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.folder.join("target"))
            .output()?;
        if output.status.success() {
            Ok(output)
        } else {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("cargo {arguments:?} for {}: {text}", self.name)))
        }
    }
}
