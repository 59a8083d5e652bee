//! Real servers as processes of their own, and clients for them. Used by the tests and by the soak.

pub(crate) mod client;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod stand;

use std::path::PathBuf;

/// Where `install` has put everything.
pub(crate) fn cache() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers"))
}

/// Where the scripts are.
pub(crate) fn scripts() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers"))
}

pub(crate) fn is_installed() -> bool {
    cache().join(".installed").exists()
}

/// For the logs and the databases of the servers of this process.
pub(crate) fn run_folder() -> PathBuf {
    cache().join("run").join(std::process::id().to_string())
}
