//! The tower contract: readiness, permits, cancellation, runtimes, and auto traits.
//!
//! The inner service is a mock of tower-test, which panics if it is called without being ready.

use std::{
    future::Future,
    marker::PhantomPinned,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{
    Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn, util::BoxCloneSyncService,
};
use tower_oauth2_client_credentials::{
    BoxError, ErrorClass, NeverReplay, NotReplaced, OAuthClientCredentials,
    OAuthClientCredentialsLayer, Replay, ResponseFuture, TokenCache, TokenError, source_fn,
};
use tower_test::mock::{self, Mock};

use crate::tap::{Body, Tap, get, ok, post, settle, token_of, unauthorized};

type Inner = Mock<Request<Body>, Response<Body>>;
type Handle = mock::Handle<Request<Body>, Response<Body>>;
type Client = mock::Spawn<OAuthClientCredentials<Inner>>;

fn client(tap: &Arc<Tap>) -> (Client, Handle) {
    mock::spawn_layer(tap.layer())
}

/// Creates a client with a cached token.
async fn warm_client() -> (Arc<Tap>, Client, Handle) {
    let tap = Tap::open();
    let layer = tap.layer();
    layer.cache().token().await.unwrap();
    let (client, handle) = mock::spawn_layer(layer);
    (tap, client, handle)
}

async fn answer(handle: &mut Handle, response: Response<Body>) -> Request<Body> {
    let arrives = tokio::time::timeout(Duration::from_secs(5), handle.next_request());
    let (request, respond) = arrives.await.unwrap().unwrap();
    respond.send_response(response);
    request
}

fn call(
    client: &mut Client,
    request: Request<Body>,
) -> task::Spawn<<OAuthClientCredentials<Inner> as Service<Request<Body>>>::Future> {
    assert_ready_ok!(client.poll_ready());
    task::spawn(client.call(request))
}

fn is_token_error(error: &BoxError, class: ErrorClass) -> bool {
    error.downcast_ref::<TokenError>().is_some_and(|error| error.class() == class)
}

// Readiness

/// A layer that waits for a token in `poll_ready` stalls balancers, and holds a permit while it
/// waits.
#[tokio::test]
async fn readiness_is_the_inner_services_own_and_asks_for_no_token() {
    let tap = Tap::closed();
    let (mut client, mut handle) = client(&tap);
    handle.allow(0);
    assert_pending!(client.poll_ready::<Request<Body>>());
    handle.allow(1);
    assert!(client.is_woken());
    assert_ready_ok!(client.poll_ready::<Request<Body>>());
    settle().await;
    assert_eq!(tap.asked(), 0);
}

#[tokio::test]
async fn an_error_of_the_inner_services_readiness_passes_through() {
    let (mut client, mut handle) = client(&Tap::open());
    handle.send_error(std::io::Error::other("broken"));
    let error = assert_ready_err!(client.poll_ready::<Request<Body>>());
    assert!(error.downcast_ref::<TokenError>().is_none(), "{error}");
    assert!(error.to_string().contains("broken"), "{error}");
}

/// Calling a clone of a ready service loses its reservation.
#[tokio::test]
async fn the_service_that_was_polled_ready_is_the_one_that_is_called() {
    let (_, mut client, mut handle) = warm_client().await;
    for _ in 0..3 {
        let mut response = call(&mut client, get());
        assert_pending!(response.poll());
        let request = answer(&mut handle, ok()).await;
        assert_eq!(token_of(request.headers()), Some("t1"));
        assert_ready_ok!(response.poll());
    }
}

/// The same if the token arrives later: a fresh clone must be made ready before it is called.
#[tokio::test]
async fn after_waiting_for_a_token_a_fresh_clone_is_made_ready() {
    let tap = Tap::closed();
    let (mut client, mut handle) = client(&tap);
    handle.allow(1);
    let mut response = call(&mut client, get());
    assert_pending!(response.poll());
    handle.allow(0);
    tap.release();
    settle().await;
    assert!(response.is_woken());
    assert_pending!(response.poll(), "called a clone that is not ready");
    handle.allow(1);
    assert!(response.is_woken());
    assert_pending!(response.poll());
    answer(&mut handle, ok()).await;
    assert_ready_ok!(response.poll());
}

/// A future that is polled without having been woken must not miscount or spin.
#[tokio::test]
async fn the_inner_future_is_polled_once_for_each_poll_of_the_response() {
    let polls = Arc::new(AtomicU32::new(0));
    let layer = Tap::open().layer();
    layer.cache().token().await.unwrap();
    let counter = Arc::clone(&polls);
    let mut client = layer.layer(service_fn(move |_: Request<Body>| {
        let counter = Arc::clone(&counter);
        std::future::poll_fn(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Poll::<Result<Response<Body>, BoxError>>::Pending
        })
    }));
    let mut response = task::spawn(client.call(get()));
    for expected in 1..=3 {
        assert_pending!(response.poll());
        assert_eq!(polls.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn an_error_of_the_inner_service_keeps_its_type() {
    let (_, mut client, mut handle) = warm_client().await;
    let mut response = call(&mut client, get());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_error(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    let error = assert_ready_err!(response.poll());
    let kind = error.downcast_ref::<std::io::Error>().unwrap().kind();
    assert_eq!(kind, std::io::ErrorKind::BrokenPipe);
}

/// A `mock` that has failed keeps failing; the service must report this on every path.
#[tokio::test]
async fn the_clone_for_the_replay_is_made_ready_and_may_fail_at_it() {
    let (_, mut client, mut handle) = warm_client().await;
    let mut response = call(&mut client, get());
    assert_pending!(response.poll());
    handle.allow(0);
    answer(&mut handle, unauthorized()).await;
    for _ in 0..3 {
        // Until the renewal, and past it.
        assert_pending!(response.poll(), "called a clone that is not ready");
        settle().await;
    }
    handle.send_error("not today");
    let error = assert_ready_err!(response.poll());
    assert!(error.downcast_ref::<TokenError>().is_none(), "{error}");
    assert!(error.to_string().contains("not today"), "{error}");
}

/// Polling after completion must not hang the caller with a `Pending`, nor panic.
#[tokio::test]
async fn a_response_that_is_polled_after_it_was_ready_is_an_error() {
    // Fails without a call.
    let (mut client, _handle) = client(&Tap::open());
    assert_ready_ok!(client.poll_ready());
    let request = Request::get("http://api.example.com/").body(Body::default()).unwrap();
    let mut response = task::spawn(client.call(request));
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Origin));
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Interrupted));

    // No token arrives.
    let tap = Tap::open();
    tap.fail(TokenError::new(ErrorClass::Request, "no such scope"));
    let (mut client, _handle) = self::client(&tap);
    let mut response = call(&mut client, get());
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Request));
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Interrupted));

    // The newer token does not arrive: the 401 is returned.
    let (tap, mut client, mut handle) = warm_client().await;
    tap.fail(TokenError::new(ErrorClass::Request, "no such scope"));
    let mut response = call(&mut client, get());
    assert_pending!(response.poll());
    answer(&mut handle, unauthorized()).await;
    assert_pending!(response.poll());
    settle().await;
    assert_eq!(assert_ready_ok!(response.poll()).status(), StatusCode::UNAUTHORIZED);
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Interrupted));
}

