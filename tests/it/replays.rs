//! Responses that reject the token: the request is replayed unchanged, or the response is returned
//! unchanged.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::Service;
use tower_oauth2_client_credentials::{
    ErrorClass, Mode, NotReplaced, OAuthClientCredentials, OAuthClientCredentialsLayer, Replay,
    TokenError,
};
use tower_test::mock::{self, Mock};

use crate::tap::{
    Body, LayerBuilder, Tap, get, ok, post, rejected, settle, token_of, unauthorized,
};

type Inner<B, R> = Mock<Request<B>, Response<R>>;

/// A client with a token, its inner service, and its source of tokens.
struct Stage<B, R, M = Replay> {
    tap: Arc<Tap>,
    client: mock::Spawn<OAuthClientCredentials<Inner<B, R>, M>>,
    handle: mock::Handle<Request<B>, Response<R>>,
}

async fn stage<B, R>() -> Stage<B, R> {
    stage_with(|builder| builder).await
}

async fn stage_with<B, R>(settings: impl FnOnce(LayerBuilder) -> LayerBuilder) -> Stage<B, R> {
    stage_of(settings, |layer| layer).await
}

async fn stage_of<B, R, M>(
    settings: impl FnOnce(LayerBuilder) -> LayerBuilder,
    mode: impl FnOnce(OAuthClientCredentialsLayer) -> OAuthClientCredentialsLayer<M>,
) -> Stage<B, R, M> {
    let tap = Tap::open();
    let layer = settings(tap.builder()).build().unwrap();
    layer.cache().token().await.unwrap();
    let (client, handle) = mock::spawn_layer(mode(layer));
    Stage { tap, client, handle }
}

impl<B, R, M> Stage<B, R, M>
where
    M: Mode<B, R>,
{
    /// Sends `request`, answers each arriving request with `respond`, and returns the result.
    /// Panics if there is none.
    async fn call(
        &mut self,
        request: Request<B>,
        mut respond: impl FnMut(usize, Request<B>) -> Response<R>,
    ) -> Response<R> {
        assert_ready_ok!(self.client.poll_ready());
        let mut future = task::spawn(self.client.call(request));
        let mut sent = 0;
        for _ in 0..10 {
            if let Poll::Ready(response) = future.poll() {
                return response.unwrap();
            }
            while let Poll::Ready(Some((request, send))) =
                task::spawn(()).enter(|_, _| self.handle.poll_request())
            {
                sent += 1;
                send.send_response(respond(sent, request));
            }
            settle().await;
        }
        panic!("the call hangs");
    }
}

/// Returns `true` if a request that gets `response` is replayed.
async fn is_cured(
    response: impl Fn() -> Response<Body>,
    settings: fn(LayerBuilder) -> LayerBuilder,
) -> bool {
    let mut stage = stage_with::<Body, Body>(settings).await;
    let mut replayed = false;
    stage
        .call(get(), |n, _| {
            replayed = n > 1;
            if n == 1 { response() } else { ok() }
        })
        .await;
    assert_eq!(stage.tap.asked(), if replayed { 2 } else { 1 });
    replayed
}

fn challenged(status: u16, challenge: &'static str) -> Response<Body> {
    let mut response = rejected(StatusCode::from_u16(status).unwrap(), Body::default());
    if !challenge.is_empty() {
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static(challenge));
    }
    response
}

fn grpc(status: &'static str, version: Version) -> Response<Body> {
    let mut response = ok::<Body>();
    *response.version_mut() = version;
    response.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    response
}

