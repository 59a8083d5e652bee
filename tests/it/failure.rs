//! Failed renewals, by error class: how often they are retried, what is remembered, and for how
//! long. Also the issuance budget.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::StatusCode;
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, TokenCache, TokenError,
    credentials::RotatingSecret,
    source_fn,
    testing::{Answer, ManualClock},
};

use crate::kit::{World, millis, pass, secs, settle};

/// Checks that no call causes a token request before the time in `error`, and that the next one
/// then does.
async fn is_left_alone_until_retry_at(world: &World, error: &TokenError) {
    let requests = world.token_requests();
    let wait = error.retry_at().unwrap().duration_since(world.clock.wall()).unwrap();
    pass(wait - millis(1)).await;
    for _ in 0..10 {
        assert_eq!(world.error("/").await.retry_at(), error.retry_at());
    }
    assert_eq!(world.token_requests(), requests, "without I/O");
    pass(millis(1)).await;
    let _ = world.call("/").await;
    assert!(world.token_requests() > requests);
}

fn waits(world: &World, error: &TokenError) -> std::time::Duration {
    error.retry_at().unwrap().duration_since(world.clock.wall()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_in_seconds_and_as_a_date() {
    for as_date in [false, true] {
        let world = World::new();
        let value = if as_date { "Wed, 01 Jan 2025 00:00:20 GMT" } else { "20" };
        world.server.respond_once(Answer::too_many_requests(value));
        let error = world.error("/").await;
        assert_eq!(error.class(), ErrorClass::Throttled);
        assert!(error.is_throttled());
        assert_eq!(error.retry_after(), Some(secs(20)));
        assert_eq!(waits(&world, &error), secs(20));
        is_left_alone_until_retry_at(&world, &error).await;
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.server.requests(), 2);
    }
}

/// Throttling does not affect calls while the token is usable.
#[tokio::test(start_paused = true)]
async fn while_the_server_asks_for_patience_a_valid_token_is_served() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3280)).await;
    world.server.respond_once(Answer::too_many_requests("20"));
    for _ in 0..19 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(1)).await;
        assert_eq!(world.server.requests(), 2);
    }
    // Even if the token was rejected: the 401 is final, and no token is requested.
    world.server.revoke_all();
    assert_eq!(world.status("/").await, StatusCode::UNAUTHORIZED);
    assert_eq!(world.server.requests(), 2);
    pass(secs(2)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_a_day_is_capped_at_a_quarter_of_an_hour() {
    for value in ["86400", "Thu, 02 Jan 2025 00:00:00 GMT", "99999999999999999999"] {
        let world = World::new();
        world.server.respond_once(Answer::too_many_requests(value));
        let error = world.error("/").await;
        assert_eq!(waits(&world, &error), secs(900), "{value}");
        is_left_alone_until_retry_at(&world, &error).await;
    }
    // A 503 with Retry-After behaves the same; without it, it is like any other 5xx.
    let world = World::new();
    world.server.respond_once(Answer::unavailable().with_header("retry-after", "30"));
    let error = world.error("/").await;
    assert_eq!((error.class(), waits(&world, &error)), (ErrorClass::Throttled, secs(30)));
}

/// API gateways limit token endpoints, too, and many have no `Retry-After`.
#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_retry_after_is_waited_for_within_the_same_cap() {
    let end = |world: &World, seconds| {
        let end = world.clock.wall() + secs(seconds);
        end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string()
    };
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        for name in ["X-RateLimit-Reset", "X-Rate-Limit-Reset", "RateLimit-Reset", "RateLimit"] {
            for (delay, waited) in [(40, 40), (86_400, 900)] {
                for is_epoch in [true, false] {
                    let world = World::new();
                    let value = if is_epoch { end(&world, delay) } else { delay.to_string() };
                    let value = match name {
                        "RateLimit" => format!("\"default\";r=0;t={value}"),
                        _ => value,
                    };
                    world.server.respond_once(Answer::status(status).with_header(name, &value));
                    let error = world.error("/").await;
                    assert_eq!(error.class(), ErrorClass::Throttled);
                    assert_eq!(waits(&world, &error), secs(waited), "{status} {name}: {value}");
                    is_left_alone_until_retry_at(&world, &error).await;
                }
            }
        }
    }
}