// Permits

type Limited = mock::Spawn<OAuthClientCredentials<ConcurrencyLimit<Inner>>>;

/// Creates a client with one permit, and the limit to inspect.
fn limited(layer: &OAuthClientCredentialsLayer) -> (Limited, ConcurrencyLimit<Inner>, Handle) {
    let (mock, handle) = mock::pair();
    let limit = ConcurrencyLimit::new(mock, 1);
    (mock::Spawn::new(layer.layer(limit.clone())), limit, handle)
}

fn permit_is_free(limit: &ConcurrencyLimit<Inner>) -> bool {
    let mut look = mock::Spawn::new(limit.clone());
    look.poll_ready::<Request<Body>>().is_ready()
}

/// One slow token request must not use up the permits of a whole service.
#[tokio::test]
async fn no_permit_is_held_while_a_token_is_waited_for() {
    let tap = Tap::closed();
    let (mut client, limit, mut handle) = limited(&tap.layer());
    assert_ready_ok!(client.poll_ready());
    assert!(!permit_is_free(&limit));
    let mut response = task::spawn(client.call(get()));
    assert!(permit_is_free(&limit), "held before the first poll");
    assert_pending!(response.poll());
    settle().await;
    assert!(permit_is_free(&limit), "held while waiting");
    tap.release();
    settle().await;
    assert_pending!(response.poll());
    assert!(!permit_is_free(&limit), "the call itself takes one");
    answer(&mut handle, ok()).await;
    assert_ready_ok!(response.poll());
    drop(response);
    assert!(permit_is_free(&limit));
}

