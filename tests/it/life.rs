//! The lifetime of a token: when it is renewed, by which clock, and what happens while the
//! authorization server is down.

use http::StatusCode;
use tower_oauth2_client_credentials::{
    Builder, TokenCache, TokenResponse, source_fn,
    testing::{Answer, ManualClock},
};

use crate::kit::{Watchdog, World, millis, pass, secs, settle, within};

#[tokio::test(start_paused = true)]
async fn five_minutes_at_a_hundred_calls_a_second_cost_a_token_every_three_minutes_at_the_most() {
    let world = World::new();
    world.server.issue_for(secs(300));
    let started = world.clock.elapsed();
    let mut asked = Vec::new();
    for _ in 0..15 * 60 * 100 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        if world.server.requests() > asked.len() {
            asked.push(world.clock.elapsed() - started);
        }
        pass(millis(10)).await;
    }
    assert!((4..=6).contains(&asked.len()), "{asked:?}");
    for pair in asked.windows(2) {
        let apart = pair[1] - pair[0];
        // The soft point is at 180 to 210 s.
        assert!(apart >= secs(180) && apart <= millis(210_100), "{asked:?}");
    }
    world.assert_no_expired_token_went_out();
}

/// Guards against renewals on every call, or in a loop, because the margin exceeds the token's
/// lifetime.
#[tokio::test(start_paused = true)]
async fn short_lifetimes_cause_no_loop_and_no_expired_token() {
    for (lifetime, least_apart) in [(10, millis(4_500)), (2, millis(900)), (1, millis(450))] {
        let world = World::new();
        world.server.issue_for(secs(lifetime));
        for _ in 0..6_000 {
            assert_eq!(world.status("/").await, StatusCode::OK);
            pass(millis(10)).await;
        }
        let most = 60_000 / u64::try_from(least_apart.as_millis()).unwrap() + 1;
        let issued = world.server.issued();
        assert!(issued <= most && issued >= 60 / lifetime, "{lifetime} s: {issued} tokens");
        world.assert_no_expired_token_went_out();
    }
}

/// A token with `expires_in: 0` serves the waiting callers, and is not cached.
#[tokio::test(start_paused = true)]
async fn a_token_without_a_lifetime_serves_those_who_wait_and_nobody_else() {
    let world = World::new();
    world.server.announce_expires_in("0");
    world.server.delay_answers(secs(1));
    for round in 1..=5 {
        let results = world.crowd(100).await;
        assert!(results.iter().all(|result| matches!(result, Ok(StatusCode::OK))));
        assert_eq!(world.server.requests(), round, "one for all who wait");
        assert!(world.cache().peek().is_none(), "not kept");
        pass(secs(60)).await;
        assert_eq!(world.server.requests(), round, "none without a call");
    }
}

/// The behavior that `try_token` documents.
#[tokio::test(start_paused = true)]
async fn who_does_not_wait_gets_no_token_without_a_lifetime() {
    let world = World::new();
    world.server.issue_for(secs(0));
    let mut cache = world.cache();
    for round in 1..=5 {
        assert!(cache.try_token().unwrap().is_none());
        settle().await;
        assert_eq!(world.server.requests(), round);
    }
    assert!(cache.token().await.is_ok());
}

/// Guards against a stream of token requests if a server that issued tokens with a lifetime starts
/// to answer `expires_in: 0`: the cached token stays due for renewal.
#[tokio::test(start_paused = true)]
async fn a_server_that_turns_to_tokens_without_lifetime_is_not_asked_at_every_call() {
    for warm in [false, true] {
        let world = World::with(|builder| if warm { builder.keep_warm() } else { builder });
        assert_eq!(world.status("/").await, StatusCode::OK);
        world.server.announce_expires_in("0");
        for second in 0..3600 {
            assert_eq!(world.status("/").await, StatusCode::OK);
            let asked = world.server.requests();
            assert!(asked <= 3, "{asked} after {second} s, keep_warm: {warm}");
            pass(secs(1)).await;
        }
        // From here on each call needs its own token, and without a call none is requested.
        let asked = world.server.requests();
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.server.requests(), asked + 1);
        pass(secs(3600)).await;
        assert_eq!(world.server.requests(), asked + 1, "keep_warm: {warm}");
    }
}