/// Guards against an error that names a time in the past: the monotonic clock stops while its host
/// is suspended.
#[tokio::test(start_paused = true)]
async fn a_host_that_slept_through_the_backoff_asks_at_once() {
    let world = World::new();
    world.server.respond_once(Answer::too_many_requests("900"));
    assert_eq!(waits(&world, &world.error("/").await), secs(900));
    world.clock.suspend(secs(899));
    world.error("/").await;
    assert_eq!(world.server.requests(), 1);
    world.clock.suspend(secs(1));
    assert_eq!(world.status("/").await, StatusCode::OK);
    // A token in its soft window is also renewed again.
    pass(secs(3280)).await;
    world.server.respond_once(Answer::too_many_requests("100"));
    let mut client = world.client.clone();
    for (slept, requests) in [(0, 3), (0, 3), (99, 3), (1, 4)] {
        world.clock.suspend(secs(slept));
        let call = tower::ServiceExt::oneshot(&mut client, crate::kit::get("/"));
        assert_eq!(call.await.unwrap().status(), StatusCode::OK);
        settle().await;
        assert_eq!(world.server.requests(), requests);
    }
}

/// A short Retry-After is waited for within the renewal.
#[tokio::test(start_paused = true)]
async fn a_retry_after_of_up_to_five_seconds_is_waited_for() {
    let world = World::new();
    world.server.respond_once(Answer::too_many_requests("5"));
    let before = world.clock.wall();
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.clock.wall().duration_since(before).unwrap(), secs(5));
    assert_eq!(world.server.requests(), 2);
    let world = World::new();
    world.server.respond_once(Answer::too_many_requests("6"));
    assert_eq!(waits(&world, &world.error("/").await), secs(6));
}

/// Guards against a stream of requests to a server that throttles with `Retry-After: 0`, or with a
/// date that is in the past by the client's clock.
#[tokio::test(start_paused = true)]
async fn a_retry_after_that_has_passed_is_no_leave_to_ask_at_every_call() {
    for value in ["0", "Tue, 31 Dec 2024 23:59:59 GMT"] {
        let world = World::new();
        world.server.script((0..1000).map(|_| Answer::too_many_requests(value)));
        for _ in 0..600 {
            world.error("/").await;
            pass(millis(100)).await;
        }
        let requests = world.server.requests();
        // Renewals at 0, 5, 15 and 35 s, with three attempts each.
        assert!(requests <= 12, "{requests} requests in a minute, {value}");
    }
}

/// Without a Retry-After, the backoff is 5 s, doubling, at most 120 s.
#[tokio::test(start_paused = true)]
async fn without_retry_after_a_429_is_remembered_for_five_seconds_and_doubling() {
    let world = World::new();
    world.server.script((0..100).map(|_| Answer::status(StatusCode::TOO_MANY_REQUESTS)));
    for (round, expected) in [5, 10, 20, 40, 80, 120, 120].into_iter().enumerate() {
        let error = world.error("/").await;
        assert_eq!(waits(&world, &error), secs(expected));
        assert_eq!(world.server.requests(), round + 1, "one attempt");
        pass(secs(expected)).await;
    }
}

/// A source with its own budget is treated alike. Guards against a source that is called by every
/// request.
#[tokio::test(start_paused = true)]
async fn a_budget_that_the_source_keeps_is_remembered_for_five_seconds_and_doubling() {
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            async { Err(TokenError::new(ErrorClass::Budget, "no more tokens today")) }
        })
    };
    let clock = ManualClock::new();
    let cache = Builder::from_source(source).clock(clock.clone()).build().unwrap().cache();
    for (number, wait) in [5, 10, 20, 40, 80, 120, 120].into_iter().enumerate() {
        for _ in 0..100 {
            let error = cache.token().await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Budget);
            assert_eq!(error.retry_at(), Some(clock.wall() + secs(wait)));
        }
        assert_eq!(asked.load(Ordering::SeqCst), number + 1);
        pass(secs(wait)).await;
    }
}