#[tokio::test]
async fn no_permit_is_kept_by_a_call_that_is_refused_for_want_of_a_token() {
    let tap = Tap::open();
    tap.fail(TokenError::new(ErrorClass::Request, "no such scope"));
    let layer = tap.layer();
    layer.cache().token().await.unwrap_err();
    let (mut client, limit, _handle) = limited(&layer);
    assert_ready_ok!(client.poll_ready());
    let mut response = task::spawn(client.call(get()));
    assert!(permit_is_free(&limit));
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Request));
    assert_eq!(tap.asked(), 1);
    // The service still works.
    assert_ready_ok!(client.poll_ready());
}

#[tokio::test]
async fn no_permit_is_kept_by_a_call_that_is_refused_for_its_target() {
    let (mut client, limit, _handle) = limited(&Tap::open().layer());
    assert_ready_ok!(client.poll_ready());
    let request = Request::get("http://api.example.com/").body(Body::default()).unwrap();
    let mut response = task::spawn(client.call(request));
    assert!(permit_is_free(&limit));
    assert!(is_token_error(&assert_ready_err!(response.poll()), ErrorClass::Origin));
}

/// A replay waits for the permit of its own first request.
#[tokio::test]
async fn a_rejection_under_a_limit_of_one_does_not_wait_for_itself() {
    let tap = Tap::open();
    let layer = tap.layer();
    layer.cache().token().await.unwrap();
    let (mut client, limit, mut handle) = limited(&layer);
    assert_ready_ok!(client.poll_ready());
    let mut response = task::spawn(client.call(get()));
    assert_pending!(response.poll());
    answer(&mut handle, unauthorized()).await;
    assert_pending!(response.poll());
    assert!(permit_is_free(&limit), "held while the renewal goes on");
    settle().await;
    assert_pending!(response.poll());
    let replay = answer(&mut handle, ok()).await;
    assert_eq!(token_of(replay.headers()), Some("t2"));
    assert_eq!(assert_ready_ok!(response.poll()).status(), StatusCode::OK);
}

// Requests that pass through unchanged

#[tokio::test]
async fn a_request_with_its_own_authorization_is_untouched_and_its_401_rejects_nothing() {
    let (tap, mut client, mut handle) = warm_client().await;
    // So that the client makes its own copy of the token.
    let mut response = call(&mut client, get());
    answer(&mut handle, ok()).await;
    assert_ready_ok!(response.poll());
    let mut request = get();
    request.headers_mut().insert("authorization", HeaderValue::from_static("Basic own"));
    let mut response = call(&mut client, request);
    let sent = answer(&mut handle, unauthorized()).await;
    assert_eq!(sent.headers()["authorization"], "Basic own");
    let response = assert_ready_ok!(response.poll());
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<NotReplaced>().is_none());
    settle().await;
    assert_eq!(tap.asked(), 1);
}

/// Guards against a renewal for a token that the request would not have carried.
#[tokio::test]
async fn a_request_with_its_own_authorization_asks_for_no_token_and_waits_for_none() {
    let tap = Tap::closed();
    let (mut client, mut handle) = client(&tap);
    let mut request = get();
    request.headers_mut().insert("authorization", HeaderValue::from_static("Basic own"));
    let mut response = call(&mut client, request);
    answer(&mut handle, ok()).await;
    assert_ready_ok!(response.poll());
    settle().await;
    assert_eq!(tap.asked(), 0);
}

#[tokio::test]
async fn two_authorizations_stay_or_are_replaced_together() {
    for replacing in [false, true] {
        for warm in [false, true] {
            let tap = Tap::open();
            let builder = tap.builder();
            let builder = if replacing { builder.replace_authorization() } else { builder };
            let layer = builder.build().unwrap();
            if warm {
                layer.cache().token().await.unwrap();
            }
            let (mut client, mut handle): (Client, Handle) = mock::spawn_layer(layer);
            let mut request = get();
            for own in ["Basic one", "Basic two"] {
                request.headers_mut().append("authorization", HeaderValue::from_static(own));
            }
            let mut response = call(&mut client, request);
            let _ = response.poll();
            settle().await;
            let _ = response.poll();
            let sent = answer(&mut handle, ok()).await;
            let sent: Vec<_> = sent.headers().get_all("authorization").iter().collect();
            let expected =
                if replacing { vec!["Bearer t1"] } else { vec!["Basic one", "Basic two"] };
            assert_eq!(sent, expected, "{replacing} {warm}");
            assert_ready_ok!(response.poll());
        }
    }
}

