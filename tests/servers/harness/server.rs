//! [`Server`]: a process that answers on a port, can be stopped and started again there, and tells
//! what it was asked.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};

use super::{
    cache,
    client::{self, Http},
    process::{Process, free_port},
    run_folder, scripts,
};

pub(crate) struct Server {
    name: &'static str,
    env: Vec<(String, String)>,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
    /// Its folder.
    pub(crate) run: PathBuf,
    process: Option<Process>,
    /// Says `/__peer/` paths; nginx has none.
    has_controls: bool,
    http: Http,
}

/// What a server has been asked, and how it answered.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) token_requests: u64,
    pub(crate) token_by_status: BTreeMap<String, u64>,
    pub(crate) api_by_status: BTreeMap<String, u64>,
}

impl Server {
    /// Starts the server in `tests/servers/<name>`, and waits until it answers.
    pub(crate) async fn start(name: &'static str, env: &[(&str, String)]) -> Self {
        let port = free_port();
        fs::create_dir_all(run_folder()).expect("target is writable");
        let mut env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let folder = run_folder();
        for (name, value) in [
            ("PORT", port.to_string()),
            ("CACHE", cache().display().to_string()),
            ("PEER_DB", folder.join(format!("{port}.sqlite3")).display().to_string()),
            ("RUN", folder.join(port.to_string()).display().to_string()),
        ] {
            env.push((name.to_owned(), value));
        }
        let log = folder.join(format!("{name}-{port}.log"));
        let has_controls = name != "nginx";
        let http = client::http(None, client::Versions::Http1);
        let run = folder.join(port.to_string());
        let mut server = Self { name, env, port, log, run, process: None, has_controls, http };
        server.start_again().await;
        server
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it on the same port, if it does not run, and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        let script = scripts().join(self.name).join("start");
        let process =
            self.process.get_or_insert_with(|| Process::start(&script, &self.env, &self.log));
        for _ in 0..600 {
            let answers = if self.has_controls {
                ask(&self.http, self.port, "stats", "").await.is_some()
            } else {
                tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
            };
            if answers {
                return;
            }
            assert!(process.is_running(), "{} has ended: {}", self.name, self.log.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} does not answer: {}", self.name, self.log.display());
    }

    /// Stops it in its tracks: it accepts connections, and answers nothing.
    pub(crate) fn freeze(&self) {
        if let Some(process) = &self.process {
            process.signal("STOP");
        }
    }

    pub(crate) fn thaw(&self) {
        if let Some(process) = &self.process {
            process.signal("CONT");
        }
    }

    pub(crate) async fn stats(&self) -> Stats {
        let json = ask(&self.http, self.port, "stats", "").await.expect("the server answers");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("statistics");
        let counts = |name: &str| {
            let counts = json[name].as_object().expect("counts").iter();
            counts.map(|(status, count)| (status.clone(), count.as_u64().unwrap_or(0))).collect()
        };
        Stats {
            token_requests: json["token_requests"].as_u64().expect("a count"),
            token_by_status: counts("token_by_status"),
            api_by_status: counts("api_by_status"),
        }
    }

    /// How many token requests it has had.
    pub(crate) async fn token_requests(&self) -> u64 {
        self.stats().await.token_requests
    }

    /// Withdraws all opaque tokens that it has issued.
    pub(crate) async fn revoke(&self) {
        ask(&self.http, self.port, "revoke", "").await.expect("the server answers");
    }

    /// Gives the client another secret.
    pub(crate) async fn rotate_secret(&self, secret: &str) {
        ask(&self.http, self.port, "secret", secret).await.expect("the server answers");
    }

    /// Spoils the answers to token requests from here on: "answer=500", "delay_ms=700", "" to mend.
    /// False: it does not answer.
    pub(crate) async fn fault(&self, fault: &str) -> bool {
        ask(&self.http, self.port, &format!("fault?{fault}"), "").await.is_some()
    }
}

async fn ask(http: &Http, port: u16, what: &str, body: &str) -> Option<Bytes> {
    let request = Request::post(format!("http://127.0.0.1:{port}/__peer/{what}"))
        .body(Full::from(body.to_owned()))
        .expect("a request");
    let answer = async { http.request(request).await.ok()?.into_body().collect().await.ok() };
    Some(tokio::time::timeout(Duration::from_secs(10), answer).await.ok()??.to_bytes())
}
