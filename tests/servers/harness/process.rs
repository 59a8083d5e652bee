//! [`Process`]: a command that does not outlive the value, nor this process, however it ends.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use super::scripts;

/// Runs in a process group of its own. Dropped: killed, with all its children. If this process is
/// killed, `common/keep` sees its pipe closed and does the same.
#[derive(Debug)]
pub(crate) struct Process {
    keep: Child,
    group: String,
    /// What keeps it alive.
    pipe: Option<ChildStdin>,
}

impl Process {
    /// Starts `script` with the variables `env`; what it prints is added to `log`.
    pub(crate) fn start(script: &Path, env: &[(String, String)], log: &Path) -> Self {
        let mut keep = Command::new(scripts().join("common/keep"))
            .arg(log)
            .arg(script)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/servers/common/keep can be started");
        let pipe = keep.stdin.take();
        let mut group = String::new();
        BufReader::new(keep.stdout.take().expect("a pipe")).read_line(&mut group).expect("a pid");
        Self { keep, group: group.trim().to_owned(), pipe }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.keep.try_wait(), Ok(None))
    }

    /// Sends `signal` ("STOP", "CONT", "KILL") to all of the group.
    pub(crate) fn signal(&self, signal: &str) {
        // A builtin of bash; the program of that name need not be there.
        let _gone_is_fine = Command::new("bash")
            .args(["-c", r#"kill -"$0" -- "-$1""#, signal, &self.group])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal("KILL");
        }
        drop(self.pipe.take());
        let _gone = self.keep.wait();
    }
}

/// A free port on loopback, below those that the kernel gives to clients: a server that is started
/// again must find its port free.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 10_000;
    loop {
        let offset = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + offset) % 12_000).expect("below 32,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