/// The replay of a request whose `Authorization` was replaced must not carry the old one.
#[tokio::test]
async fn a_replaced_authorization_is_replaced_in_the_replay_too() {
    let tap = Tap::open();
    let layer = tap.builder().replace_authorization().build().unwrap();
    layer.cache().token().await.unwrap();
    let (mut client, mut handle): (Client, Handle) = mock::spawn_layer(layer);
    let mut request = get();
    request.headers_mut().append("authorization", HeaderValue::from_static("Basic own"));
    let mut response = call(&mut client, request);
    for expected in ["Bearer t1", "Bearer t2"] {
        let _ = response.poll();
        settle().await;
        let _ = response.poll();
        let sent = answer(&mut handle, unauthorized()).await;
        let sent: Vec<_> = sent.headers().get_all("authorization").iter().collect();
        assert_eq!(sent, [expected]);
    }
    let response = assert_ready_ok!(response.poll());
    assert!(response.extensions().get::<NotReplaced>().unwrap().is_futile());
}

/// `HeaderMap` panics when its capacity is exceeded.
#[tokio::test]
async fn a_request_without_room_for_a_header_is_an_error_and_no_panic() {
    for warm in [false, true] {
        let tap = Tap::open();
        let layer = tap.layer();
        if warm {
            layer.cache().token().await.unwrap();
        }
        let (mut client, _handle): (Client, Handle) = mock::spawn_layer(layer);
        let mut request = get();
        // A map that is full fails from then on; a map with many collisions fails once.
        let mut refused = 0;
        for n in 0..40_000 {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            refused += i32::from(request.headers_mut().try_insert(name, n.into()).is_err());
        }
        assert!(refused > 2);
        assert!(request.headers().len() > 20_000);
        let mut response = call(&mut client, request);
        // Cold, the token comes with the first poll, too.
        let error = assert_ready_err!(response.poll());
        assert!(is_token_error(&error, ErrorClass::Headers), "{error}");
        assert_ready_ok!(client.poll_ready::<Request<Body>>());
    }
}

// Cancellation and wake-ups

/// Drops the response future after the given number of steps, and checks that everything still
/// works.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_dropped_at_any_stage_leaves_everything_usable() {
    for steps in 0..7 {
        let tap = Tap::closed();
        let (mut client, limit, mut handle) = limited(&tap.layer());
        assert_ready_ok!(client.poll_ready());
        let mut response = task::spawn(client.call(get()));
        let stages = async {
            for step in 0..steps {
                match step {
                    // Waits for the token.
                    0 => {}
                    1 => {
                        tap.release();
                        settle().await;
                    }
                    // Sent; rejected; the renewal waits.
                    2 => {
                        tap.close();
                        answer(&mut handle, unauthorized()).await;
                    }
                    3 => settle().await,
                    4 => {
                        tap.release();
                        settle().await;
                    }
                    // The replay is in flight.
                    _ => settle().await,
                }
                assert_pending!(response.poll(), "{steps} {step}");
            }
        };
        stages.await;
        drop(response);
        assert!(permit_is_free(&limit), "{steps}");
        tap.release();
        // The request of the dropped call gets no more responses.
        while let Poll::Ready(Some(_)) = task::spawn(()).enter(|_, _| handle.poll_request()) {}
        assert_ready_ok!(client.poll_ready());
        let mut next = task::spawn(client.call(get()));
        let _ = next.poll();
        settle().await;
        assert_pending!(next.poll(), "{steps}");
        answer(&mut handle, ok()).await;
        assert_ready_ok!(next.poll(), "{steps}");
    }
}

