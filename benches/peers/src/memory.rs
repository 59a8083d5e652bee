//! What is held: by a cache, by a service, by those who wait. In bytes asked for from the allocator.
//!
//! The allocator that counts belongs to a binary of its own, `memory`, next to the one that runs.

use std::{
    future::{Future, pending},
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Runtime,
    sync::{Mutex, Notify},
};
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_client_credentials::{
    OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn,
    testing::{Answer, AuthorizationServer, RunningServer, TestCa},
};

use crate::common::{Inner, TOKEN_LENGTH, cache, request, token, warm};

/// Somebody, and what they hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Held {
    pub what: String,
    pub bytes: i64,
}

/// Asks the binary `memory`.
///
/// # Errors
///
/// If it is not next to this program, or fails.
pub fn measure() -> io::Result<Vec<Held>> {
    let output = Command::new(sibling()?).arg("rows").stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("`memory rows` ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rows = text.lines().filter_map(|line| {
        let (bytes, what) = line.split_once('\t')?;
        Some(Held { what: what.to_owned(), bytes: bytes.parse().ok()? })
    });
    Ok(rows.collect())
}

/// The binary `memory`: next to this one, or above, where this one is a benchmark.
fn sibling() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let name = format!("memory{}", std::env::consts::EXE_SUFFIX);
    let places = own.ancestors().skip(1).take(2).map(|folder| folder.join(&name));
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no binary `memory`: cargo build --release --bins")
    })
}

/// For the binary: `held` is what is allocated now, in all.
///
/// # Errors
///
/// If the token server cannot be run.
///
/// # Panics
///
/// If there is no token.
pub fn rows(held: &dyn Fn() -> i64) -> io::Result<Vec<Held>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut rows = Vec::new();
    let mut add = |what: &str, bytes| rows.push(Held { what: what.to_owned(), bytes });

    // What is made once for the process is not a cache's.
    drop(filled(&runtime));
    let before = settled(&runtime, held);
    let empty = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t") }));
    add("TokenCache::new, before its first token", held() - before);
    drop(empty);
    let before = settled(&runtime, held);
    let cache = filled(&runtime);
    add("TokenCache::new, with a token of 1,200 bytes", settled(&runtime, held) - before);
    drop(cache);

    for (tls, what) in [(false, "plain http"), (true, "TLS")] {
        let server = Server::start()?;
        let build = || {
            OAuthClientCredentialsLayer::builder()
                .token_url(if tls { &server.secure } else { &server.plain })
                .client_id("test-client")
                .client_secret("test-secret")
                .ca_pem(server.pem.as_bytes())
                .build()
                .expect("a layer")
        };
        let first = build();
        runtime.block_on(first.cache().token()).expect("a token");
        let before = settled(&runtime, held);
        let layer = build();
        add(&format!("the Builder's layer, {what}, before its first token"), held() - before);
        runtime.block_on(layer.cache().token()).expect("a token");
        let open = settled(&runtime, held) - before;
        add(&format!("the same, {what}, with a token of 1,200 bytes, connection open"), open);
        drop(first);
        let before = settled(&runtime, held) - open;
        drop(server);
        add(&format!("the same, {what}, connection closed"), settled(&runtime, held) - before);
    }

    services(held, &mut add);
    waiters(&runtime, held, &mut add);
    Ok(rows)
}

/// A cache that has asked for its token in `runtime`.
fn filled(runtime: &Runtime) -> TokenCache {
    let cache = TokenCache::new(source_fn(|_| async {
        Ok(TokenResponse::bearer(token(TOKEN_LENGTH))?.expires_in(Duration::from_secs(86_400)))
    }));
    runtime.block_on(cache.token()).expect("a token");
    cache
}

/// What is held when the tasks that have ended are gone.
fn settled(runtime: &Runtime, held: &dyn Fn() -> i64) -> i64 {
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    held()
}

/// Clones of a service, idle and warm, over the inner service.
fn services(held: &dyn Fn() -> i64, add: &mut impl FnMut(&str, i64)) {
    let layer = OAuthClientCredentialsLayer::from_cache(cache(TOKEN_LENGTH));
    let beyond = |size: usize| i64::try_from(size - size_of::<Inner>()).unwrap_or(i64::MAX);
    let before = held();
    let first = layer.layer(Inner);
    add("the first service of a layer, on the heap", held() - before);
    add("a service, by its size beyond the inner one's", beyond(size_of_val(&first)));
    let before = held();
    let idle = first.clone();
    add("an idle clone of it, on the heap", held() - before);
    drop(idle);
    // The first of them makes the header one that is shared.
    drop(warm(first.clone()));
    let before = held();
    let own = warm(first.clone());
    add("a warm clone, on the heap", held() - before);
    drop(own);
    let service = warm(first);
    let before = held();
    let clone = service.clone();
    add("a clone of a warm one, on the heap", held() - before);
    drop(clone);
}

