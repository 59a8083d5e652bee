//! The layer over real sockets, on hyper-util's client: both versions of HTTP, TLS, the providers'
//! token endpoints, and what becomes of connections when a 401 is cured.
//!
//! Real time, and nothing sleeps: what is waited for is an event, under a limit for each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail tests; clippy.toml lets only the tests themselves"
)]

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tower::{Layer, ServiceBuilder, ServiceExt, util::MapResponseLayer};
use tower_oauth2_client_credentials::{
    BoxError, Builder, Dialect, NotReplaced, OAuthClientCredentialsLayer,
    testing::{Answer, AuthorizationServer, Flavor, ProtectedApi, RunningServer},
};

type HttpClient<B> = Client<HttpConnector, B>;

/// A lost wake-up shows as a hang.
async fn limited<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
}

fn http1<B>() -> HttpClient<B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).build_http()
}

fn http2<B>() -> HttpClient<B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

fn get(url: &str) -> Request<Full<Bytes>> {
    Request::get(url).body(Full::default()).unwrap()
}

/// A layer whose tokens come from `server` in memory, where they are not what is tested.
fn layer(server: &AuthorizationServer) -> OAuthClientCredentialsLayer {
    let builder = test_client(server.token_url());
    builder.transport(server.service()).build().unwrap()
}

fn test_client(token_url: impl Into<String>) -> Builder {
    OAuthClientCredentialsLayer::builder()
        .token_url(token_url)
        .client_id("test-client")
        .client_secret("test-secret")
}

// The providers, and both versions of HTTP.