/// The waker of the first poll may belong to a task that is no longer interested.
#[tokio::test]
async fn a_response_that_moves_to_another_task_wakes_that_one() {
    let tap = Tap::closed();
    let (mut client, mut handle) = client(&tap);
    assert_ready_ok!(client.poll_ready());
    let mut response = Box::pin(client.call(get()));
    let mut former = task::spawn(());
    let mut latter = task::spawn(());
    let mut poll = |task: &mut task::Spawn<()>| task.enter(|cx, _| response.as_mut().poll(cx));
    // While the call waits for a token.
    assert_pending!(poll(&mut former));
    assert_pending!(poll(&mut latter));
    tap.release();
    settle().await;
    assert!(latter.is_woken() && !former.is_woken());
    // While it waits for a newer token.
    assert_pending!(poll(&mut latter));
    tap.close();
    answer(&mut handle, unauthorized()).await;
    assert_pending!(poll(&mut latter));
    assert_pending!(poll(&mut former));
    tap.release();
    settle().await;
    assert!(former.is_woken());
    // While the inner service is not ready.
    handle.allow(0);
    assert_pending!(poll(&mut former));
    assert_pending!(poll(&mut latter));
    handle.allow(1);
    assert!(latter.is_woken());
    assert_pending!(poll(&mut latter));
    answer(&mut handle, ok()).await;
    assert_eq!(assert_ready_ok!(poll(&mut latter)).status(), StatusCode::OK);
}

/// A renewal that is driven by one caller's future starves the others if that caller is not polled.
#[tokio::test]
async fn a_caller_that_is_never_polled_again_holds_nobody_up() {
    let tap = Tap::closed();
    let (mut first, _handle) = client(&tap);
    let mut sleeper = call(&mut first, get());
    assert_pending!(sleeper.poll());
    let cache = first.get_ref().cache();
    let mut other = task::spawn(cache.token());
    assert_pending!(other.poll());
    tap.release();
    settle().await;
    assert!(other.is_woken());
    assert_ready_ok!(other.poll());
}

// Runtimes

fn echo()
-> impl Service<Request<Body>, Response = Response<String>, Error = BoxError, Future: Send> + Clone
{
    service_fn(|request: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(token_of(request.headers()).unwrap_or("none").to_owned()))
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn without_a_runtime_there_is_a_clear_error() {
    let mut client = Tap::open().layer().layer(echo());
    let mut response = task::spawn(client.call(get()));
    let error = assert_ready_err!(response.poll());
    assert!(is_token_error(&error, ErrorClass::Interrupted), "{error}");
    assert!(error.to_string().contains("no Tokio runtime"), "{error}");
}

/// `runtime.block_on(client.call(request))` calls outside the runtime and polls inside: the call
/// must not fail because there is no runtime yet.
#[test]
fn a_call_outside_of_the_runtime_that_polls_it_works() {
    let tap = Tap::open();
    let mut client = tap.layer().layer(echo());
    let runtime = runtime();
    for _ in 0..3 {
        let response = runtime.block_on(client.call(get())).unwrap();
        assert_eq!(response.into_body(), "t1");
    }
    assert_eq!(tap.asked(), 1);
    assert!(client.cache().last_error().is_none());
}

/// With a cached token, nothing is released and reserved again, not even the reservation of
/// `poll_ready`.
#[test]
fn with_a_fresh_token_a_call_outside_of_any_runtime_goes_at_once() {
    let tap = Tap::open();
    let layer = tap.layer();
    runtime().block_on(layer.cache().token()).unwrap();
    let sent = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&sent);
    let mut client = layer.layer(service_fn(move |_: Request<Body>| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, BoxError>(ok::<Body>()))
    }));
    let mut response = task::spawn(client.call(get()));
    assert_eq!(sent.load(Ordering::SeqCst), 1, "before the first poll");
    assert_ready_ok!(response.poll());
}

#[test]
fn when_its_runtime_is_dropped_waiters_are_told_and_another_runtime_serves() {
    let tap = Tap::closed();
    let mut client = tap.layer().layer(echo());
    let first = runtime();
    let guard = first.enter();
    let mut response = task::spawn(client.call(get()));
    assert_pending!(response.poll());
    drop(guard);
    first.block_on(settle());
    assert_pending!(response.poll());
    drop(first);
    assert!(response.is_woken());
    let error = assert_ready_err!(response.poll());
    assert!(is_token_error(&error, ErrorClass::Interrupted), "{error}");
    assert!(error.to_string().contains("runtime was shut down"), "{error}");
    tap.release();
    let response = runtime().block_on(client.call(get())).unwrap();
    assert_eq!(response.into_body(), "t2");
}

