//! One renewal at a time, which no caller can cancel, and which leaves nothing behind.

use std::{
    panic,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http::StatusCode;
use tokio::{runtime::Runtime, sync::Semaphore};
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, ErrorClass, OAuthClientCredentialsLayer, TokenCache, TokenError, TokenResponse,
    source_fn,
    testing::{Answer, AuthorizationServer, ManualClock, ProtectedApi},
    token::Attempt,
};

use crate::kit::{Watchdog, World, get, millis, pass, poll_once, secs, settle, within};

/// Guards against a refresh storm, with a token request for each caller.
#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_make_one_token_request_cold_at_expiry_and_when_it_fails() {
    let world = World::new();
    world.server.delay_answers(secs(1));
    for round in 1..=2 {
        let results = world.crowd(10_000).await;
        assert!(results.iter().all(|result| matches!(result, Ok(StatusCode::OK))));
        assert_eq!(world.server.requests(), round);
        pass(secs(3600)).await;
    }

    world.server.down();
    let failed = world.crowd(10_000).await;
    assert_eq!(world.server.refused_connections(), 3, "one renewal with its attempts");
    let first = failed[0].as_ref().unwrap_err().clone();
    assert_eq!(first.class(), ErrorClass::Transient);
    let text = format!("{first:?}");
    for result in failed {
        assert_eq!(format!("{:?}", result.unwrap_err()), text, "all see the same error");
    }

    // Until the backoff ends there are no token requests, and all calls fail immediately.
    let clock = world.clock.wall();
    assert!(first.retry_at().unwrap() > clock);
    for result in world.crowd(10_000).await {
        assert_eq!(result.unwrap_err().retry_at(), first.retry_at());
    }
    assert_eq!(world.clock.wall(), clock, "answered without waiting");
    assert_eq!(world.server.refused_connections(), 3);

    world.server.up();
    pass(first.retry_at().unwrap().duration_since(clock).unwrap()).await;
    let results = world.crowd(10_000).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(world.server.requests(), 3);
    world.assert_no_expired_token_went_out();
}

/// The same with threads: lost wake-ups and duplicate renewals do not show on a single thread.
#[test]
fn ten_thousand_callers_on_many_threads_make_one_token_request() {
    let _limit = Watchdog::start(secs(300));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for round in 0..5 {
        let fetches = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let source = {
            let (fetches, gate) = (Arc::clone(&fetches), Arc::clone(&gate));
            source_fn(move |_| {
                let (fetches, gate) = (Arc::clone(&fetches), Arc::clone(&gate));
                async move {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    let _permit = gate.acquire().await;
                    Ok(TokenResponse::bearer("t")?.expires_in(secs(3600)))
                }
            })
        };
        let cache = TokenCache::new(source);
        runtime.block_on(async {
            let callers: Vec<_> = (0..10_000)
                .map(|caller| {
                    let (cache, gate) = (cache.clone(), Arc::clone(&gate));
                    tokio::spawn(async move {
                        if caller == 1000 * (round + 1) {
                            gate.add_permits(1);
                        }
                        cache.token().await.map(|token| token.expose_secret().to_owned())
                    })
                })
                .collect();
            for caller in callers {
                assert_eq!(caller.await.unwrap().unwrap(), "t");
            }
        });
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }
}

/// Guards against a renewal that is driven by a caller's future and dropped with it.
#[tokio::test(start_paused = true)]
async fn the_caller_that_set_off_the_renewal_may_leave() {
    let world = World::new();
    world.server.delay_answers(secs(5));
    let leader = tokio::spawn(world.call("/"));
    settle().await;
    let follower = tokio::spawn(world.call("/"));
    pass(secs(2)).await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    let response = within(secs(10), follower).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(world.server.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_nobody_waits_for_completes_and_the_next_call_has_its_token() {
    let world = World::new();
    world.server.delay_answers(secs(5));
    let callers: Vec<_> = (0..10).map(|_| tokio::spawn(world.call("/"))).collect();
    pass(secs(1)).await;
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    pass(secs(5)).await;
    let before = world.clock.wall();
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.clock.wall(), before, "the token was there");
    assert_eq!(world.server.requests(), 1);
}

/// The timeout is 10 s per attempt and 30 s per renewal.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_nobody_waits_for_ends_at_its_deadline_and_the_next_call_is_right() {
    let world = World::new();
    world.server.script((0..9).map(|_| Answer::never()));
    let caller = tokio::spawn(world.call("/"));
    settle().await;
    caller.abort();
    pass(millis(9_900)).await;
    assert_eq!(world.server.requests(), 1, "an attempt may take ten seconds");
    pass(millis(600)).await;
    assert_eq!(world.server.requests(), 2, "and not more");
    // The tasks are those of the test and the renewal.
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    pass(millis(19_600)).await;
    assert_eq!(tasks(), 0, "thirty seconds in all");
    assert_eq!(world.server.requests(), 3);
    let error = world.error("/").await;
    assert!(error.is_unreachable(), "{error}");
    pass(secs(2)).await;
    let called = world.clock.wall();
    let error = world.error("/").await;
    assert_eq!(world.clock.wall().duration_since(called).unwrap(), secs(30));
    assert!(error.is_unreachable(), "{error}");
}