/// Guards against the lockout of a client with a wrong secret.
#[tokio::test(start_paused = true)]
async fn an_invalid_client_is_asked_for_once_until_its_secret_changes() {
    let secret = RotatingSecret::new("test-client", "wrong");
    let world = World::with_credentials(secret.clone());
    let error = world.error("/").await;
    assert_eq!(error.class(), ErrorClass::Credentials);
    assert!(error.is_rejected());
    assert_eq!(error.oauth_error(), Some("invalid_client"));
    assert_eq!(waits(&world, &error), secs(30));
    for result in world.crowd(1000).await {
        assert_eq!(result.unwrap_err().retry_at(), error.retry_at());
    }
    assert_eq!(world.server.requests(), 1, "one request");
    secret.set("test-secret");
    assert_eq!(world.status("/").await, StatusCode::OK, "forgotten at once");
    assert_eq!(world.server.requests(), 2);
}

/// The backoff is 30 s, doubling, at most ten minutes, with one request each.
#[tokio::test(start_paused = true)]
async fn an_invalid_client_is_remembered_ever_longer() {
    let world = World::with_credentials(RotatingSecret::new("test-client", "wrong"));
    for (round, expected) in [30, 60, 120, 240, 480, 600, 600].into_iter().enumerate() {
        let error = world.error("/").await;
        assert_eq!(waits(&world, &error), secs(expected));
        assert_eq!(world.server.requests(), round + 1);
        is_quiet(&world, expected).await;
    }
}

async fn is_quiet(world: &World, seconds: u64) {
    let requests = world.token_requests();
    pass(secs(seconds) - millis(1)).await;
    world.error("/").await;
    assert_eq!(world.token_requests(), requests);
    pass(millis(1)).await;
}

/// A secret that is rotated while the old one is refused is tried within the same renewal.
#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_during_the_refusal_is_tried_at_once() {
    let secret = RotatingSecret::new("test-client", "old");
    let world = World::with_credentials(secret.clone());
    world.server.delay_answers(secs(1));
    let call = tokio::spawn(world.call("/"));
    pass(millis(500)).await;
    secret.set("test-secret");
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_sent_once_a_minute() {
    for answer in [
        Answer::oauth_error(StatusCode::BAD_REQUEST, "invalid_scope", "unknown scope"),
        Answer::oauth_error(StatusCode::BAD_REQUEST, "invalid_target", "?"),
        Answer::status(StatusCode::NOT_FOUND),
        Answer::status(StatusCode::FOUND).with_header("location", "https://elsewhere.example/"),
    ] {
        let world = World::new();
        world.server.script((0..3).map(|_| answer.clone()));
        for round in 1..=3 {
            let error = world.error("/").await;
            assert_eq!(error.class(), ErrorClass::Request, "{error}");
            assert_eq!(waits(&world, &error), secs(60));
            assert_eq!(world.server.requests(), round);
            is_quiet(&world, 60).await;
        }
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
}

/// Two attempts after a response that cannot be parsed, then a backoff of 5 s, doubling, at most 60
/// s.
#[tokio::test(start_paused = true)]
async fn a_malformed_answer_is_asked_for_twice() {
    let world = World::new();
    world.server.script((0..100).map(|_| Answer::html(StatusCode::OK)));
    for (round, expected) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        let error = world.error("/").await;
        assert_eq!(error.class(), ErrorClass::Malformed, "{error}");
        assert_eq!(waits(&world, &error), secs(expected));
        assert_eq!(world.server.requests(), 2 * (round + 1));
        // The server may have counted them.
        assert_eq!(world.cache().issued(), 2 * (round as u64 + 1));
        is_quiet(&world, expected).await;
    }
    let world = World::new();
    world.server.respond_once(Answer::json(StatusCode::OK, "{}"));
    assert_eq!(world.status("/").await, StatusCode::OK, "the second attempt");
}