// Types

fn send<T: Send>(_: &T) {}
fn sync<T: Sync>(_: &T) {}

/// An unnecessary bound, or a misplaced cell, would only show in a user's program.
#[test]
fn the_service_goes_where_the_inner_one_goes() {
    #[derive(Clone)]
    struct NotSync(#[allow(dead_code)] std::cell::Cell<()>);
    let layer = Tap::open().layer();
    let service = layer.layer(echo());
    send(&service);
    sync(&service);
    send(&service.clone());
    send(&layer);
    sync(&layer);
    send(&layer.layer(NotSync(std::cell::Cell::new(()))));

    fn future_is_send<M>()
    where
        ResponseFuture<Inner, Body, Body, M>: Send,
        M: tower_oauth2_client_credentials::Mode<Body, Body>,
    {
    }
    future_is_send::<Replay>();
    future_is_send::<NeverReplay>();
    send(&layer.cache().token());
    sync(&layer.cache());
}

#[tokio::test]
async fn it_fits_into_a_boxed_clone_sync_service() {
    let client = BoxCloneSyncService::new(Tap::open().layer().layer(echo()));
    sync(&client);
    assert_eq!(client.clone().oneshot(get()).await.unwrap().into_body(), "t1");
}

/// A single-threaded inner service, with its clone, future, request and response.
#[derive(Clone)]
struct Local(Rc<()>);

struct LocalFuture(Option<Rc<()>>, PhantomPinned);

impl Service<Request<Body>> for Local {
    type Response = Response<LocalBody>;
    type Error = std::io::Error;
    type Future = LocalFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> LocalFuture {
        LocalFuture(Some(Rc::clone(&self.0)), PhantomPinned)
    }
}

impl Future for LocalFuture {
    type Output = std::io::Result<Response<LocalBody>>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(LocalBody(self.0.clone().unwrap(), Body::default()))))
    }
}

struct LocalBody(#[allow(dead_code)] Rc<()>, Body);

impl http_body::Body for LocalBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        Pin::new(&mut self.1).poll_frame(cx)
    }
}

#[tokio::test]
async fn a_service_of_a_single_thread_can_be_wrapped() {
    let client = Tap::open().layer().layer(Local(Rc::new(())));
    let set = tokio::task::LocalSet::new();
    let call = set.run_until(async move {
        tokio::task::spawn_local(client.oneshot(get())).await.unwrap().unwrap().status()
    });
    assert_eq!(call.await, StatusCode::OK);
}

/// A clone shares the token: it neither requests its own nor misses a renewal.
#[tokio::test]
async fn clones_share_the_token_and_notice_its_renewal() {
    let (tap, mut one, mut handle) = warm_client().await;
    let mut two: Client = mock::Spawn::new(one.get_ref().clone());
    for (client, expected) in [(&mut one, "t1"), (&mut two, "t1")] {
        let mut response = call(client, get());
        assert_eq!(token_of(answer(&mut handle, ok()).await.headers()), Some(expected));
        assert_ready_ok!(response.poll());
    }
    let mut response = call(&mut one, post("x"));
    answer(&mut handle, unauthorized()).await;
    assert_pending!(response.poll());
    settle().await;
    assert_pending!(response.poll());
    answer(&mut handle, ok()).await;
    assert_ready_ok!(response.poll());
    let mut response = call(&mut two, get());
    assert_eq!(token_of(answer(&mut handle, ok()).await.headers()), Some("t2"));
    assert_ready_ok!(response.poll());
    assert_eq!(tap.asked(), 2);
}

/// The source is dropped with the last handle, even during a fetch.
#[tokio::test]
async fn the_renewal_ends_with_the_last_handle() {
    struct Gone(Arc<AtomicU32>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    let gone = Arc::new(Gone(Arc::clone(&dropped)));
    let cache = TokenCache::new(source_fn(move |_| {
        let held = Arc::clone(&gone);
        async move {
            let _held = held;
            std::future::pending().await
        }
    }));
    let client = OAuthClientCredentialsLayer::from_cache(cache.clone()).layer(echo());
    drop(cache);
    {
        let mut response = pin!(client.oneshot(get()));
        let mut task = task::spawn(());
        assert!(task.enter(|cx, _| response.as_mut().poll(cx)).is_pending());
        settle().await;
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
    }
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}