/// Guards against a renewal that runs only while the caller that started it is polled.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_no_longer_polled_starves_nobody() {
    let world = World::new();
    world.server.delay_answers(secs(1));
    let cache = world.cache();
    let mut leader = Box::pin(cache.token());
    let mut call = Box::pin(world.call("/"));
    assert!(poll_once(&mut leader).is_pending());
    assert!(poll_once(&mut call).is_pending());
    // Both futures are alive, and neither is polled.
    assert_eq!(world.status("/").await, StatusCode::OK);
    let token = within(secs(1), cache.token()).await.unwrap();
    world.server.revoke_all();
    let mut replacement = Box::pin(cache.rejected(&token));
    assert!(poll_once(&mut replacement).is_pending());
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
    // They still find their result, even this late.
    assert!(leader.await.is_ok() && replacement.await.is_ok());
    assert_eq!(call.await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
}

/// A token that has arrived and expired since the caller was last polled is not used.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_polled_too_late_gets_no_expired_token() {
    let world = World::new();
    world.server.delay_answers(secs(1));
    let cache = world.cache();
    let mut late = Box::pin(cache.token());
    let mut late_call = Box::pin(world.call("/"));
    assert!(poll_once(&mut late).is_pending() && poll_once(&mut late_call).is_pending());
    pass(secs(3602)).await;
    let token = within(secs(10), late).await.unwrap();
    assert!(token.expires_at().unwrap() > world.clock.wall());
    assert_eq!(within(secs(10), late_call).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
    world.assert_no_expired_token_went_out();
}

/// Guards against a cache that is never filled because each caller gives up before the response.
#[tokio::test(start_paused = true)]
async fn callers_with_less_patience_than_the_server_takes_make_progress() {
    let world = World::new();
    world.server.delay_answers(secs(3));
    let mut served_after = None;
    for second in 0..10 {
        match tokio::time::timeout(secs(1), world.call("/")).await {
            Ok(response) => {
                assert_eq!(response.unwrap().status(), StatusCode::OK);
                served_after.get_or_insert(second);
            }
            Err(_) => assert!(second < 3, "no progress"),
        }
    }
    assert!(served_after.unwrap() <= 3);
    assert_eq!(world.server.requests(), 1);
}

/// Guards against a cooldown that starts although no renewal was ineffective.
#[tokio::test(start_paused = true)]
async fn a_401_recovers_at_once_after_a_forced_renewal_that_its_caller_left() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.revoke_all();
    world.server.delay_answers(secs(3));
    assert!(tokio::time::timeout(secs(1), world.call("/")).await.is_err());
    // The next 401 joins the renewal, which continues.
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
    // After the caller is gone, the next one finds the new token.
    pass(secs(100)).await;
    world.server.revoke_all();
    assert!(tokio::time::timeout(secs(1), world.call("/")).await.is_err());
    pass(secs(5)).await;
    let calls = world.api.calls();
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.api.calls(), calls + 1, "no replay was needed");
    assert_eq!(world.server.requests(), 3);
}

/// A renewal that failed or timed out is neither effective nor ineffective.
#[tokio::test(start_paused = true)]
async fn a_forced_renewal_that_failed_is_not_held_against_the_next() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.revoke_all();
    world.server.script((0..3).map(|_| Answer::never()));
    assert_eq!(world.status("/").await, StatusCode::UNAUTHORIZED, "the 401 as it came");
    pass(millis(1_300)).await;
    assert_eq!(world.status("/").await, StatusCode::OK, "after the backoff, and no cooldown");
}

type Script = Vec<fn() -> Result<TokenResponse, TokenError>>;

/// A source that does what its script says, once each, and then gives tokens.
fn scripted(script: Script) -> (TokenCache, ManualClock) {
    scripted_after(0, script)
}