/// Guards against a call that never ends because each new token has expired on arrival.
#[tokio::test(start_paused = true)]
async fn tokens_that_expire_before_they_arrive_are_an_error_and_no_loop() {
    let world = World::new();
    world.server.issue_for(secs(2));
    world.server.delay_answers(secs(3));
    let error = world.error("/").await;
    assert!(error.to_string().contains("expired"), "{error}");
    assert!(error.retry_at().is_some(), "and it is remembered");
    assert!(world.server.requests() <= 3, "{}", world.server.requests());
    assert_eq!(world.api.calls(), 0);
    // The server is fast again.
    world.server.delay_answers(millis(100));
    pass(secs(2)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
}

/// A token that arrives late but valid, within its margin, is used until it expires.
#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_inside_its_margin_is_used() {
    let world = World::new();
    world.server.issue_for(secs(4));
    world.server.delay_answers(millis(3_500));
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 1);
    let before = world.clock.wall();
    for _ in 0..3 {
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
    settle().await;
    assert_eq!(world.clock.wall(), before, "nobody waits for the next");
    assert_eq!(world.server.requests(), 2);
    world.assert_no_expired_token_went_out();
}

/// A server that returns the same token with its remaining lifetime is asked once more in the
/// background, half a minute before the end. The token is then used until it expires.
#[tokio::test(start_paused = true)]
async fn a_server_that_hands_out_the_same_token_again_is_not_asked_in_a_loop() {
    for warm in [false, true] {
        let world = World::with(|builder| if warm { builder.keep_warm() } else { builder });
        assert_eq!(world.status("/").await, StatusCode::OK);
        world.server.repeat_token();
        for _ in 0..3_590 {
            pass(secs(1)).await;
            assert_eq!(world.status("/").await, StatusCode::OK);
        }
        assert_eq!(world.server.requests(), 3, "keep_warm: {warm}");
        world.server.issue_new_tokens();
        pass(secs(20)).await;
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.server.requests(), 4, "keep_warm: {warm}");
        world.assert_no_expired_token_went_out();
    }
}

/// Guards against all callers waiting once an hour for a server that returns the same token until
/// some minutes before its end: the background renewal comes too early for it.
#[tokio::test(start_paused = true)]
async fn a_server_that_has_a_newer_token_only_near_the_end_makes_nobody_wait() {
    for rejected_early in [false, true] {
        let world = World::new();
        assert_eq!(world.status("/").await, StatusCode::OK);
        world.server.delay_answers(secs(2));
        for hour in 1..=3 {
            world.server.repeat_token();
            let mut new_tokens = false;
            if rejected_early {
                let token = world.cache().peek().unwrap().clone();
                assert!(world.cache().rejected(&token).await.unwrap_err().is_futile());
            }
            while world.server.requests() < 1 + 2 * hour || !new_tokens {
                let end = world.cache().peek().map(|token| token.expires_at().unwrap());
                let left =
                    end.map_or(secs(0), |end| end.duration_since(world.clock.wall()).unwrap());
                if left < secs(120) && !new_tokens {
                    assert_eq!(world.server.requests(), 2 * hour, "it has been asked, too early");
                    world.server.issue_new_tokens();
                    new_tokens = true;
                }
                let before = world.clock.wall();
                assert_eq!(world.status("/").await, StatusCode::OK);
                assert_eq!(world.clock.wall(), before, "in hour {hour}, {left:?} before the end");
                pass(secs(1)).await;
            }
            // Until the previous token has expired.
            pass(secs(32)).await;
        }
    }
}

/// Guards against a call that fails, or waits for a renewal, although the token is still valid.
#[tokio::test(start_paused = true)]
async fn two_minutes_without_a_server_inside_the_soft_window_fail_no_call() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3275)).await;
    world.server.down();
    for _ in 0..120 {
        let before = world.clock.wall();
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.clock.wall(), before, "nobody waits");
        pass(secs(1)).await;
    }
    assert!(world.server.refused_connections() <= 3 * 8, "the backoff was kept");
    world.server.up();
    pass(secs(61)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    assert_eq!(world.cache().issued(), 2);
    assert!(world.api.journal().iter().all(|call| call.is_authorized()));
}

