//! A token endpoint that is away, hangs, or answers byte by byte: nobody with a good token is held
//! up, and work resumes soon after it is back.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, TokenCache, TokenError, TokenResponse, TokenSource,
    credentials::RotatingSecret,
    endpoint::TransportRequestBody,
    source_fn,
    token::{Attempt, BoxFuture},
};

use crate::{
    kit::{World, millis, pass, poll_once, secs, settle, within},
    provider::{Api, Mood, Provider, answer},
};

/// Pins requests at 3592 to 3599 s that failed at 3622 s with a token that was good to 3600 s.
#[tokio::test(start_paused = true)]
async fn no_call_with_a_good_token_waits_longer_than_a_second_or_fails() {
    let moods = [Mood::Hangs, Mood::Unavailable, Mood::BreaksOff, Mood::Garbled];
    // The first call after a while comes in the soft window, or in the margin.
    for (mood, from) in moods.iter().flat_map(|&mood| [3000, 3571, 3590].map(|from| (mood, from))) {
        let provider = Provider::new();
        let client = provider.client();
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        provider.books().mood = mood;
        pass(secs(from)).await;
        let lasts = secs(3600 - from) - millis(400);
        let failures = provider.traffic(&client, millis(500), lasts).await;
        assert_eq!(failures.count(), 0, "{mood:?} from {from} s: {failures:?}");
        assert!(failures.slowest <= secs(1), "{mood:?}: {:?}", failures.slowest);
    }
}

/// A body that has one byte a second.
struct Trickle {
    pause: Pin<Box<Sleep>>,
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pause.as_mut().poll(cx));
        self.pause = Box::pin(tokio::time::sleep(secs(1)));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