/// The same, by a source that is pending once, so that its renewal goes on on a task.
fn scripted_on_task(script: Script) -> (TokenCache, ManualClock) {
    scripted_after(1, script)
}

fn scripted_after(turns: u32, script: Script) -> (TokenCache, ManualClock) {
    let script = Mutex::new(script.into_iter());
    let source = source_fn(move |_: Attempt| {
        let next = script.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
        async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            next.map_or_else(a_token, |step| step())
        }
    });
    let clock = ManualClock::new();
    let builder =
        tower_oauth2_client_credentials::Builder::from_source(source).clock(clock.clone());
    (builder.build().unwrap().cache(), clock)
}

fn a_token() -> Result<TokenResponse, TokenError> {
    Ok(TokenResponse::bearer("t")?.expires_in(secs(3600)))
}

/// Guards against waiters that are never woken because an earlier waker panicked.
#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_does_not_leave_the_others_asleep() {
    struct Panicking;

    impl Wake for Panicking {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }

    let _limit = Watchdog::start(secs(300));
    for fails in [false, true] {
        // The source panics as well: its task is unwinding when it wakes the waiters.
        let (cache, _clock) =
            scripted_on_task(if fails { vec![|| panic!("on purpose, too")] } else { vec![] });
        let waker = Waker::from(Arc::new(Panicking));
        let mut cx = Context::from_waker(&waker);
        // These tasks run before the renewal, so the waiters with panicking wakers have joined it
        // by then.
        let others: Vec<_> = (0..10).map(|_| tokio::spawn(cache.token())).collect();
        let mut first: Vec<_> = (0..2).map(|_| cache.token()).collect();
        for token in &mut first {
            assert!(Pin::new(token).poll(&mut cx).is_pending());
        }
        for other in others {
            assert_eq!(within(secs(60), other).await.unwrap().is_err(), fails);
        }
        pass(secs(2)).await;
        assert!(within(secs(60), cache.token()).await.is_ok());
    }
}

/// Pins the task, and the two switches to and fro, that a token costs which is there already.
#[tokio::test(start_paused = true)]
async fn a_source_that_answers_at_once_needs_no_task() {
    let _limit = Watchdog::start(secs(300));
    let world_of_tasks = tokio::runtime::Handle::current().metrics();
    let (cache, _clock) = scripted(vec![]);
    let client = OAuthClientCredentialsLayer::from_cache(cache.clone()).layer(tower::service_fn(
        |_: http::Request<http_body_util::Full<bytes::Bytes>>| async {
            Ok::<_, BoxError>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
        },
    ));
    let mut response = Box::pin(client.oneshot(get("/")));
    assert!(poll_once(&mut response).is_ready(), "the first poll has the token");
    assert_eq!((world_of_tasks.num_alive_tasks(), cache.issued()), (0, 1));

    let (cache, _clock) =
        scripted(vec![|| Err(TokenError::new(ErrorClass::Request, "no such scope"))]);
    assert!(poll_once(&mut cache.token()).is_ready(), "an error, as well");
    assert_eq!(world_of_tasks.num_alive_tasks(), 0);

    let (cache, _clock) = scripted_on_task(vec![]);
    let mut token = cache.token();
    assert!(poll_once(&mut token).is_pending());
    assert_eq!(world_of_tasks.num_alive_tasks(), 1, "no caller drives a renewal");
    drop(token);
    settle().await;
    assert_eq!((world_of_tasks.num_alive_tasks(), cache.issued()), (0, 1));
}

/// Pins the source that runs within `call`, whose caller may hold a lock that the source takes, or
/// within the call of somebody who has a token and waits for nothing.
#[tokio::test(start_paused = true)]
async fn the_source_does_not_run_within_a_call_that_does_not_wait() {
    let _limit = Watchdog::start(secs(300));
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            async { a_token() }
        })
    };
    let clock = ManualClock::new();
    let builder =
        tower_oauth2_client_credentials::Builder::from_source(source).clock(clock.clone());
    let mut cache = builder.build().unwrap().cache();
    assert!(cache.try_token().unwrap().is_none());
    assert_eq!(asked.load(Ordering::SeqCst), 0, "`try_token` leaves it to a task");
    settle().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    pass(secs(4000)).await;
    let mut client = OAuthClientCredentialsLayer::from_cache(cache.clone()).layer(
        tower::service_fn(|_: http::Request<http_body_util::Full<bytes::Bytes>>| async {
            Ok::<_, BoxError>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
        }),
    );
    let mut response = Box::pin(tower::Service::call(&mut client, get("/")));
    settle().await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "nor does `call` ask");
    assert!(poll_once(&mut response).is_ready());
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    pass(secs(3300)).await;
    assert!(poll_once(&mut cache.token()).is_ready(), "a token that is due");
    assert_eq!(asked.load(Ordering::SeqCst), 2, "goes out before the source is asked");
    settle().await;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