/// Three attempts with pauses of up to 200 ms and 800 ms, then a backoff of 1 s ±20 %, doubling, at
/// most 4 s, and one attempt in each later renewal.
#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_three_times_and_then_once_every_few_seconds() {
    let world = World::new();
    world.server.script((0..100).map(|_| Answer::unavailable()));
    for (round, base) in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0].into_iter().enumerate() {
        let before = world.clock.wall();
        let error = world.error("/").await;
        assert!(error.is_unreachable());
        assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
        let took = world.clock.wall().duration_since(before).unwrap();
        assert!(took <= secs(1) + millis(10), "{took:?}");
        let wait = waits(&world, &error).as_secs_f64();
        let least = (base * 0.8_f64).min(4.0 * 0.6);
        assert!(wait >= least - 1e-6 && wait <= (base * 1.2_f64).min(4.0), "{round}: {wait}");
        assert_eq!(world.server.requests(), 3 + round);
        pass(waits(&world, &error)).await;
    }
}

/// Guards against failures of one class that count towards another, and failures that are never
/// forgotten.
#[tokio::test(start_paused = true)]
async fn the_backoff_starts_again_after_a_token_and_for_another_class() {
    let world = World::new();
    world.server.issue_for(secs(10));
    let too_many = || Answer::status(StatusCode::TOO_MANY_REQUESTS);
    world.server.script([too_many(), too_many(), Answer::html(StatusCode::NOT_FOUND), too_many()]);
    for expected in [5, 10, 60, 5] {
        let error = world.error("/").await;
        assert_eq!(waits(&world, &error), secs(expected));
        pass(secs(expected)).await;
    }
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(10)).await;
    world.server.respond_once(too_many());
    assert_eq!(waits(&world, &world.error("/").await), secs(5));
    assert!(world.cache().last_error().is_some());
    pass(secs(5)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert!(world.cache().last_error().is_none());
}

/// Background renewals and renewals after a 401 yield first when the budget runs low.
#[tokio::test(start_paused = true)]
async fn a_fifth_of_the_budget_is_kept_for_calls_that_have_no_token() {
    let world = World::with(|builder| builder.issuance_budget(10, secs(86_400)));
    assert_eq!(world.status("/").await, StatusCode::OK);
    for issued in 2..=8 {
        world.server.revoke_all();
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.cache().issued(), issued);
    }
    // Eight of ten are used: no more optional requests, neither after a 401,
    world.server.revoke_all();
    let response = world.call("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let reason = response.extensions().get::<tower_oauth2_client_credentials::NotReplaced>();
    let error = reason.unwrap().error().unwrap().clone();
    assert_eq!(error.class(), ErrorClass::Budget);
    assert_eq!(waits(&world, &error), secs(86_400));
    // nor in the soft window, nor in the margin, since the token is usable.
    for _ in 0..3_599 {
        assert!(world.cache().token().await.is_ok());
        pass(secs(1)).await;
    }
    assert_eq!(world.cache().issued(), 8, "the reserve is for calls that have no token at all");
    pass(secs(1)).await;
    // Two are reserved for calls without a token.
    for issued in [9, 10] {
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.cache().issued(), issued);
        pass(secs(3600)).await;
    }
    let error = world.error("/").await;
    assert_eq!(error.class(), ErrorClass::Budget);
    assert!(error.is_throttled());
    let left = secs(86_400 - 3 * 3600);
    assert_eq!(waits(&world, &error), left, "when the next token may be asked for");
    assert_eq!(world.server.requests(), 10);
    pass(left).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!((world.cache().issued(), world.server.issued()), (11, 11));
}