/// Pins 50 of 230 calls that were held up by as much as 6.8 s.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_trickles_holds_up_no_call_with_a_good_token() {
    let provider = Provider::new();
    let is_first = Arc::new(AtomicBool::new(true));
    let token = provider.builder().build().unwrap().cache().token().await.unwrap();
    let transport = service_fn(move |_: http::Request<TransportRequestBody>| {
        let is_first = is_first.swap(false, Ordering::Relaxed);
        let json = format!(r#"{{"access_token":"{}","expires_in":3600}}"#, token.expose_secret());
        async move {
            let body = if is_first {
                http_body_util::Either::Left(http_body_util::Full::new(Bytes::from(json)))
            } else {
                http_body_util::Either::Right(Trickle {
                    pause: Box::pin(tokio::time::sleep(secs(1))),
                })
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let layer = Builder::new()
        .token_url("https://auth.example.com/token")
        .client_id("test-client")
        .client_secret("test-secret")
        .transport(transport)
        .clock(provider.clock.clone())
        .jitter_seed(7)
        .build()
        .unwrap();
    let client = layer.layer(Api(provider.clone()));
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
    pass(secs(3571)).await;
    let failures = provider.traffic(&client, millis(500), millis(28_600)).await;
    assert_eq!(failures.count(), 0, "{failures:?}");
    assert!(failures.slowest <= secs(1), "{:?}", failures.slowest);
}

/// Pins 12 to 16 s, and up to a minute, in which calls went on failing.
#[tokio::test(start_paused = true)]
async fn after_an_outage_without_a_token_work_resumes_within_five_seconds() {
    for mood in [Mood::Unavailable, Mood::Panics] {
        for (lifetime, lasts, most) in [(2, 20, 5), (2, 3600, 12), (3600, 3700, 5)] {
            let provider = Provider::new();
            provider.books().lifetime = secs(lifetime);
            let client = provider.client();
            assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
            provider.books().mood = mood;
            provider.traffic(&client, millis(250), secs(lasts)).await;
            provider.books().mood = Mood::Well;
            let failures = provider.traffic(&client, millis(250), secs(90)).await;
            let last = failures.at.last().copied().unwrap_or_default();
            let back = last.saturating_sub(provider.clock.elapsed() - secs(90));
            assert!(back <= secs(most), "{mood:?}, {lifetime} s: back after {back:?}");
        }
    }
}

/// Within an attempt's timeout (10 s) and five seconds.
#[tokio::test(start_paused = true)]
async fn after_an_endpoint_has_hung_work_resumes_within_fifteen_seconds() {
    for lasts in [20, 33, 47, 600] {
        let provider = Provider::new();
        provider.books().lifetime = secs(2);
        let client = provider.client();
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        provider.books().mood = Mood::Hangs;
        let calls = tokio::spawn({
            let (provider, client) = (provider.clone(), client.clone());
            async move { provider.traffic(&client, millis(250), secs(lasts)).await }
        });
        pass(secs(lasts)).await;
        provider.books().mood = Mood::Well;
        let mut took = 0;
        while !matches!(answer(&client, "/").await, Ok(StatusCode::OK)) {
            pass(millis(250)).await;
        }
        took += (provider.clock.elapsed() - secs(lasts)).as_secs();
        assert!(took <= 15, "{lasts} s: back after {took} s");
        calls.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn one_paths_invalid_token_while_the_endpoint_hangs_holds_others_up_for_two_seconds() {
    let provider = Provider::new();
    provider.books().lifetime = secs(86_400);
    let client = provider.client();
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
    provider.books().mood = Mood::Hangs;
    let misusing = tokio::spawn({
        let client = client.clone();
        async move {
            loop {
                let call = answer(&client, "/misuses");
                let _ = tokio::time::timeout(secs(60), call).await;
                tokio::time::sleep(millis(700)).await;
            }
        }
    });
    let failures = provider.traffic(&client, secs(1), secs(600)).await;
    misusing.abort();
    assert_eq!(failures.count(), 0, "{failures:?}");
    assert!(failures.slowest <= secs(2), "{:?}", failures.slowest);
}

/// The token is good, and its renewal is refused: the secret has been changed at the server, and is
/// changed at the client later.
#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_tried_in_the_background_while_the_token_is_good() {
    let secret = RotatingSecret::new("test-client", "test-secret");
    let world = World::with_credentials(secret.clone());
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.change_secret("test-client", "new");
    world.server.delay_answers(millis(500));
    let (mut client, mut renewed) = (world.client.clone(), None);
    for second in 1..=3600 {
        if second == 3400 {
            assert!(world.server.requests() >= 2, "it was refused");
            assert_eq!(world.server.issued(), 1);
            secret.set("new");
        }
        // A call that waits for the token endpoint takes longer than the API does.
        let started = world.clock.elapsed();
        assert_eq!((&mut client).oneshot(crate::kit::get("/")).await.unwrap().status(), 200);
        assert_eq!(world.clock.elapsed(), started, "a call at {second} s waited");
        pass(secs(1)).await;
        if world.server.issued() > 1 {
            renewed.get_or_insert(second);
        }
    }
    let renewed = renewed.expect("a new token");
    assert!((3400..3410).contains(&renewed), "renewed at {renewed} s");
}

/// A source whose look at the version of its credentials can be made to hang.
struct Credentials {
    version: AtomicU64,
    asked: AtomicUsize,
    is_throttled: AtomicBool,
    /// Called at the next look.
    look: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct Handle(Arc<Credentials>);

impl TokenSource for Handle {
    fn fetch<'a>(&'a self, _: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let error = if self.0.is_throttled.load(Ordering::Relaxed) {
            TokenError::new(ErrorClass::Throttled, "429").with_retry_after(secs(600))
        } else {
            TokenError::new(ErrorClass::Credentials, "refused")
        };
        Box::pin(async move { Err(error) })
    }

    fn credentials_version(&self) -> u64 {
        let version = self.0.version.load(Ordering::Relaxed);
        let look = self.0.look.lock().unwrap().take();
        if let Some(look) = look {
            // Everything else happens while this look hangs.
            look();
            return version + 1;
        }
        version
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_look_at_the_credentials_forgets_no_newer_failure() {
    let source = Arc::new(Credentials {
        version: 0.into(),
        asked: 0.into(),
        is_throttled: false.into(),
        look: Mutex::default(),
    });
    let clock = tower_oauth2_client_credentials::testing::ManualClock::new();
    let cache = Builder::from_source(Handle(Arc::clone(&source))).clock(clock.clone());
    let cache = cache.build().unwrap().cache();
    assert_eq!(cache.token().await.unwrap_err().class(), ErrorClass::Credentials);
    assert_eq!(source.asked.load(Ordering::Relaxed), 1);
    // Meanwhile the secret is rotated, and the server asks for ten minutes of patience. That takes
    // a renewal, which runs on another thread while this one is held up.
    *source.look.lock().unwrap() = Some(Box::new({
        let (source, cache) = (Arc::clone(&source), cache.clone());
        move || {
            source.version.store(1, Ordering::Relaxed);
            source.is_throttled.store(true, Ordering::Relaxed);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let error = runtime.unwrap().block_on(cache.token()).unwrap_err();
                assert_eq!(error.class(), ErrorClass::Throttled);
            })
            .join()
            .unwrap();
        }
    }));
    let error = cache.token().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Throttled);
    assert_eq!(source.asked.load(Ordering::Relaxed), 2, "asked again during the ten minutes");
    assert_eq!(cache.token().await.unwrap_err().class(), ErrorClass::Throttled);
    assert_eq!(source.asked.load(Ordering::Relaxed), 2);
}

/// The first of them is on its way to a runtime that nobody drives, and never arrives.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_given_up_is_aborted_and_its_late_answer_changes_nothing() {
    let provider = Provider::new();
    provider.books().mood = Mood::Hangs;
    let cache = provider.builder().build().unwrap().cache();
    let undriven = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    {
        let _inside = undriven.enter();
        assert!(poll_once(&mut cache.token()).is_pending());
    }
    assert_eq!((provider.asked(), provider.books().in_flight), (1, 1), "nobody drives it on");
    pass(secs(60)).await;
    provider.books().mood = Mood::Well;
    assert_eq!(within(secs(1), cache.token()).await.unwrap().expose_secret(), "t1");
    // The old one is driven at last: it was aborted.
    std::thread::spawn(move || {
        undriven.block_on(async { settle().await });
    })
    .join()
    .unwrap();
    assert_eq!((provider.asked(), provider.books().in_flight), (2, 0));
    assert_eq!(cache.issued(), 1);
}

/// Its source ignores the renewal's deadline, as its runtime does not run for a while.
#[test]
fn a_renewal_that_was_asked_for_and_is_overdue_does_not_go_on_beside_another() {
    let paused =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let provider = paused.as_ref().unwrap().block_on(async { Provider::new() });
    provider.books().mood = Mood::Hangs;
    let cache = provider.builder().build().unwrap().cache();
    first.block_on(async {
        assert!(poll_once(&mut cache.token()).is_pending());
        settle().await;
    });
    assert_eq!((provider.asked(), provider.books().in_flight), (1, 1));
    provider.books().mood = Mood::Well;
    paused.unwrap().block_on(async {
        pass(secs(60)).await;
        within(secs(1), cache.token()).await.unwrap();
    });
    first.block_on(settle());
    assert_eq!((provider.asked(), provider.books().in_flight), (2, 0), "aborted");
}

/// The runtime of the one who set off the renewal ends, and a caller on another waits.
#[test]
fn a_waiter_whose_renewal_lost_its_runtime_has_it_relaunched_on_its_own() {
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if is_first {
                    std::future::pending::<()>().await;
                }
                Ok(TokenResponse::bearer("t")?.expires_in(secs(60)))
            }
        })
    };
    let cache = TokenCache::new(source);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        assert!(poll_once(&mut cache.token()).is_pending());
        settle().await;
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let mut waiter = cache.token();
    second.block_on(async { assert!(poll_once(&mut waiter).is_pending()) });
    drop(first);
    assert_eq!(second.block_on(waiter).unwrap().expose_secret(), "t");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// The process is frozen: time passes, no task runs, and all timers are due when it thaws.