/// Pins the lock that is held while the source runs in place.
#[tokio::test(start_paused = true)]
async fn a_source_that_runs_in_place_may_use_its_own_cache() {
    let _limit = Watchdog::start(secs(300));
    let own = Arc::new(OnceLock::<TokenCache>::new());
    let source = {
        let own = Arc::clone(&own);
        source_fn(move |_| {
            let mut cache = own.get().unwrap().clone();
            async move {
                assert!(cache.peek().is_none() && cache.last_error().is_none());
                assert!(cache.try_token().unwrap().is_none(), "it would wait for itself");
                assert!(poll_once(&mut cache.token()).is_pending());
                a_token()
            }
        })
    };
    let cache = TokenCache::new(source);
    own.set(cache.clone()).unwrap();
    let mut token = cache.token();
    let Poll::Ready(Ok(token)) = poll_once(&mut token) else { panic!("one renewal, in place") };
    assert_eq!((token.expose_secret(), cache.issued()), ("t", 1));
}

/// Pins a panic of the source that unwinds into the caller, and one that is held to say nothing
/// about the source: after that, each caller asks once more.
#[tokio::test(start_paused = true)]
async fn a_panic_of_the_first_poll_counts_as_one_of_the_task() {
    let _limit = Watchdog::start(secs(300));
    for script in [scripted, scripted_on_task] {
        let (cache, _clock) = script(vec![|| panic!("on purpose")]);
        let mut token = cache.token();
        let error = within(secs(1), &mut token).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Interrupted);
        assert!(error.retry_at().is_some(), "it backs off");
        let Poll::Ready(Err(again)) = poll_once(&mut cache.token()) else {
            panic!("asked again at once");
        };
        assert_eq!(again.retry_at(), error.retry_at());
        assert_eq!(cache.issued(), 0);
        pass(secs(4)).await;
        assert!(within(secs(1), cache.token()).await.is_ok());
    }
}

/// Guards against a cache that stays locked, or waits forever, after user code panics.
#[tokio::test(start_paused = true)]
async fn after_a_panic_in_the_source_there_is_one_error_and_then_a_token() {
    let _limit = Watchdog::start(secs(300));
    let (mut cache, _clock) = scripted(vec![|| panic!("on purpose"), || panic!("again")]);
    for _ in 0..2 {
        let waiting: Vec<_> = (0..100).map(|_| tokio::spawn(cache.token())).collect();
        for caller in waiting {
            let error = within(secs(1), caller).await.unwrap().unwrap_err();
            assert_eq!(error.class(), ErrorClass::Interrupted);
            assert!(error.retry_at().is_some(), "it is remembered as any failure");
        }
        assert!(poll_once(&mut cache.token()).is_ready(), "and not asked for each call");
        pass(secs(4)).await;
    }
    assert!(within(secs(1), cache.token()).await.is_ok());
    assert!(cache.peek().is_some());
}