/// The timer serves no call, so it cannot use the reserve.
#[tokio::test(start_paused = true)]
async fn a_warm_cache_leaves_the_reserve_of_the_budget_alone() {
    let world = World::with(|builder| builder.keep_warm().issuance_budget(10, secs(86_400)));
    world.server.issue_for(secs(600));
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(80_000)).await;
    assert_eq!(world.server.requests(), 8);
    // A call gets one of the two remaining tokens.
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 9);
    pass(secs(20_000)).await;
    assert!(world.server.requests() > 9, "a new day: the timer goes on");
    settle().await;
}

/// Tokens are counted even without a budget.
#[tokio::test(start_paused = true)]
async fn tokens_are_counted_and_without_a_budget_not_limited() {
    let world = World::new();
    world.server.issue_for(secs(60));
    for issued in 1..=200 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.cache().issued(), issued);
        pass(secs(60)).await;
    }
    assert_eq!(world.server.issued(), 200);
}

/// Guards against a refusal that is remembered although the secret has changed, if a later secret
/// was refused in between.
#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_again_during_the_refusal_is_tried_at_the_next_call() {
    let secret = RotatingSecret::new("test-client", "old");
    let world = World::with_credentials(secret.clone());
    world.server.delay_answers(secs(1));
    let call = tokio::spawn(world.call("/"));
    pass(millis(500)).await;
    secret.set("as wrong");
    pass(secs(1)).await;
    assert_eq!(world.server.requests(), 2, "the second attempt is in flight");
    secret.set("test-secret");
    assert!(call.await.unwrap().is_err());
    assert_eq!(world.status("/").await, StatusCode::OK, "at once");
    assert_eq!(world.server.requests(), 3);
}

/// Requests that are slow are not given up, and must not pile up either.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_has_three_requests_in_flight_and_no_more() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending()
    });
    let builder = TokenCache::builder_from(source);
    let builder = builder.attempt_timeout(secs(1)).renewal_timeout(secs(30));
    let cache = builder.build().unwrap();
    let error = cache.token().await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

/// Two that fail, and three that hang.
#[tokio::test(start_paused = true)]
async fn no_renewal_has_more_than_five_requests() {
    let numbers = Arc::new(std::sync::Mutex::new(Vec::new()));
    let source = {
        let numbers = Arc::clone(&numbers);
        source_fn(move |attempt| {
            numbers.lock().unwrap().push(attempt.number());
            async move {
                if attempt.number() > 2 {
                    std::future::pending::<()>().await;
                }
                Err(TokenError::new(ErrorClass::Transient, "down"))
            }
        })
    };
    let cache = TokenCache::builder_from(source).attempt_timeout(secs(1)).build().unwrap();
    cache.token().await.unwrap_err();
    assert_eq!(*numbers.lock().unwrap(), [1, 2, 3, 4, 5]);
}

/// A throttled server gets three requests per renewal, and no more.
#[tokio::test(start_paused = true)]
async fn a_short_retry_after_is_waited_for_twice_in_one_renewal() {
    let world = World::new();
    world.server.script((0..3).map(|_| Answer::too_many_requests("2")));
    let before = world.clock.wall();
    let error = world.error("/").await;
    assert_eq!(world.clock.wall().duration_since(before).unwrap(), secs(4));
    assert_eq!((world.server.requests(), waits(&world, &error)), (3, secs(2)));
}

/// The reserve of the budget also serves a caller whose 401 came so late that no token is usable.
#[tokio::test(start_paused = true)]
async fn a_late_rejection_without_a_usable_token_may_use_the_reserve() {
    let world = World::with(|builder| builder.issuance_budget(5, secs(86_400)));
    let mut cache = world.cache();
    let first = cache.token().await.unwrap();
    world.server.issue_for(secs(20));
    for _ in 2..=4 {
        let token = cache.peek().unwrap().clone();
        let newer = cache.rejected(&token).await.unwrap();
        cache.accepted(&newer);
    }
    pass(secs(20)).await;
    assert!(cache.rejected(&first).await.is_ok());
    assert_eq!(cache.issued(), 5);
}