/// A renewal for every possible 401 would mean one for each of other systems' errors.
#[tokio::test]
async fn a_rejection_is_what_the_design_says_it_is() {
    let default: fn(LayerBuilder) -> LayerBuilder = |builder| builder;
    for (status, challenge, cured) in [
        (401, "", true),
        (401, "Bearer", true),
        (401, r#"Bearer error="invalid_token""#, true),
        (401, r#"Bearer error="insufficient_scope""#, false),
        (401, r#"Bearer error="insufficient_user_authentication""#, false),
        (401, r#"DPoP algs="ES256""#, false),
        (401, r#"DPoP error="use_dpop_nonce", Bearer"#, false),
        (401, r#"Bearer error="invalid_request" scope="read""#, true),
        (401, r#"Bearer error="expired_token""#, true),
        (401, r#"Bearer error="insufficient_claims", claims="eyJ9""#, true),
        (401, "Keystone uri='https://identity.example/v3'", true),
        (401, r#"OAuth2 realm="x", error="invalid_token""#, true),
        (401, r#"BASIC realm="Service-now""#, true),
        (401, "Token", true),
        (401, "Negotiate", true),
        (403, "", false),
        (403, r#"Bearer error="invalid_token""#, false),
        (407, "", false),
        (500, "", false),
    ] {
        let seen = is_cured(|| challenged(status, challenge), default).await;
        assert_eq!(seen, cured, "{status} {challenge}");
    }
    assert!(is_cured(|| grpc("16", Version::HTTP_2), default).await);
    assert!(!is_cured(|| grpc("7", Version::HTTP_2), default).await);
    assert!(!is_cured(|| grpc("16", Version::HTTP_11), default).await);
}

#[tokio::test]
async fn forbidden_is_a_rejection_where_it_is_said_to_be() {
    let forbidden: fn(LayerBuilder) -> LayerBuilder = LayerBuilder::forbidden_means_rejected;
    assert!(is_cured(|| challenged(403, ""), forbidden).await);
    let scope = r#"Bearer error="insufficient_scope""#;
    assert!(!is_cured(|| challenged(403, scope), forbidden).await);
    assert!(is_cured(|| challenged(401, ""), forbidden).await);
}

#[tokio::test]
async fn what_a_rejection_is_can_be_decided_by_the_user() {
    let own: fn(LayerBuilder) -> LayerBuilder =
        |builder| builder.rejected_when(|parts| parts.headers.contains_key("x-expired"));
    let expired = || {
        let mut response = ok::<Body>();
        response.headers_mut().insert("x-expired", HeaderValue::from_static("1"));
        response
    };
    assert!(is_cured(expired, own).await);
    assert!(!is_cured(|| challenged(401, ""), own).await);
    assert!(!is_cured(|| challenged(401, r#"Bearer error="invalid_token""#), own).await);
}

// Responses that are returned to the caller

fn whole() -> Response<Body> {
    let mut response = rejected(StatusCode::UNAUTHORIZED, Full::from("all of it"));
    response.headers_mut().insert("x-request-id", HeaderValue::from_static("17"));
    response.extensions_mut().insert("an extension");
    response
}

async fn why(response: Response<Body>) -> NotReplaced {
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["x-request-id"], "17");
    assert_eq!(response.extensions().get::<&str>(), Some(&"an extension"));
    let why = response.extensions().get::<NotReplaced>().unwrap().clone();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all of it");
    why
}

/// A failed renewal must not turn a response into an error, nor eat its body.
#[tokio::test]
async fn where_the_renewal_fails_the_401_stands_whole_with_the_failure() {
    let mut stage = stage::<Body, Body>().await;
    stage.tap.fail(TokenError::new(ErrorClass::Request, "no such scope"));
    let why = why(stage.call(get(), |_, _| whole()).await).await;
    assert_eq!(why.error().unwrap().class(), ErrorClass::Request);
    assert!(why.retry_at().is_some());
    assert!(!why.is_futile() && !why.is_cooling_down() && !why.is_not_replayable());
    assert!(why.to_string().contains("no such scope"), "{why}");
    // The failure is remembered: the next rejection causes no token request.
    let mut calls = 0;
    let response = stage.call(get(), |n, _| {
        calls = n;
        whole()
    });
    assert!(response.await.extensions().get::<NotReplaced>().unwrap().error().is_some());
    assert_eq!((calls, stage.tap.asked()), (1, 2));
}

#[tokio::test]
async fn where_the_newer_token_is_rejected_too_the_second_401_stands_and_a_pause_follows() {
    let mut stage = stage::<Body, Body>().await;
    let mut tokens = Vec::new();
    let response = stage.call(get(), |_, request| {
        tokens.push(token_of(request.headers()).unwrap().to_owned());
        whole()
    });
    let why_futile = why(response.await).await;
    assert!(why_futile.is_futile() && why_futile.error().is_none(), "{why_futile:?}");
    assert_eq!(tokens, ["t1", "t2"]);
    let why_next = why(stage.call(get(), |_, _| whole()).await).await;
    assert!(why_next.is_cooling_down() && why_next.retry_at().is_some(), "{why_next:?}");
    assert_eq!(stage.tap.asked(), 2);
}

#[tokio::test]
async fn where_the_server_has_no_other_token_there_is_no_replay() {
    let mut stage = stage::<Body, Body>().await;
    stage.tap.repeat(1);
    let mut calls = 0;
    let response = stage.call(get(), |n, _| {
        calls = n;
        whole()
    });
    let why = why(response.await).await;
    assert!(why.is_futile() && !why.is_not_replayable(), "{why:?}");
    assert_eq!((calls, stage.tap.asked()), (1, 2));
}

/// Of several requests with one token, the first rejection starts a renewal, and the others use its
/// token.
#[tokio::test]
async fn a_late_rejection_takes_the_token_that_is_there() {
    let mut stage = stage::<Body, Body>().await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        assert_ready_ok!(stage.client.poll_ready());
        calls.push(task::spawn(stage.client.call(get())));
    }
    for call in &mut calls {
        assert_pending!(call.poll());
        stage.handle.next_request().await.unwrap().1.send_response(unauthorized());
    }
    for call in &mut calls {
        let _ = call.poll();
        settle().await;
        let _ = call.poll();
        let (replay, send) = stage.handle.next_request().await.unwrap();
        assert_eq!(token_of(replay.headers()), Some("t2"));
        send.send_response(ok());
        assert_eq!(assert_ready_ok!(call.poll()).status(), StatusCode::OK);
    }
    assert_eq!(stage.tap.asked(), 2);
}

// Without replays

/// Neither a `ReplayBody` nor an `http_body::Body`.
#[derive(Debug, Default, PartialEq)]
struct Opaque(&'static str);

#[tokio::test]
async fn never_replaying_takes_any_body_and_the_next_call_works() {
    let mut stage: Stage<Opaque, Opaque, _> =
        stage_of(|builder| builder, OAuthClientCredentialsLayer::never_replay).await;
    let request = Request::new(Opaque("out"));
    let response = stage
        .call(request, |n, request| {
            assert_eq!((n, request.body()), (1, &Opaque("out")));
            rejected(StatusCode::UNAUTHORIZED, Opaque("back"))
        })
        .await;
    assert_eq!(response.body(), &Opaque("back"));
    assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
    settle().await;
    let response = stage
        .call(Request::new(Opaque("")), |_, request| {
            assert_eq!(token_of(request.headers()), Some("t2"));
            ok::<Opaque>()
        })
        .await;
    assert_eq!(response.status(), StatusCode::OK);
}

// Replayed requests

type Boxed = UnsyncBoxBody<Bytes, Infallible>;

/// A stream of unknown length.
fn stream(frames: Vec<Frame<Bytes>>) -> Boxed {
    BodyExt::boxed_unsync(StreamBody::new(Frames(frames.into_iter())))
}

struct Frames(std::vec::IntoIter<Frame<Bytes>>);

impl futures_core::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

async fn read(body: Boxed) -> (Bytes, Option<HeaderMap>) {
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    (collected.to_bytes(), trailers)
}

/// Returns the requests that arrive, read to their end, and the response that the caller gets.
async fn arrivals(body: Boxed, limit: usize) -> (Vec<(Bytes, Option<HeaderMap>)>, Response<Body>) {
    let mut stage: Stage<Boxed, Body> = stage_with(|builder| builder.replay_limit(limit)).await;
    let mut request = Request::put("https://api.example.com/v1?q=1").body(body).unwrap();
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().append("x-many", HeaderValue::from_static("a"));
    request.headers_mut().append("x-many", HeaderValue::from_static("b"));
    request.extensions_mut().insert(17_u8);
    let mut bodies = Vec::new();
    let response = stage.call(request, |n, request| {
        let (parts, body) = request.into_parts();
        assert_eq!(parts.method, "PUT");
        assert_eq!(parts.uri, "https://api.example.com/v1?q=1");
        assert_eq!(parts.version, Version::HTTP_2);
        assert_eq!(parts.extensions.get::<u8>(), Some(&17));
        assert_eq!(parts.headers.get_all("x-many").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(token_of(&parts.headers).unwrap(), format!("t{n}"));
        assert!(parts.headers["authorization"].is_sensitive());
        bodies.push(task::spawn(read(body)).poll());
        if n == 1 { unauthorized() } else { ok() }
    });
    let response = response.await;
    let bodies = bodies.into_iter().map(|body| match body {
        Poll::Ready(body) => body,
        Poll::Pending => panic!("the body hangs"),
    });
    (bodies.collect(), response)
}

#[tokio::test]
async fn a_stream_is_sent_again_byte_for_byte_with_its_trailers() {
    let trailers: HeaderMap =
        [(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("5"))]
            .into_iter()
            .collect();
    let frames = vec![
        Frame::data(Bytes::from_static(b"he")),
        Frame::data(Bytes::new()),
        Frame::data(Bytes::from_static(b"llo")),
        Frame::trailers(trailers.clone()),
    ];
    let (arrived, response) = arrivals(stream(frames), 1024).await;
    assert_eq!(response.status(), StatusCode::OK);
    let expected = (Bytes::from_static(b"hello"), Some(trailers));
    assert_eq!(arrived, [expected.clone(), expected]);
}

/// A body that was kept only in part must not be replayed.
#[tokio::test]
async fn a_stream_past_the_limit_is_untouched_and_not_sent_again() {
    let chunk = Bytes::from(vec![b'x'; 1000]);
    for (chunks, replayed) in [(10, true), (11, false)] {
        let frames = (0..chunks).map(|_| Frame::data(chunk.clone())).collect();
        let (arrived, response) = arrivals(stream(frames), 10_000).await;
        assert_eq!(arrived.len(), if replayed { 2 } else { 1 });
        for (bytes, _) in arrived {
            assert_eq!(bytes.len(), chunks * 1000);
        }
        let why = response.extensions().get::<NotReplaced>();
        assert_eq!(why.is_some_and(NotReplaced::is_not_replayable), !replayed);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_again_renews_the_token_for_the_next() {
    let mut stage: Stage<Boxed, Body> = stage_with(|builder| builder.replay_limit(1)).await;
    let body = || stream(vec![Frame::data(Bytes::from_static(b"hello"))]);
    let read = |request: Request<Boxed>| {
        assert!(task::spawn(read(request.into_body())).poll().is_ready());
    };
    let response = stage
        .call(Request::new(body()), |_, request| {
            read(request);
            unauthorized()
        })
        .await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    settle().await;
    let response = stage
        .call(Request::new(body()), |_, request| {
            assert_eq!(token_of(request.headers()), Some("t2"));
            ok()
        })
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(stage.tap.asked(), 2);
}

#[tokio::test]
async fn a_body_that_can_be_cloned_is_sent_again() {
    let mut stage = stage::<Body, Body>().await;
    let mut bodies = Vec::new();
    stage
        .call(post("hello"), |n, request| {
            bodies.push(request.into_body());
            if n == 1 { unauthorized() } else { ok() }
        })
        .await;
    for body in bodies {
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }
}

// Bodies of discarded responses

/// A body that counts the frames read from it, and reports when it is dropped.
#[derive(Debug, Default)]
struct Watched {
    frames: usize,
    frame: Bytes,
    then_hangs: bool,
    read: Arc<AtomicUsize>,
    gone: Gone,
}

/// True once it is dropped.
#[derive(Debug, Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames == 0 {
            return if self.then_hangs { Poll::Pending } else { Poll::Ready(None) };
        }
        self.frames -= 1;
        self.read.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// Rejects a request with `body`. Returns how many frames were read from it, and how long the
/// replay took to arrive.
async fn discard(body: Watched) -> (usize, Duration) {
    let (read, gone) = (Arc::clone(&body.read), Arc::clone(&body.gone.0));
    let mut stage: Stage<Body, Watched> = stage().await;
    assert_ready_ok!(stage.client.poll_ready());
    let call = tokio::spawn(stage.client.call(get()));
    let (_, send) = stage.handle.next_request().await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "the paused clock")]
    let start = tokio::time::Instant::now();
    send.send_response(rejected(StatusCode::UNAUTHORIZED, body));
    let (_, send) = stage.handle.next_request().await.unwrap();
    let took = start.elapsed();
    assert!(gone.load(Ordering::SeqCst), "held while the replay is on its way");
    send.send_response(ok());
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    (read.load(Ordering::SeqCst), took)
}

/// A body that is dropped unread closes its connection.
#[tokio::test(start_paused = true)]
async fn the_body_of_the_rejection_is_read_to_its_end() {
    let body = Watched { frames: 7, frame: Bytes::from_static(b"no"), ..Watched::default() };
    assert_eq!(discard(body).await, (7, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn no_more_than_512_kib_of_it_are_read() {
    let frame = Bytes::from(vec![0; 1024]);
    let body = Watched { frames: usize::MAX, frame, ..Watched::default() };
    assert_eq!(discard(body).await, (512, Duration::ZERO));
}

/// A limit in bytes does not bound a body of empty frames.
#[tokio::test(start_paused = true)]
async fn an_endless_body_of_empty_frames_comes_to_an_end() {
    let body = Watched { frames: usize::MAX, ..Watched::default() };
    let (read, took) = discard(body).await;
    assert_eq!(read, 8192, "a frame counts 64 bytes at least");
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_waited_for_a_quarter_of_a_second() {
    let frame = Bytes::from_static(b"no");
    let body = Watched { frames: 3, frame, then_hangs: true, ..Watched::default() };
    let (read, took) = discard(body).await;
    assert_eq!(read, 3);
    assert!((250..=251).contains(&took.as_millis()), "{took:?}");
}

/// The response is kept until there is a token: if the renewal fails, it is returned.
#[tokio::test]
async fn the_rejection_is_not_touched_before_there_is_a_newer_token() {
    let mut stage: Stage<Body, Watched> = stage().await;
    stage.tap.close();
    let body = Watched { frames: 3, ..Watched::default() };
    let (read, gone) = (Arc::clone(&body.read), Arc::clone(&body.gone.0));
    assert_ready_ok!(stage.client.poll_ready());
    let mut call = task::spawn(stage.client.call(get()));
    let (_, send) = stage.handle.next_request().await.unwrap();
    send.send_response(rejected(StatusCode::UNAUTHORIZED, body));
    assert_pending!(call.poll());
    settle().await;
    assert!(!gone.load(Ordering::SeqCst));
    assert_eq!(read.load(Ordering::SeqCst), 0);
    stage.tap.fail(TokenError::new(ErrorClass::Request, "no"));
    stage.tap.release();
    settle().await;
    let response = assert_ready_ok!(call.poll());
    assert_eq!((response.body().frames, read.load(Ordering::SeqCst)), (3, 0));
}

/// A connection pool reuses a connection once the body is read. With a single connection, waiting
/// for the replay before reading the body would deadlock.
#[tokio::test(start_paused = true)]
async fn the_replay_does_not_wait_for_what_the_first_response_holds() {
    let tap = Tap::open();
    let layer = tap.layer();
    layer.cache().token().await.unwrap();
    let pool = Pool { free: Arc::new(true.into()), mine: false };
    let mut client = mock::Spawn::new(tower::Layer::layer(&layer, pool));
    assert_ready_ok!(client.poll_ready());
    let mut call = task::spawn(client.call(get()));
    for _ in 0..5 {
        if let Poll::Ready(response) = call.poll() {
            assert_eq!(response.unwrap().status(), StatusCode::OK);
            return;
        }
        settle().await;
    }
    panic!("waits for itself");
}

/// A pool of one connection, which is returned with the body.
#[derive(Clone)]
struct Pool {
    free: Arc<AtomicBool>,
    mine: bool,
}

impl Service<Request<Body>> for Pool {
    type Response = Response<Watched>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.mine = self.mine || self.free.swap(false, Ordering::SeqCst);
        if self.mine { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.mine), "called without being ready");
        let status = match token_of(request.headers()) {
            Some("t2") => StatusCode::OK,
            _ => StatusCode::UNAUTHORIZED,
        };
        let gone = Gone(Arc::clone(&self.free));
        std::future::ready(Ok(rejected(status, Watched { gone, ..Watched::default() })))
    }
}

#[tokio::test]
async fn by_default_64_kib_of_a_body_are_kept() {
    for (len, expected) in [(64 * 1024, 2), (64 * 1024 + 1, 1)] {
        let mut stage = stage::<Vec<u8>, Body>().await;
        let mut calls = 0;
        let respond = |n, _| {
            calls = n;
            if n == 1 { unauthorized() } else { ok() }
        };
        stage.call(Request::new(vec![b'x'; len]), respond).await;
        assert_eq!(calls, expected, "{len}");
    }
}