#[cfg(feature = "rustls")]
#[tokio::test]
async fn every_flavor_of_token_endpoint_serves_an_api_over_both_versions_of_http() {
    type Configure = fn(Builder) -> Builder;
    let presets: [(Flavor, Configure, u64); 4] = [
        (Flavor::Rfc6749, |builder| builder, 3600),
        (Flavor::Auth0, |b| b.dialect(Dialect::auth0()).audience("https://api"), 86_400),
        (Flavor::Podero, |builder| builder.dialect(Dialect::podero()), 36_000),
        (Flavor::Dadi, |builder| builder.dialect(Dialect::dadi()), 1800),
    ];
    limited(async {
        for (flavor, configure, lifetime) in presets {
            let server = AuthorizationServer::builder().flavor(flavor).build();
            let api = ProtectedApi::new(&server);
            let (auth_server, api_server) =
                (server.serve().await.unwrap(), api.serve().await.unwrap());
            let builder = test_client(auth_server.url(server.token_path()));
            let layer = configure(builder).build().unwrap();
            let url = api_server.url("/");
            for (client, version) in [(http1(), Version::HTTP_11), (http2(), Version::HTTP_2)] {
                let response = layer.layer(client).oneshot(get(&url)).await.unwrap();
                assert_eq!((response.status(), response.version()), (StatusCode::OK, version));
            }
            assert_eq!(server.requests(), 1, "{flavor:?}");

            server.revoke_all();
            let response = layer.layer(http1()).oneshot(get(&url)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{flavor:?}");
            assert_eq!((server.issued(), api.rejected()), (2, 1), "{flavor:?}");

            let token = layer.cache().token().await.unwrap();
            let left = token.expires_at().unwrap().elapsed().unwrap_err().duration();
            let lifetime = Duration::from_secs(lifetime);
            assert!(left <= lifetime && left > lifetime - Duration::from_secs(60), "{left:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_under_a_crowd_is_renewed_once_over_both_versions_of_http() {
    limited(async {
        for client in [http1(), http2()] {
            let server = AuthorizationServer::new();
            let api = ProtectedApi::new(&server);
            let running = api.serve().await.unwrap();
            let client = layer(&server).layer(client);
            client.clone().oneshot(get(&running.url("/"))).await.unwrap();

            api.hold();
            let mut calls = JoinSet::new();
            for _ in 0..300 {
                calls.spawn(client.clone().oneshot(get(&running.url("/"))));
            }
            api.held(300).await;
            server.revoke_all();
            api.release();
            while let Some(response) = calls.join_next().await {
                assert_eq!(response.unwrap().unwrap().status(), StatusCode::OK);
            }
            assert_eq!((server.requests(), api.rejected(), api.accepted()), (2, 300, 301));
        }
    })
    .await;
}

// TLS.

#[cfg(all(feature = "rustls", feature = "testing-tls"))]
mod tls {
    use std::{error::Error, path::PathBuf};

    use tower_oauth2_client_credentials::{ErrorClass, TokenError, testing::TestCa};

    use super::*;

    /// A file that is gone with the test.
    struct TempFile(PathBuf);

    impl TempFile {
        fn new(name: &str, content: &str) -> Self {
            let name = format!("oauth2-it-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    async fn served_by(ca: &TestCa) -> (AuthorizationServer, RunningServer) {
        let server = AuthorizationServer::new();
        let running = server.serve_tls(ca).await.unwrap();
        assert!(running.url("/").starts_with("https://localhost:"));
        (server, running)
    }

    #[tokio::test]
    async fn a_private_ca_is_trusted_when_it_is_given_as_pem_or_as_a_file() {
        let ca = TestCa::new().unwrap();
        let file = TempFile::new("ca.pem", ca.pem());
        limited(async {
            for trust_it in [
                &(|builder: Builder| builder.ca_pem(ca.pem())) as &dyn Fn(Builder) -> Builder,
                &|builder: Builder| builder.ca_file(&file.0),
            ] {
                let (server, auth_server) = served_by(&ca).await;
                let api = ProtectedApi::new(&server);
                let api_server = api.serve().await.unwrap();
                let builder = test_client(auth_server.url("/token"));
                let client = trust_it(builder).build().unwrap().layer(http1());
                let response = client.oneshot(get(&api_server.url("/"))).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(server.journal()[0].uri().path(), "/token");
            }
        })
        .await;
    }

    /// Pins: the secret sent to whoever answers, or an error that does not say why it was not.
    #[tokio::test]
    async fn a_certificate_of_another_ca_is_refused_and_the_error_says_why() {
        let (ours, theirs) = (TestCa::new().unwrap(), TestCa::new().unwrap());
        limited(async {
            let (server, auth_server) = served_by(&theirs).await;
            let api = ProtectedApi::new(&server);
            let api_server = api.serve().await.unwrap();
            let builder = test_client(auth_server.url("/token")).ca_pem(ours.pem());
            let client = builder.build().unwrap().layer(http1());
            let error = client.oneshot(get(&api_server.url("/"))).await.unwrap_err();

            let error = error.downcast_ref::<TokenError>().unwrap();
            assert_eq!(error.class(), ErrorClass::Transient);
            assert!(error.is_unreachable());
            let mut causes = error.to_string();
            let mut next = error.source();
            while let Some(cause) = next {
                causes += &format!(": {cause}");
                next = cause.source();
            }
            assert!(causes.starts_with("the token endpoint could not be reached: "), "{causes}");
            assert!(causes.contains("invalid peer certificate: "), "{causes}");
            assert_eq!((server.requests(), api.calls()), (0, 0), "nothing was sent");
        })
        .await;
    }
}

// What becomes of connections.

/// What was read of the bodies of rejected responses.
#[derive(Clone, Default)]
struct Drained {
    bodies: Arc<AtomicUsize>,
    /// The most of one body, without the frame that was read last.
    most: Arc<AtomicUsize>,
}

/// A response's body that counts what is read of it.
struct Counted<B> {
    body: B,
    read: usize,
    last_frame: usize,
    drained: Option<Drained>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.last_frame = frame.data_ref().map_or(0, Buf::remaining);
            self.read += self.last_frame;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if let Some(drained) = &self.drained {
            drained.bodies.fetch_add(1, Ordering::Relaxed);
            drained.most.fetch_max(self.read - self.last_frame, Ordering::Relaxed);
        }
    }
}

impl Drained {
    fn counted<B>(&self, response: Response<B>) -> Response<Counted<B>> {
        let rejected = response.status() == StatusCode::UNAUTHORIZED;
        let drained = rejected.then(|| self.clone());
        response.map(|body| Counted { body, read: 0, last_frame: 0, drained })
    }
}

/// A thousand calls in a row, over HTTP/1.1, whose first answer is a 401 with `len` bytes, and which
/// are cured. How many connections were opened, how many were open at one time at most, and what
/// was drained.
async fn a_thousand_cures(len: usize) -> (usize, usize, Drained) {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let running = api.serve().await.unwrap();
    let drained = Drained::default();
    let counting = drained.clone();
    let client = ServiceBuilder::new()
        .layer(MapResponseLayer::new(move |response| counting.counted(response)))
        .service(http1::<Full<Bytes>>());
    let mut most_open = 0;
    for _ in 0..1_000 {
        // Another cache each time: one alone would not be cured a thousand times in a row.
        api.respond_once(Answer::status(StatusCode::UNAUTHORIZED).with_body_of(len));
        let response = layer(&server).layer(client.clone()).oneshot(get(&running.url("/"))).await;
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
        most_open = most_open.max(running.open_connections());
    }
    assert_eq!((server.issued(), api.calls()), (2_000, 2_000));
    assert_eq!(drained.bodies.load(Ordering::Relaxed), 1_000);
    (running.connections(), most_open, drained)
}

/// Pins: connections that pile up because a rejected response is dropped unread or kept; a
/// megabyte read for nothing.
#[tokio::test]
async fn after_a_401_with_a_megabyte_it_is_not_read_to_its_end_and_no_connection_is_left_open() {
    limited(async {
        let (_, most_open, drained) = a_thousand_cures(1 << 20).await;
        assert!(most_open <= 16, "{most_open} connections at a time");
        // The frame that goes past the limit was read by the client already.
        let most = drained.most.load(Ordering::Relaxed);
        assert!(most < 64 * 1024, "{most} bytes of a rejected response were read, and one frame");
    })
    .await;
}

/// Pins: a connection lost with each cure, because the rejected response is dropped unread.
#[tokio::test]
async fn after_a_401_with_a_short_body_the_connection_is_used_again() {
    limited(async {
        let (connections, _, _) = a_thousand_cures(48 * 1024).await;
        assert!(connections <= 16, "{connections} connections for 2,000 requests in a row");
    })
    .await;
}

/// Pins: an API that answers 401 to everything costs a connection a call.
#[tokio::test]
async fn a_401_that_stands_keeps_its_body_and_its_connection() {
    limited(async {
        let server = AuthorizationServer::new();
        let api = ProtectedApi::new(&server);
        api.reject_everything();
        api.reject_with(Answer::status(StatusCode::UNAUTHORIZED).with_body_of(1 << 20));
        let running = api.serve().await.unwrap();
        let client = layer(&server).layer(http1());
        for _ in 0..1_000 {
            let response = client.clone().oneshot(get(&running.url("/"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert!(response.extensions().get::<NotReplaced>().is_some());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), 1 << 20, "the 401 is whole");
        }
        assert!(running.connections() <= 16, "{} connections", running.connections());
        assert!(api.calls() <= 1_010 && server.issued() <= 10, "{api:?} {server:?}");
    })
    .await;
}

/// Takes one connection after another, reads the head of one request from each, answers with what
/// `answer` makes of it, and closes.
async fn closing_api(answer: impl Fn(&str) -> &'static str + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = answer(&String::from_utf8(head).unwrap());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    addr
}

/// Pins: a replay on the connection that the 401 has closed; a body that breaks off taken for the
/// failure of the call.
#[tokio::test]
async fn an_api_that_closes_the_connection_with_its_401_is_called_on_another_one() {
    limited(async {
        for rejection in [
            "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbye!",
            "HTTP/1.1 401 Unauthorized\r\n\r\nuntil the connection is closed",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 4000\r\n\r\nbye!",
            "HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\n400\r\nbye!",
            "HTTP/1.0 401 Unauthorized\r\n\r\n",
        ] {
            let server = AuthorizationServer::new();
            let layer = layer(&server);
            let first = layer.cache().token().await.unwrap();
            let first = first.header().to_str().unwrap().to_owned();
            let addr = closing_api(move |head| {
                if head.contains(&first) {
                    rejection
                } else {
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
                }
            })
            .await;
            let client = layer.layer(http1());
            let response = client.oneshot(get(&format!("http://{addr}/"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{rejection:?}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
            assert_eq!(server.issued(), 2, "{rejection:?}");
        }
    })
    .await;
}

// Uploads that are answered before they are read.

type Upload = UnsyncBoxBody<Bytes, BoxError>;

/// An API that answers 401 to `stale` after it has read `reads` bytes of the body, goes on reading,
/// and writes down how much there was in the end.
#[derive(Clone)]
struct HastyApi {
    stale: String,
    reads: usize,
    uploads: Arc<Mutex<Vec<usize>>>,
}

impl HastyApi {
    async fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = self.clone();
                let service = service_fn(move |request| api.clone().answer(request));
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        addr
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let stale = request.headers()["authorization"] == self.stale;
        let mut body = request.into_body();
        let mut read = 0;
        while read < self.reads {
            let Some(Ok(frame)) = body.frame().await else { break };
            read += frame.data_ref().map_or(0, Bytes::len);
        }
        let rest = async move {
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return };
                read += frame.data_ref().map_or(0, Bytes::len);
            }
            self.uploads.lock().unwrap().push(read);
        };
        let mut response = Response::new(Full::default());
        if stale {
            tokio::spawn(rest);
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        } else {
            rest.await;
        }
        Ok(response)
    }
}

struct Uploading {
    layer: OAuthClientCredentialsLayer,
    server: AuthorizationServer,
    uploads: Arc<Mutex<Vec<usize>>>,
    url: String,
}

impl Uploading {
    /// To an API that rejects the token at hand after it has read so much.
    async fn rejected_after(reads: usize) -> Self {
        let server = AuthorizationServer::new();
        let layer = layer(&server);
        let stale = layer.cache().token().await.unwrap();
        let stale = stale.header().to_str().unwrap().to_owned();
        let uploads = Arc::<Mutex<Vec<usize>>>::default();
        let api = HastyApi { stale, reads, uploads: Arc::clone(&uploads) };
        let url = format!("http://{}/", api.serve().await);
        Self { layer, server, uploads, url }
    }

    fn request(&self, body: Upload) -> Request<Upload> {
        Request::put(&self.url).body(body).unwrap()
    }

    /// When the API has read `count` bodies to their ends: how long each was.
    async fn uploaded(&self, count: usize) -> Vec<usize> {
        loop {
            let uploads = self.uploads.lock().unwrap().clone();
            if uploads.len() >= count {
                return uploads;
            }
            tokio::task::yield_now().await;
        }
    }
}

const CHUNK: usize = 16 * 1024;

/// Pins: an upload cut short, or sent again without its beginning, because the answer came first.
#[tokio::test]
async fn an_upload_past_the_limit_streams_on_after_its_401_and_the_next_call_works() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(256 * 1024).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            let call = client.clone().oneshot(uploading.request(body.boxed_unsync()));
            let upload = tokio::spawn(async move {
                for _ in 0..256 {
                    sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
                }
            });
            let response = call.await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let why = response.extensions().get::<NotReplaced>().unwrap();
            assert!(why.is_not_replayable(), "{why}");
            upload.await.unwrap();
            assert_eq!(uploading.uploaded(1).await, [256 * CHUNK]);

            let short = Full::from("short").map_err(|never| match never {}).boxed_unsync();
            let response = client.oneshot(uploading.request(short)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(uploading.uploaded(2).await, [256 * CHUNK, 5]);
            assert_eq!(uploading.server.issued(), 2);
        }
    })
    .await;
}

/// Pins: a call that hangs, or a replay of the part that has been sent so far.
#[tokio::test]
async fn an_upload_that_is_still_open_at_its_401_is_not_sent_again() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(CHUNK).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            let call = client.clone().oneshot(uploading.request(body.boxed_unsync()));
            let call = tokio::spawn(call);
            sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let why = response.extensions().get::<NotReplaced>().unwrap();
            assert!(why.is_not_replayable(), "{why}");
            sender.send_data("rest".into()).await.unwrap();
            drop(sender);
            assert_eq!(uploading.uploaded(1).await, [CHUNK + 4]);
        }
    })
    .await;
}

/// Pins: a streamed upload that is sent again empty, or in part.
#[tokio::test]
async fn an_upload_that_has_ended_below_the_limit_is_sent_again_whole() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(usize::MAX).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
            for _ in 0..3 {
                sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
            }
            drop(sender);
            let response = client.oneshot(uploading.request(body.boxed_unsync())).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(uploading.uploaded(2).await, [3 * CHUNK; 2]);
        }
    })
    .await;
}