/// What each of ten thousand waiters holds, with its task.
fn waiters(runtime: &Runtime, held: &dyn Fn() -> i64, add: &mut impl FnMut(&str, i64)) {
    let never = || TokenCache::new(source_fn(|_| pending()));
    let mut crowd = |what: &str, make: &dyn Fn(&Runtime, &'static AtomicUsize)| {
        const COUNT: usize = 10_000;
        static WAITING: AtomicUsize = AtomicUsize::new(0);
        WAITING.store(0, Ordering::Relaxed);
        let before = settled(runtime, held);
        // Its own, so that whoever still waits in the end goes with it.
        let crowded =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for _ in 0..COUNT {
            make(&crowded, &WAITING);
        }
        crowded.block_on(async {
            while WAITING.load(Ordering::Relaxed) < COUNT {
                tokio::task::yield_now().await;
            }
            // Until the last of them has been polled.
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        let count = i64::try_from(COUNT).unwrap_or(i64::MAX);
        add(what, (held() - before) / count);
        drop(crowded);
    };
    crowd("a waiting task: only a Notify", &{
        let bell = Arc::new(Notify::new());
        move |runtime, waiting| {
            let bell = Arc::clone(&bell);
            runtime.spawn(wait(waiting, async move { bell.notified().await }));
        }
    });
    crowd("a waiting task: TokenCache::token", &{
        let cache = never();
        move |runtime, waiting| {
            runtime.spawn(wait(waiting, cache.token()));
        }
    });
    crowd("a waiting task: the layer, with its request", &{
        let service = OAuthClientCredentialsLayer::from_cache(never()).layer(Inner);
        move |runtime, waiting| {
            let mut service = service.clone();
            runtime.spawn(wait(waiting, async move {
                service.ready().await.expect("a service that is always ready");
                service.call(request()).await
            }));
        }
    });
    crowd("a waiting task: by hand, a Mutex, with its request", &{
        let held = Arc::new(Mutex::new(None::<String>));
        move |runtime, waiting| {
            let (held, request) = (Arc::clone(&held), request());
            runtime.spawn(wait(waiting, async move {
                let mut held = held.lock().await;
                if held.is_none() {
                    pending::<()>().await;
                }
                drop((held.take(), request));
            }));
        }
    });
}

async fn wait<F: Future>(waiting: &'static AtomicUsize, future: F) {
    waiting.fetch_add(1, Ordering::Relaxed);
    future.await;
}

/// A token server in a process of its own, so that none of what it holds is counted.
struct Server {
    child: Child,
    /// It writes to this as long as it likes.
    _says: ChildStdout,
    plain: String,
    secure: String,
    pem: String,
}

impl Server {
    fn start() -> io::Result<Self> {
        let mut child = Command::new(sibling()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut says = child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(&mut says).lines();
        let mut line = || lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let (plain, secure) = (line()?, line()?);
        let mut pem = String::new();
        while !pem.contains("END CERTIFICATE") {
            pem += &line()?;
            pem.push('\n');
        }
        drop(lines);
        Ok(Self { child, _says: says, plain, secure, pem })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.child.stdin.take());
        let _ended = self.child.wait();
    }
}

/// For the binary: serves tokens until standard input ends. Says where, and by which CA.
///
/// # Errors
///
/// If there is no socket to be had.
///
/// # Panics
///
/// If there is no runtime or certificate to be had.
pub fn serve() -> io::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let server = AuthorizationServer::new();
    let json = format!(
        "{{\"access_token\":\"{}\",\"token_type\":\"Bearer\",\"expires_in\":86400}}",
        token(TOKEN_LENGTH)
    );
    server.script((0..100).map(|_| Answer::json(StatusCode::OK, json.clone())));
    let ca = TestCa::new().expect("a certificate");
    let (plain, secure): (RunningServer, RunningServer) = runtime.block_on(async {
        Ok::<_, io::Error>((server.serve().await?, server.serve_tls(&ca).await?))
    })?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}\n{}\n{}",
        plain.url(server.token_path()),
        secure.url(server.token_path()),
        ca.pem()
    )?;
    out.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