/// While a token is usable, no caller notices.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_renewal_in_the_background_is_not_noticed() {
    let _limit = Watchdog::start(secs(300));
    let (cache, _clock) = scripted(vec![a_token, || panic!("on purpose")]);
    assert!(cache.token().await.is_ok());
    pass(secs(3300)).await;
    for _ in 0..3 {
        assert!(within(secs(1), cache.token()).await.is_ok());
        settle().await;
        pass(secs(2)).await;
    }
    assert_eq!(cache.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_in_the_transport_there_is_one_error_and_then_a_token() {
    let _limit = Watchdog::start(secs(300));
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let healthy = Arc::new(AtomicBool::new(false));
    let transport = {
        let (healthy, service) = (Arc::clone(&healthy), server.service());
        tower::service_fn(move |request| {
            assert!(healthy.load(Ordering::SeqCst), "on purpose");
            service.clone().oneshot(request)
        })
    };
    let clock = ManualClock::new();
    let layer = OAuthClientCredentialsLayer::builder()
        .token_url(server.token_url())
        .client_id("test-client")
        .client_secret("test-secret")
        .transport(transport)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = layer.layer(api.service());
    let error: BoxError = client.clone().oneshot(get("/")).await.unwrap_err();
    assert_eq!(error.downcast_ref::<TokenError>().unwrap().class(), ErrorClass::Interrupted);
    healthy.store(true, Ordering::SeqCst);
    pass(secs(2)).await;
    let response = client.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

/// A panic while a rejected request waits leaves the 401 intact.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_forced_renewal_returns_the_401_and_counts_for_nothing() {
    let _limit = Watchdog::start(secs(300));
    let (cache, _clock) = scripted(vec![a_token, || panic!("on purpose")]);
    let token = cache.token().await.unwrap();
    let kept = within(secs(1), cache.rejected(&token)).await.unwrap_err();
    assert_eq!(kept.error().unwrap().class(), ErrorClass::Interrupted);
    pass(secs(2)).await;
    let replaced = within(secs(1), cache.rejected(&token)).await;
    // The same token, since the source has no other. But the source was called.
    assert!(replaced.unwrap_err().is_futile());
    assert_eq!(cache.issued(), 2);
}

/// Guards against a renewal that stays in flight forever because its runtime is gone.
#[test]
fn a_renewal_whose_runtime_was_dropped_is_done_again_on_another() {
    let _limit = Watchdog::start(secs(300));
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move { if first { std::future::pending().await } else { a_token() } }
        })
    };
    let cache = TokenCache::new(source);
    let new_runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (first, second): (Runtime, Runtime) = (new_runtime().unwrap(), new_runtime().unwrap());
    let leader = first.spawn(cache.token());
    while asked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let follower = second.spawn(cache.token());
    first.shutdown_background();
    second.block_on(async {
        // The first caller was dropped with its runtime, or got its result in time.
        let _ = leader.await;
        match follower.await.unwrap() {
            // It arrived after the renewal was given up, and started the next one.
            Ok(token) => assert_eq!(token.expose_secret(), "t"),
            Err(error) => assert_eq!(error.class(), ErrorClass::Interrupted),
        }
        assert_eq!(cache.token().await.unwrap().expose_secret(), "t");
    });
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// A runtime that exists but is not driven blocks only the callers that already wait.
#[test]
fn a_renewal_that_nobody_drives_is_given_up_by_the_first_call_past_its_deadline() {
    let _limit = Watchdog::start(secs(300));
    let paused =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    paused.unwrap().block_on(async {
        let (cache, _clock) = scripted_on_task(vec![]);
        let undriven = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        {
            let _inside = undriven.enter();
            assert!(poll_once(&mut cache.token()).is_pending());
        }
        let waiting = tokio::spawn(cache.token());
        pass(secs(34)).await;
        assert!(poll_once(&mut cache.token()).is_pending());
        pass(secs(3600)).await;
        assert!(!waiting.is_finished(), "nobody has called");
        assert!(within(secs(1), cache.token()).await.is_ok());
        assert!(within(secs(1), waiting).await.unwrap().is_ok(), "joined to the next renewal");
        undriven.shutdown_background();
    });
}

/// Without a runtime, a call neither panics nor hangs.
#[test]
fn without_a_runtime_there_is_an_error_and_with_one_a_token() {
    let _limit = Watchdog::start(secs(300));
    let (cache, _clock) = {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _inside = runtime.enter();
        scripted(vec![])
    };
    let std::task::Poll::Ready(Err(error)) = poll_once(&mut cache.token()) else {
        panic!("what is there to wait for?");
    };
    assert_eq!(error.class(), ErrorClass::Interrupted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(cache.token()).is_ok());
}

/// An error of a custom source that reads the cache when it is dropped.
#[derive(Debug)]
struct Curious {
    cache: Arc<OnceLock<TokenCache>>,
    dropped: Arc<AtomicUsize>,
}

impl std::fmt::Display for Curious {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("curious")
    }
}

impl std::error::Error for Curious {}