/// The same holds in the margin, up to the last second.
#[tokio::test(start_paused = true)]
async fn a_token_is_used_to_its_true_end_when_there_is_no_other_and_never_past_it() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3200)).await;
    world.server.down();
    // 3,590 s in which no call takes longer than the attempts of a renewal.
    while world.clock.elapsed() < secs(3590) {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(1)).await;
    }
    pass(secs(12)).await;
    let (calls, mut slept) = (world.api.calls(), 0);
    let retry_at = loop {
        let error = world.error("/").await;
        assert!(error.is_unreachable() && error.retry_at().is_some());
        if slept == 300 {
            break error.retry_at().unwrap();
        }
        pass(secs(1)).await;
        slept += 1;
    };
    assert_eq!(world.api.calls(), calls, "no expired token on the wire, and nothing else");
    world.server.up();
    assert!(world.clock.wall() < retry_at);
    let error = world.error("/").await;
    assert_eq!(error.retry_at(), Some(retry_at), "not before the backoff ends");
    pass(retry_at.duration_since(world.clock.wall()).unwrap()).await;
    assert_eq!(world.status("/").await, StatusCode::OK, "the next call after it");
    world.assert_no_expired_token_went_out();
}

/// Guards against a token that expires unnoticed while the host is suspended, because the monotonic
/// clock stops.
#[tokio::test(start_paused = true)]
async fn a_host_that_slept_for_two_hours_renews_before_the_first_call() {
    let world = World::new();
    let mut cache = world.cache();
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert!(cache.peek().is_some());
    world.clock.suspend(secs(7200));
    assert!(cache.peek().is_none(), "the handle's own copy is checked by both clocks");
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
    assert_eq!(world.api.rejected(), 0);
    world.assert_no_expired_token_went_out();
}