fn freeze(time: Duration) {
    // One poll moves the clock; what it waits for afterwards is to let others run.
    let mut advance = Box::pin(tokio::time::advance(time));
    let _ = advance.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

/// AWS Lambda, Cloud Run without CPU, `docker pause`.
#[tokio::test(start_paused = true)]
async fn a_process_that_is_frozen_in_the_middle_of_a_renewal_fails_no_call() {
    for hard in [false, true] {
        let world = World::new();
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(if hard { 3580 } else { 3300 })).await;
        world.server.delay_answers(millis(200));
        let call = tokio::spawn(world.call("/"));
        tokio::time::sleep(millis(50)).await;
        assert_eq!(world.server.requests(), 2, "it is under way");
        freeze(secs(3600));
        assert_eq!(within(secs(5), world.call("/")).await.unwrap().status(), StatusCode::OK);
        let call = within(secs(5), call).await.unwrap().unwrap().status();
        assert_eq!(call, StatusCode::OK, "{hard}");
    }
}

/// A cold start, or hashing that takes its time: longer than an attempt's timeout.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_slower_than_an_attempt_may_be_serves_in_the_end() {
    let world = World::new();
    world.server.delay_answers(secs(12));
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert!(world.server.requests() <= 2, "{}", world.server.requests());
    let world = World::with(|builder| builder.attempt_timeout(secs(25)));
    world.server.delay_answers(secs(12));
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 1);
}

/// A server that hands out one token until its last second, with the seconds that are left.
#[tokio::test(start_paused = true)]
async fn one_token_until_its_last_second_fails_no_call_and_is_not_asked_for_all_the_time() {
    let world = World::new();
    world.server.issue_for(secs(300));
    let (mut last, mut since) = (None, world.clock.elapsed());
    for _ in 0..18_000 {
        if world.clock.elapsed() - since < secs(300) {
            world.server.repeat_token();
        } else {
            world.server.issue_new_tokens();
        }
        assert_eq!(world.status("/").await, StatusCode::OK);
        if world.server.last_token() != last {
            (last, since) = (world.server.last_token(), world.clock.elapsed());
        }
        tokio::time::advance(millis(200)).await;
    }
    assert!(world.server.requests() <= 120, "{} in an hour", world.server.requests());
}