impl Drop for Curious {
    fn drop(&mut self) {
        let cache = self.cache.get().unwrap();
        assert!(cache.issued() <= 1 && !format!("{cache:?}").is_empty());
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

/// Guards against a deadlock when the cache drops a failure, because of another failure, remembered
/// or not, or because of a token.
#[tokio::test(start_paused = true)]
async fn an_error_may_look_at_the_cache_when_it_is_dropped() {
    use ErrorClass::{Interrupted, Request};

    let _limit = Watchdog::start(secs(30));
    let classes = [Request, Request, Interrupted, Interrupted, Request];
    let asked = AtomicUsize::new(0);
    let (dropped, cell) = (Arc::<AtomicUsize>::default(), Arc::<OnceLock<TokenCache>>::default());
    let source = {
        let (cache, dropped) = (Arc::clone(&cell), Arc::clone(&dropped));
        source_fn(move |_| {
            let Some(&class) = classes.get(asked.fetch_add(1, Ordering::SeqCst)) else {
                return std::future::ready(a_token());
            };
            let curious = Curious { cache: Arc::clone(&cache), dropped: Arc::clone(&dropped) };
            std::future::ready(Err(TokenError::new(class, "on purpose").with_source(curious)))
        })
    };
    let clock = ManualClock::new();
    let builder =
        tower_oauth2_client_credentials::Builder::from_source(source).clock(clock.clone());
    let cache = builder.build().unwrap().cache();
    cell.set(cache.clone()).unwrap();
    for class in classes {
        assert_eq!(cache.token().await.unwrap_err().class(), class);
        pass(secs(60)).await;
    }
    assert_eq!(dropped.load(Ordering::SeqCst), classes.len() - 1, "the last is remembered");
    assert!(cache.token().await.is_ok());
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), classes.len());
}

/// A source's future that never completes, and reports when it is dropped.
struct Noted(Arc<AtomicUsize>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn never_answering(dropped: &Arc<AtomicUsize>) -> TokenCache {
    let dropped = Arc::clone(dropped);
    TokenCache::new(source_fn(move |_| {
        let noted = Noted(Arc::clone(&dropped));
        async move {
            let _noted = noted;
            std::future::pending().await
        }
    }))
}

/// Guards against a renewal that outlives its cache for as long as the server does not respond.
#[tokio::test(start_paused = true)]
async fn with_the_last_handle_goes_the_renewal() {
    let _limit = Watchdog::start(secs(300));
    let dropped = Arc::new(AtomicUsize::new(0));
    let cache = never_answering(&dropped);
    let other = cache.clone();
    let mut waiting = Box::pin(cache.token());
    assert!(poll_once(&mut waiting).is_pending());
    settle().await;
    drop(cache);
    drop(waiting);
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "a handle is left");
    drop(other);
    settle().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_caches_leave_no_task_and_no_memory() {
    let _limit = Watchdog::start(secs(300));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let dropped = Arc::new(AtomicUsize::new(0));
    let fetched = Arc::new(AtomicUsize::new(0));
    let sources = Arc::new(());
    for round in 0..1000_usize {
        let alive = Arc::clone(&sources);
        let (noted, fetched) = (Arc::clone(&dropped), Arc::clone(&fetched));
        let source = source_fn(move |_| {
            fetched.fetch_add(1, Ordering::SeqCst);
            let alive = Arc::clone(&alive);
            let noted = Noted(Arc::clone(&noted));
            async move {
                let _held = (alive, noted);
                // One in three responds, one fails, and one takes forever.
                match round % 3 {
                    0 => a_token(),
                    1 => Err(TokenError::new(ErrorClass::Request, "no")),
                    _ => std::future::pending().await,
                }
            }
        });
        let clock = ManualClock::new();
        let builder =
            tower_oauth2_client_credentials::Builder::from_source(source).clock(clock.clone());
        let cache = builder.keep_warm().build().unwrap().cache();
        let server = AuthorizationServer::new();
        let client = OAuthClientCredentialsLayer::from_cache(cache.clone())
            .layer(ProtectedApi::new(&server).service());
        let call = tokio::spawn(client.oneshot(get("/")));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        call.abort();
        assert!(tasks() > 0 || call.is_finished());
    }
    settle().await;
    assert_eq!(tasks(), 0, "no task");
    assert!(fetched.load(Ordering::SeqCst) >= 1000);
    assert_eq!(dropped.load(Ordering::SeqCst), fetched.load(Ordering::SeqCst), "no future");
    assert_eq!(Arc::strong_count(&sources), 1, "no source, and so no cache: it owns it");
}

/// The timer of `keep_warm` also stops, in the middle of a token's lifetime.
#[tokio::test(start_paused = true)]
async fn with_the_last_handle_goes_the_timer() {
    let world = World::with(|builder| builder.keep_warm());
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 1);
    let World { server, api: _, layer, client, .. } = world;
    drop(layer);
    assert_eq!(tasks(), 1);
    drop(client);
    settle().await;
    assert_eq!(tasks(), 0);
    pass(Duration::from_secs(86_400)).await;
    assert_eq!(server.requests(), 1);
}
