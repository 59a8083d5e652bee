//! Real requests: hyper-util's client and hyper's server on loopback, each on one thread.

use std::{
    fs,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet};
use tower::{BoxError, Layer, Service, ServiceExt, util::MapRequest};
use tower_oauth2_client_credentials::{
    OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn,
};

use crate::{
    common::{Body, request, token},
    measure::Spread,
};

type Http = Client<HttpConnector, Body>;

/// HTTP/2 without TLS is spoken by prior knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Who puts the token on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Way {
    /// No token at all.
    Bare,
    /// A fixed header: what the others are held against.
    Header,
    NeverReplay,
    Replay,
    /// An async lock, `format!` and a boxed future.
    ByHand,
}

impl Way {
    pub const ALL: [Self; 5] =
        [Self::Bare, Self::Header, Self::NeverReplay, Self::Replay, Self::ByHand];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "no header",
            Self::Header => "a fixed header",
            Self::NeverReplay => "never_replay",
            Self::Replay => "replay",
            Self::ByHand => "by hand: Mutex, format!",
        }
    }
}

/// What runs side by side.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Scene {
    pub protocol: Protocol,
    /// That make requests at the same time, one after the other each.
    pub tasks: usize,
    /// Length of the token.
    pub bytes: usize,
}

/// Times in microseconds. A share is what a round has more than the round of `Way::Header` beside
/// it, in per cent of that.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub scene: Scene,
    pub way: Way,
    pub per_second: Spread,
    pub p50: Spread,
    pub p99: Spread,
    /// Time of the client's thread on a processor, for one request.
    pub cpu: Spread,
    pub p50_share: Spread,
    pub p99_share: Spread,
    pub cpu_share: Spread,
}

/// One way, for a short time.
#[derive(Clone, Copy, Debug)]
struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

/// All ways in turns.
///
/// # Panics
///
/// If a request fails.
#[must_use]
pub fn measure(scene: Scene, rounds: usize, time: Duration) -> Vec<Row> {
    let stand = Stand::new(scene);
    let mut found = Way::ALL.map(|_| Vec::<Round>::new());
    for round in 0..=rounds {
        for place in 0..Way::ALL.len() {
            let place = (place + round) % Way::ALL.len();
            let one = stand.round(Way::ALL[place], time);
            // The first warms up.
            if round > 0 {
                found[place].push(one);
            }
        }
    }
    let base = found[1].clone();
    let rows = Way::ALL.iter().zip(&found).map(|(&way, rounds)| {
        let spread = |part: fn(&Round) -> f64| Spread::of(rounds.iter().map(part).collect());
        let share = |part: fn(&Round) -> f64| {
            let pairs = rounds.iter().zip(&base);
            Spread::of(pairs.map(|(own, base)| (part(own) / part(base) - 1.0) * 100.0).collect())
        };
        Row {
            scene,
            way,
            per_second: spread(|round| round.per_second),
            p50: spread(|round| round.p50),
            p99: spread(|round| round.p99),
            cpu: spread(|round| round.cpu),
            p50_share: share(|round| round.p50),
            p99_share: share(|round| round.p99),
            cpu_share: share(|round| round.cpu),
        }
    });
    rows.collect()
}

/// A server on a thread of its own, and clients of it that share their connections.
pub struct Stand {
    scene: Scene,
    /// Of this thread only, so that what it does can be told from the server.
    runtime: tokio::runtime::Runtime,
    uri: Uri,
    bare: Http,
    cache: TokenCache,
    header: HeaderValue,
    by_hand: ByHand<Http>,
}

impl Stand {
    /// # Panics
    ///
    /// If there is no socket or thread to be had.
    #[must_use]
    pub fn new(scene: Scene) -> Self {
        let addr = serve(scene.protocol);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let bare: Http = Client::builder(TokioExecutor::new())
            .http2_only(scene.protocol == Protocol::Http2)
            .build(connector);
        let secret = token(scene.bytes);
        let mut header = HeaderValue::from_str(&format!("Bearer {secret}")).expect("a header");
        header.set_sensitive(true);
        let length = scene.bytes;
        let cache = TokenCache::new(source_fn(move |_| async move {
            Ok(TokenResponse::bearer(token(length))?.expires_in(Duration::from_secs(86_400)))
        }));
        runtime.block_on(cache.token()).expect("a token");
        let far = Instant::now() + Duration::from_secs(86_400);
        let by_hand =
            ByHand { inner: bare.clone(), held: Arc::new(Mutex::new(Some((secret, far)))) };
        let uri = format!("http://{addr}/v1/reports").parse().expect("a URI");
        Self { scene, runtime, uri, bare, cache, header, by_hand }
    }