/// The same holds for the copy that a service keeps.
#[tokio::test(start_paused = true)]
async fn a_client_that_slept_with_its_copy_of_the_token_renews_before_the_first_call() {
    use tower::ServiceExt;

    let world = World::new();
    let mut client = world.client.clone();
    for slept in [0, 0, 7200, 0, 7200] {
        world.clock.suspend(secs(slept));
        let response = (&mut client).oneshot(crate::kit::get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(world.server.requests(), 3);
    world.assert_no_expired_token_went_out();
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_steps_back_changes_nothing_and_one_that_steps_forward_costs_one_renewal()
{
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.clock.step_wall_back(secs(86_400));
    for _ in 0..32 {
        pass(secs(100)).await;
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
    assert_eq!(world.server.requests(), 1, "nothing");
    pass(secs(75)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    assert_eq!(world.server.requests(), 2, "renewed in time, by the monotonic clock");

    world.clock.step_wall_forward(secs(10 * 86_400));
    for _ in 0..30 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(100)).await;
    }
    assert_eq!(world.server.requests(), 3);
    world.assert_no_expired_token_went_out();
}

#[tokio::test(start_paused = true)]
async fn a_process_may_start_before_its_authorization_server() {
    let world = World::new();
    world.server.down();
    let started = world.clock.wall();
    let error = world.error("/").await;
    let took = world.clock.wall().duration_since(started).unwrap();
    assert!(took <= secs(3), "it failed after {took:?}");
    assert!(error.is_unreachable() && error.retry_at().is_some());
    assert!(error.to_string().contains("no answer came"), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "the cause is kept");
    for _ in 0..100 {
        world.error("/").await;
    }
    assert_eq!(world.server.refused_connections(), 3);
    assert_eq!(world.api.calls(), 0);
    world.server.up();
    pass(millis(1_200)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.cache().issued(), 1);
}

/// Guards against a thundering herd: a fleet whose hosts all renew in the same second.
#[tokio::test(start_paused = true)]
async fn a_thousand_caches_spread_their_renewals_and_none_rolls_the_dice_again() {
    let _limit = Watchdog::start(secs(300));
    let clock = ManualClock::new();
    let caches: Vec<TokenCache> = (0..1000)
        .map(|seed| {
            let source =
                source_fn(|_| async { Ok(TokenResponse::bearer("t")?.expires_in(secs(3600))) });
            Builder::from_source(source)
                .clock(clock.clone())
                .jitter_seed(seed)
                .build()
                .unwrap()
                .cache()
        })
        .collect();
    for cache in &caches {
        cache.token().await.unwrap();
    }
    // Checked every second: a jitter drawn on every check would end at its earliest moment.
    pass(secs(3200)).await;
    let mut renewed_at = vec![0; 1000];
    for second in 3200..3280_usize {
        for (cache, renewed_at) in caches.iter().zip(&mut renewed_at) {
            if *renewed_at == 0 {
                cache.token().await.unwrap();
                settle_one().await;
                if cache.issued() == 2 {
                    *renewed_at = second;
                }
            }
        }
        pass(secs(1)).await;
    }
    assert!(renewed_at.iter().all(|second| (3210..=3270).contains(second)));
    for bucket in 0..6 {
        let range = 3210 + bucket * 10..3220 + bucket * 10;
        let count = renewed_at.iter().filter(|second| range.contains(*second)).count();
        assert!((110..=225).contains(&count), "{count} in {range:?}");
    }
}

/// Lets one renewal complete that is answered immediately.
async fn settle_one() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// Unseeded caches differ as well.
#[tokio::test(start_paused = true)]
async fn caches_that_are_not_seeded_do_not_all_renew_at_once() {
    let clock = ManualClock::new();
    let mut renewed = 0;
    for _ in 0..100 {
        let source =
            source_fn(|_| async { Ok(TokenResponse::bearer("t")?.expires_in(secs(3600))) });
        let cache = Builder::from_source(source).clock(clock.clone()).build().unwrap().cache();
        cache.token().await.unwrap();
        tokio::time::advance(secs(3240)).await;
        cache.token().await.unwrap();
        settle().await;
        renewed += cache.issued() - 1;
    }
    assert!((20..=80).contains(&renewed), "{renewed} of 100 in the first half of the jitter");
}

/// With `keep_warm`, the token is renewed in time even without calls.
#[tokio::test(start_paused = true)]
async fn a_warm_cache_renews_without_a_call_and_a_cold_one_does_not() {
    let warm = World::with(|builder| builder.keep_warm());
    let cold = World::new();
    pass(secs(7200)).await;
    assert_eq!(warm.token_requests(), 0, "nothing before the first call");
    for world in [&warm, &cold] {
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
    for _ in 0..24 {
        pass(secs(3600)).await;
        assert!(warm.cache().peek().is_some());
    }
    assert!((26..=28).contains(&warm.server.requests()), "{}", warm.server.requests());
    assert_eq!(cold.server.requests(), 1);
    let before = warm.clock.wall();
    assert_eq!(warm.status("/").await, StatusCode::OK);
    assert_eq!(warm.clock.wall(), before);
}

/// `keep_warm` notices that the host was suspended, and respects the backoff.
#[tokio::test(start_paused = true)]
async fn a_warm_cache_wakes_with_its_host_and_keeps_to_the_backoff() {
    let world = World::with(|builder| builder.keep_warm());
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.clock.suspend(secs(7200));
    pass(secs(31)).await;
    assert_eq!(world.server.requests(), 2);
    world.server.down();
    pass(secs(7200)).await;
    let refused = world.server.refused_connections();
    assert!((50..=85).contains(&refused), "one attempt a minute: {refused}");
    world.server.up();
    pass(secs(61)).await;
    assert!(world.cache().peek().is_some());
}

/// Guards against a busy loop of the timer when renewals fail without leaving a time to wait for.
#[tokio::test(start_paused = true)]
async fn a_warm_cache_whose_source_panics_does_not_spin() {
    let _limit = Watchdog::start(secs(300));
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&asked);
    let source = source_fn(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(n == 0 || n > 200, "on purpose");
        async move { Ok(TokenResponse::bearer(format!("t{n}"))?.expires_in(secs(300))) }
    });
    let clock = ManualClock::new();
    let cache =
        Builder::from_source(source).clock(clock.clone()).keep_warm().build().unwrap().cache();
    cache.token().await.unwrap();
    within(secs(1000), pass(secs(600))).await;
    let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!((5..=20).contains(&asked), "asked {asked} times in ten minutes");
}

/// Every announced lifetime is read safely, whatever its value.
#[tokio::test(start_paused = true)]
async fn absurd_lifetimes_cause_neither_panic_nor_loop() {
    for (announced, requests) in [
        ("-1", 2..=50),
        ("1e300", 1..=1),
        ("99999999999999999999999", 1..=1),
        ("\"-9223372036854775808\"", 2..=50),
        ("0.5", 2..=50),
        ("null", 1..=1),
    ] {
        let world = World::new();
        world.server.announce_expires_in(announced);
        for _ in 0..50 {
            assert_eq!(world.status("/").await, StatusCode::OK, "{announced}");
            pass(secs(1)).await;
        }
        assert!(requests.contains(&world.server.requests()), "{announced}");
    }
    let world = World::new();
    world.server.respond_once(Answer::json(
        StatusCode::OK,
        r#"{"access_token":"x","token_type":"bearer","expires_in":1e400}"#,
    ));
    assert!(within(secs(1), world.cache().token()).await.is_ok());
}

/// Guards against a service that adopts its clone's token with the expiry of the previous one.
#[tokio::test(start_paused = true)]
async fn a_token_that_a_service_has_from_its_clone_ends_when_it_ends() {
    use tower::ServiceExt;

    let world = World::new();
    let mut client = world.client.clone();
    for _ in 0..2 {
        let response = (&mut client).oneshot(crate::kit::get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    // The next token has a short lifetime, and a clone gets it first.
    world.server.issue_for(secs(20));
    world.server.revoke_all();
    let mut clone = client.clone();
    for _ in 0..2 {
        let response = (&mut clone).oneshot(crate::kit::get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!((&mut client).oneshot(crate::kit::get("/")).await.unwrap().status(), StatusCode::OK);
    let rejected = world.api.rejected();
    pass(secs(21)).await;
    assert_eq!((&mut client).oneshot(crate::kit::get("/")).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.api.rejected(), rejected, "an expired token went out");
    assert_eq!(world.server.requests(), 3);
}

/// Guards against a wait once per token lifetime for a server that extends the token it has issued.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_prolonged_is_asked_for_in_the_background_each_time() {
    let _limit = Watchdog::start(secs(300));
    let clock = ManualClock::new();
    let source = source_fn(|_| async {
        tokio::time::sleep(secs(1)).await;
        Ok(TokenResponse::bearer("t")?.expires_in(secs(3600)))
    });
    let cache = Builder::from_source(source).clock(clock.clone()).build().unwrap().cache();
    cache.token().await.unwrap();
    for issued in 2..=4 {
        pass(secs(3280)).await;
        let before = clock.wall();
        cache.token().await.unwrap();
        assert_eq!(clock.wall(), before, "nobody waits");
        pass(secs(2)).await;
        assert_eq!(cache.issued(), issued);
    }
}

/// Guards against a timer that checks again after half a minute although the backoff ends after a
/// second.
#[tokio::test(start_paused = true)]
async fn a_warm_cache_asks_again_when_the_backoff_ends() {
    let world = World::with(|builder| builder.keep_warm());
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.script((0..3).map(|_| Answer::unavailable()));
    while world.server.requests() < 4 {
        pass(millis(100)).await;
    }
    let failed = world.clock.wall();
    while world.server.requests() < 5 {
        pass(millis(100)).await;
    }
    let waited = world.clock.wall().duration_since(failed).unwrap();
    assert!(waited <= secs(2), "{waited:?}");
    settle().await;
    assert_eq!(world.cache().issued(), 2);
}

/// Guards against sending an expired token because the call waited for the inner service after it
/// got the token.
#[tokio::test(start_paused = true)]
async fn a_token_that_expires_while_the_inner_service_is_not_ready_does_not_go_out() {
    use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};

    type Get = http::Request<http_body_util::Full<bytes::Bytes>>;

    let world = World::new();
    let limit = ConcurrencyLimit::new(world.api.service(), 1);
    let mut client = world.layer.layer(limit.clone());
    world.server.delay_answers(secs(1));
    let ready = ServiceExt::<Get>::ready(&mut client).await.unwrap();
    let call = tokio::spawn(ready.call(crate::kit::get("/")));
    settle().await;
    // The permit that the call gave up while it waited for the token goes to another call.
    let mut other = limit.clone();
    let ready = ServiceExt::<Get>::ready(&mut other);
    within(secs(1), ready).await.unwrap();
    pass(secs(3602)).await;
    assert_eq!((world.server.requests(), world.api.calls()), (1, 0));
    drop(other);
    assert_eq!(within(secs(10), call).await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!((world.server.requests(), world.api.calls()), (2, 1));
    world.assert_no_expired_token_went_out();
}