    /// Time for so many requests of one task.
    ///
    /// # Panics
    ///
    /// If a request fails.
    #[must_use]
    pub fn time(&self, way: Way, requests: u64) -> Duration {
        let start = Instant::now();
        self.run(way, Until::Count(requests));
        start.elapsed()
    }

    fn round(&self, way: Way, time: Duration) -> Round {
        let cpu = on_processor();
        let start = Instant::now();
        let mut took = self.run(way, Until::Time(start + time));
        let elapsed = start.elapsed().as_secs_f64();
        let cpu = on_processor() - cpu;
        let count = took.len() as f64;
        took.sort_unstable();
        let at = |part: f64| took[(part * (count - 1.0)).round() as usize].as_secs_f64() * 1e6;
        Round {
            per_second: count / elapsed,
            p50: at(0.5),
            p99: at(0.99),
            cpu: cpu as f64 / 1e3 / count,
        }
    }

    fn run(&self, way: Way, until: Until) -> Vec<Duration> {
        let layer = OAuthClientCredentialsLayer::from_cache(self.cache.clone());
        match way {
            Way::Bare => self.drive(self.bare.clone(), until),
            Way::Header => {
                let header = self.header.clone();
                let put = move |mut request: Request<Body>| {
                    request.headers_mut().insert(header::AUTHORIZATION, header.clone());
                    request
                };
                self.drive(MapRequest::new(self.bare.clone(), put), until)
            }
            Way::NeverReplay => self.drive(layer.never_replay().layer(self.bare.clone()), until),
            Way::Replay => self.drive(layer.layer(self.bare.clone()), until),
            Way::ByHand => self.drive(self.by_hand.clone(), until),
        }
    }

    /// How long each request took, with a service value for each task.
    fn drive<S>(&self, service: S, until: Until) -> Vec<Duration>
    where
        S: Service<Request<Body>, Response = Response<Incoming>, Error: Into<BoxError>>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..self.scene.tasks {
                tasks.spawn(requests(service.clone(), self.uri.clone(), until));
            }
            let took = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>();
            took.unwrap_or_else(|error| panic!("a request failed: {error}")).concat()
        })
    }
}

#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Count(u64),
}

async fn requests<S>(mut service: S, uri: Uri, until: Until) -> Result<Vec<Duration>, BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>, Error: Into<BoxError>>,
{
    let mut took = Vec::with_capacity(16_384);
    let mut start = Instant::now();
    while match until {
        Until::Time(end) => start < end,
        Until::Count(count) => (took.len() as u64) < count,
    } {
        let mut request = request();
        request.headers_mut().remove(header::HOST);
        *request.uri_mut() = uri.clone();
        let ready = service.ready().await.map_err(Into::into)?;
        let response = ready.call(request).await.map_err(Into::into)?;
        if !response.status().is_success() {
            return Err(response.status().to_string().into());
        }
        response.into_body().collect().await?;
        let now = Instant::now();
        took.push(now - start);
        start = now;
    }
    Ok(took)
}

/// What one writes for oneself.
#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    held: Arc<Mutex<Option<(String, Instant)>>>,
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let held = Arc::clone(&self.held);
        Box::pin(async move {
            let token = match &*held.lock().await {
                Some((token, expires_at)) if Instant::now() < *expires_at => token.clone(),
                _ => return Err("a token would be asked for here".into()),
            };
            let header = HeaderValue::from_str(&format!("Bearer {token}"))?;
            request.headers_mut().insert(header::AUTHORIZATION, header);
            inner.call(request).await.map_err(Into::into)
        })
    }
}

/// Nanoseconds that this thread has been on a processor, in the kernel, too.
///
/// `/proc` has it without unsafe code. Elsewhere than on Linux it is not known, and zero.
fn on_processor() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// A server that answers everything, for as long as the program runs.
fn serve(protocol: Protocol) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a socket that does not block");
    thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket with an option");
                let stream = TokioIo::new(stream);
                // A client that is done with its connection is no error of interest.
                match protocol {
                    Protocol::Http1 => {
                        let connection = http1::Builder::new();
                        tokio::spawn(connection.serve_connection(stream, service_fn(answer)))
                    }
                    Protocol::Http2 => {
                        let connection = http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(connection.serve_connection(stream, service_fn(answer)))
                    }
                };
            }
        });
    });
    addr
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"{\"ok\":true}"))))
}
