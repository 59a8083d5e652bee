//! A 401: when it forces a renewal, when it joins one, when it stands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "also the helpers of tests"
)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{Empty, Full};
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, NotReplaced, TokenResponse, source_fn,
    testing::{Answer, ManualClock, ProtectedApi},
};

use crate::kit::{
    ApiResponse, INVALID_TOKEN, Watchdog, World, get, millis, pass, poll_once, secs, settle, within,
};

/// Row 7. Pins a renewal for each 401, and the replay that a newer token is held against.
#[tokio::test(start_paused = true)]
async fn a_token_revoked_with_500_calls_in_flight_costs_one_renewal_and_no_failure() {
    for challenge in [Answer::status(StatusCode::UNAUTHORIZED), Answer::challenge(INVALID_TOKEN)] {
        let world = World::new();
        world.api.reject_with(challenge);
        assert_eq!(world.status("/").await, StatusCode::OK);
        world.server.delay_answers(millis(200));
        world.api.hold();
        let calls: Vec<_> = (0..500).map(|_| tokio::spawn(world.call("/"))).collect();
        world.api.held(500).await;
        world.server.revoke_all();
        world.api.release();
        for call in calls {
            assert_eq!(within(secs(5), call).await.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert_eq!(world.server.requests(), 2);
        assert_eq!(world.api.calls(), 1 + 500 + 500);
    }
}

/// Row 8. Pins the good token that is thrown away because of an answer to an older one.
#[tokio::test(start_paused = true)]
async fn a_late_401_for_an_older_token_is_replayed_with_the_current_one_without_a_renewal() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let late = tokio::spawn(world.call("/late"));
    world.api.held(1).await;
    world.server.revoke_all();
    // Others have it renewed in the meantime.
    let mut cache = world.cache();
    let token = cache.peek().unwrap().clone();
    assert!(cache.rejected(&token).await.is_ok());
    pass(secs(1)).await;
    world.api.release();
    assert_eq!(late.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
    let journal = world.api.journal();
    let numbers: Vec<_> = journal.iter().map(|call| call.token_number().unwrap()).collect();
    assert_eq!(numbers, [1, 1, 2]);
}

/// Row 8: a renewal that was under way when its predecessor was rejected is joined.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_began_before_the_rejection_counts() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3280)).await;
    world.server.delay_answers(secs(2));
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(1)).await;
    assert_eq!(world.server.requests(), 2, "the soft renewal is under way");
    world.server.revoke(&{
        let token = world.cache().peek().unwrap().clone();
        token.expose_secret().to_owned()
    });
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 2);
}

/// Row 8: but a renewal whose token is itself rejected is no cure.
#[tokio::test(start_paused = true)]
async fn a_renewal_whose_own_token_is_rejected_does_not_count() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3280)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    assert_eq!(world.server.requests(), 2, "the soft renewal is done");
    world.server.revoke_all();
    assert_eq!(world.status("/").await, StatusCode::OK, "its token was rejected: another renewal");
    assert_eq!(world.server.requests(), 3);
}

/// How often an API was called, and with how many tokens it was. Whether it accepts is asked of
/// a function: a journal of millions of calls would be too long.
struct Api {
    calls: Arc<AtomicU64>,
}

type Call = Request<Empty<Bytes>>;

impl Api {
    fn new() -> Self {
        Self { calls: Arc::default() }
    }

    /// Counts, and answers as `accepts` says: 200, or a 401 with `challenge`.
    fn service<F>(&self, challenge: Option<&'static str>, accepts: F) -> Answering<F>
    where
        F: Fn(&Call) -> bool + Clone,
    {
        Answering { calls: Arc::clone(&self.calls), challenge, accepts }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Answering<F> {
    calls: Arc<AtomicU64>,
    challenge: Option<&'static str>,
    accepts: F,
}

impl<F: Fn(&Call) -> bool> Service<Call> for Answering<F> {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Empty<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Call) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Empty::new());
        if !(self.accepts)(&request) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            if let Some(challenge) = self.challenge {
                let value = HeaderValue::from_static(challenge);
                response.headers_mut().insert("www-authenticate", value);
            }
        }
        ready(Ok(response))
    }
}

/// A layer with tokens `t1`, `t2` and so on, each good for an hour.
fn numbered(
    clock: &ManualClock,
) -> (tower_oauth2_client_credentials::OAuthClientCredentialsLayer, Arc<AtomicU64>) {
    let issued = Arc::new(AtomicU64::new(0));
    let source = {
        let issued = Arc::clone(&issued);
        source_fn(move |_| {
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            async move { Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(secs(3600))) }
        })
    };
    (Builder::from_source(source).clock(clock.clone()).jitter_seed(7).build().unwrap(), issued)
}

fn number_of(call: &Call) -> u64 {
    call.headers()[AUTHORIZATION]
        .to_str()
        .unwrap()
        .strip_prefix("Bearer t")
        .unwrap()
        .parse()
        .unwrap()
}

fn to(path: &'static str) -> Call {
    Request::get(path).body(Empty::new()).unwrap()
}

/// How many calls stand for the 10,000 of each second, one after the other. With
/// `CALLS_PER_SECOND=10000` none is left out: 6 million a case, some minutes in all. Whatever the
/// number, a second has its 10,000 concurrent calls where a renewal may be forced: see `stampede`.
fn calls_per_second() -> u64 {
    std::env::var("CALLS_PER_SECOND").map_or(200, |text| text.parse().unwrap())
}

/// Row 10. Pins the API outage that becomes an outage of the authorization server.
#[tokio::test(start_paused = true)]
async fn an_api_that_rejects_everything_costs_eight_tokens_in_ten_minutes() {
    for challenge in [None, Some("Bearer"), Some(INVALID_TOKEN)] {
        let _limit = Watchdog::start(secs(600));
        let clock = ManualClock::new();
        let (layer, issued) = numbered(&clock);
        let api = Api::new();
        let mut client = layer.layer(api.service(challenge, |_| false));
        let per_second = calls_per_second();
        let mut quiet = 0;
        for second in 0..600 {
            for _ in 0..per_second {
                let (calls, tokens) = (api.calls(), issued.load(Ordering::Relaxed));
                let response = (&mut client).oneshot(to("/")).await.unwrap();
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "the 401 as it came");
                let reason = response.extensions().get::<NotReplaced>().unwrap();
                let requests = api.calls() - calls;
                if issued.load(Ordering::Relaxed) > tokens {
                    assert!(requests <= 2, "no more than one replay");
                    assert!(reason.is_futile());
                } else {
                    assert_eq!(requests, 1, "one request in the cooldown");
                    assert!(reason.is_cooling_down() && reason.retry_at().is_some());
                    quiet += 1;
                }
                tokio::time::advance(secs(1) / u32::try_from(per_second).unwrap()).await;
            }
            let tokens = issued.load(Ordering::Relaxed);
            assert!(tokens <= 8, "{tokens} tokens after {second} s, {challenge:?}");
        }
        assert!(issued.load(Ordering::Relaxed) >= 6, "it is tried now and then");
        assert!(quiet >= 600 * per_second - 8);
    }
}

/// Row 10: all 10,000 calls of a second at once, in every second in which a renewal may be forced.
#[tokio::test(start_paused = true)]
async fn a_stampede_against_an_api_that_rejects_everything_costs_no_more() {
    let _limit = Watchdog::start(secs(300));
    let clock = ManualClock::new();
    let (layer, issued) = numbered(&clock);
    let api = Api::new();
    let client = layer.layer(api.service(Some(INVALID_TOKEN), |_| false));
    // Renewals are due at 0, 60, 120, 180, 260 and 420 s.
    for (at, until) in [(0, 60), (60, 120), (120, 180), (180, 260), (260, 420), (420, 600)] {
        let (calls, tokens) = (api.calls(), issued.load(Ordering::Relaxed));
        let crowd: Vec<_> =
            (0..10_000).map(|_| tokio::spawn(client.clone().oneshot(to("/")))).collect();
        for call in crowd {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
        }
        assert!(api.calls() - calls <= 20_000, "no more than one replay per call");
        let tokens = issued.load(Ordering::Relaxed) - tokens;
        assert_eq!(tokens, if at == 0 { 2 } else { 1 }, "at {at} s");
        tokio::time::advance(millis(10)).await;
        let calls = api.calls();
        for _ in 0..100 {
            client.clone().oneshot(to("/")).await.unwrap();
        }
        assert_eq!(api.calls() - calls, 100, "one request in the cooldown");
        tokio::time::advance(secs(until - at)).await;
    }
    assert_eq!(issued.load(Ordering::Relaxed), 7);
}

/// Row 10: where nothing is replayed, nothing but the next call can tell that a renewal was futile.
#[tokio::test(start_paused = true)]
async fn without_replays_an_api_that_rejects_everything_costs_no_more() {
    let _limit = Watchdog::start(secs(600));
    let clock = ManualClock::new();
    let (layer, issued) = numbered(&clock);
    let api = Api::new();
    let mut client = layer.never_replay().layer(api.service(Some(INVALID_TOKEN), |_| false));
    let per_second = calls_per_second();
    for _ in 0..600 * per_second {
        let response = (&mut client).oneshot(to("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        tokio::time::advance(secs(1) / u32::try_from(per_second).unwrap()).await;
    }
    assert_eq!(api.calls(), 600 * per_second, "nothing is sent twice");
    let tokens = issued.load(Ordering::Relaxed);
    assert!((6..=8).contains(&tokens), "{tokens}");
}

/// Row 10.
#[tokio::test(start_paused = true)]
async fn one_path_that_misuses_401_costs_fifteen_tokens_and_troubles_no_other() {
    for challenge in [None, Some(INVALID_TOKEN)] {
        let _limit = Watchdog::start(secs(600));
        let clock = ManualClock::new();
        let (layer, issued) = numbered(&clock);
        let api = Api::new();
        let service = api.service(challenge, |call| call.uri().path() != "/misuses");
        let mut others = layer.layer(service.clone());
        let mut misusing = layer.layer(service);
        let per_second = calls_per_second();
        for n in 0..600 * per_second {
            let response = (&mut misusing).oneshot(to("/misuses")).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let (calls, at) = (api.calls(), clock.wall());
            let mut call = (&mut others).oneshot(to("/works"));
            let response = match poll_once(&mut call) {
                Poll::Ready(response) => response.unwrap(),
                Poll::Pending => panic!("call {n} was made to wait"),
            };
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!((api.calls(), clock.wall()), (calls + 1, at), "call {n} was replayed");
            tokio::time::advance(secs(1) / u32::try_from(per_second).unwrap()).await;
        }
        let tokens = issued.load(Ordering::Relaxed);
        // Weak evidence forces five, and then one in a quarter of an hour.
        let expected = if challenge.is_none() { 6..=7 } else { 10..=15 };
        assert!(expected.contains(&tokens), "{tokens}, {challenge:?}");
    }
}

/// Row 10: where nothing is replayed, the doubt in favour of a token that others use costs one more.
#[tokio::test(start_paused = true)]
async fn without_replays_one_path_that_misuses_401_costs_fifteen_tokens() {
    // Two of them in each minute or so are the worst: the first looks like news again.
    for pattern in [&[1][..], &[1, 60], &[1, 61], &[61]] {
        let _limit = Watchdog::start(secs(600));
        let clock = ManualClock::new();
        let (layer, issued) = numbered(&clock);
        let api = Api::new();
        let service = api.service(Some(INVALID_TOKEN), |call| call.uri().path() != "/misuses");
        let layer = layer.never_replay();
        let mut others = layer.layer(service.clone());
        let mut misusing = layer.layer(service);
        for pause in pattern.iter().cycle() {
            if clock.elapsed() >= secs(600) {
                break;
            }
            (&mut misusing).oneshot(to("/misuses")).await.unwrap();
            for _ in 0..*pause {
                let response = (&mut others).oneshot(to("/works")).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                tokio::time::advance(secs(1)).await;
            }
        }
        let tokens = issued.load(Ordering::Relaxed);
        assert!((10..=15).contains(&tokens), "{tokens}, {pattern:?}");
    }
}

/// Row 10: also while the renewal that the misuse forces is under way. A bare 401 makes nobody
/// wait; `invalid_token` does, for as long as such words have proved true.
#[tokio::test(start_paused = true)]
async fn a_bare_401_makes_no_other_request_wait_and_invalid_token_does_so_while_it_is_true() {
    for (challenge, waits) in [
        (Answer::status(StatusCode::UNAUTHORIZED), false),
        (Answer::challenge("Bearer"), false),
        (Answer::challenge(INVALID_TOKEN), true),
    ] {
        let world = World::new();
        world.api.reject_with(challenge);
        world.api.misuse_401("/misuses");
        assert_eq!(world.status("/works").await, StatusCode::OK);
        world.server.delay_answers(secs(1));
        for round in 0..3 {
            let misusing = tokio::spawn(world.call("/misuses"));
            settle().await;
            assert_eq!(world.server.requests(), 2 + round, "a renewal is forced");
            let before = world.clock.wall();
            assert_eq!(world.status("/works").await, StatusCode::OK);
            let waited = world.clock.wall().duration_since(before).unwrap();
            assert_eq!(waited > secs(0), waits && round == 0, "waited {waited:?} in round {round}");
            assert_eq!(misusing.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
            pass(secs(61)).await;
        }
    }
}

/// Row 10: a renewal that fails is neither cure nor futile. Pins the wait of all others for each of
/// them, half a minute at a time, while the token is good and the authorization server hangs.
#[tokio::test(start_paused = true)]
async fn while_the_server_hangs_invalid_token_on_one_path_makes_others_wait_once() {
    let world = World::new();
    world.api.reject_with(Answer::challenge(INVALID_TOKEN));
    world.api.misuse_401("/misuses");
    assert_eq!(world.status("/works").await, StatusCode::OK);
    world.server.delay_answers(secs(3600));
    let mut misusing = Vec::new();
    let mut waited = Vec::new();
    while world.clock.elapsed() < secs(600) {
        misusing.push(tokio::spawn(world.call("/misuses")));
        settle().await;
        let before = world.clock.elapsed();
        assert_eq!(world.status("/works").await, StatusCode::OK);
        let wait = world.clock.elapsed() - before;
        if wait > secs(0) {
            waited.push(wait);
        }
        pass(secs(1)).await;
    }
    assert_eq!(waited.len(), 1, "{waited:?}");
    assert!(world.server.requests() > 10, "renewals were forced, and failed");
    misusing.iter().for_each(tokio::task::JoinHandle::abort);

    // With a token the word counts again.
    world.server.down();
    pass(secs(300)).await;
    world.server.up();
    world.server.delay_answers(millis(100));
    world.server.revoke_all();
    assert_eq!(world.status("/works").await, StatusCode::OK);
    world.server.revoke_all();
    let revoked = tokio::spawn(world.call("/works"));
    settle().await;
    let calls = world.api.calls();
    assert_eq!(world.status("/works").await, StatusCode::OK);
    assert_eq!(revoked.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(world.api.calls() - calls, 2, "one has waited, and was not rejected");
}

/// Row 10. Pins the cooldown that a cure sets off.
#[tokio::test(start_paused = true)]
async fn a_token_revoked_again_two_seconds_after_a_cure_is_cured_again_at_once() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    for _ in 0..20 {
        world.server.revoke_all();
        let before = world.clock.wall();
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.clock.wall(), before, "at once");
        pass(secs(2)).await;
    }
    assert_eq!(world.server.requests(), 21);
}

/// Row 10: also where no replay has told whether the first renewal helped. Pins the pause after a
/// renewal whose token all others have used since.
#[tokio::test(start_paused = true)]
async fn a_token_revoked_again_is_cured_although_no_replay_has_told_of_the_first_cure() {
    for untold in ["the caller leaves", "the body is not kept", "the API breaks"] {
        let world = World::new();
        assert_eq!(world.status("/").await, StatusCode::OK);
        for _ in 0..3 {
            world.server.revoke_all();
            world.server.delay_answers(secs(2));
            let call = tokio::spawn(world.call("/"));
            pass(secs(1)).await;
            match untold {
                "the caller leaves" => call.abort(),
                "the body is not kept" => {
                    let client = world.layer.clone().never_replay().layer(world.api.service());
                    let response = client.oneshot(get("/")).await.unwrap();
                    assert!(reason(&response).is_not_replayable());
                    call.abort();
                }
                _ => {
                    let broken = StatusCode::SERVICE_UNAVAILABLE;
                    world.api.respond_once(Answer::status(broken));
                    assert_eq!(call.await.unwrap().unwrap().status(), broken);
                }
            }
            pass(secs(2)).await;
            world.server.delay_answers(secs(0));
            let requests = world.server.requests();
            assert_eq!(world.status("/").await, StatusCode::OK);
            assert_eq!(world.server.requests(), requests, "the renewal was a cure");
            pass(secs(3)).await;
            world.server.revoke_all();
            assert_eq!(world.status("/").await, StatusCode::OK, "{untold}");
        }
    }
}

/// Row 10. At the worst moments: the misuse has just brought about a futile renewal.
#[tokio::test(start_paused = true)]
async fn a_revocation_while_one_path_misuses_401_is_cured_within_a_minute() {
    for (challenge, revoked_at) in [(None, 5), (None, 31), (Some(INVALID_TOKEN), 71), (None, 312)] {
        let _limit = Watchdog::start(secs(600));
        let clock = ManualClock::new();
        let (layer, issued) = numbered(&clock);
        let api = Api::new();
        let revoked = Arc::new(AtomicU64::new(0));
        let service = {
            let revoked = Arc::clone(&revoked);
            api.service(challenge, move |call| {
                call.uri().path() != "/misuses" && number_of(call) > revoked.load(Ordering::Relaxed)
            })
        };
        let mut others = layer.layer(service.clone());
        let mut misusing = layer.layer(service);
        let mut failing = 0;
        for tick in 0..6000 {
            if tick == revoked_at * 10 {
                revoked.store(issued.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            (&mut misusing).oneshot(to("/misuses")).await.unwrap();
            let response = (&mut others).oneshot(to("/works")).await.unwrap();
            if response.status() == StatusCode::UNAUTHORIZED {
                failing += 1;
            }
            tokio::time::advance(millis(100)).await;
        }
        assert!(failing > 0, "it was not the worst moment");
        assert!(failing <= 600, "not cured after {failing} tenths of a second");
        let tokens = issued.load(Ordering::Relaxed);
        assert!(tokens <= 15 + 3, "one cure, and the pauses begin anew: {tokens}");
    }
}

/// Row 10: an API that rejected everything for a while, and then a token of which that is true.
#[tokio::test(start_paused = true)]
async fn after_an_api_has_come_to_its_senses_a_revocation_is_cured_within_a_minute() {
    let world = World::new();
    world.api.reject_everything();
    for _ in 0..320 {
        assert_eq!(world.status("/").await, StatusCode::UNAUTHORIZED);
        pass(secs(1)).await;
    }
    world.api.accept_valid_tokens();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.revoke_all();
    let mut waited = 0;
    while world.status("/").await != StatusCode::OK {
        waited += 1;
        assert!(waited <= 60, "not cured within a minute");
        pass(secs(1)).await;
    }
    // The pauses are forgotten.
    world.server.revoke_all();
    assert_eq!(world.status("/").await, StatusCode::OK);
}

/// Pins the pauses that grow for ever, although tokens were revoked and cured in between.
#[tokio::test(start_paused = true)]
async fn after_a_cure_the_pauses_begin_anew() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    for _ in 0..2 {
        world.api.reject_everything();
        for pause in [60, 60, 60, 80] {
            assert_eq!(world.status("/").await, StatusCode::UNAUTHORIZED);
            let response = world.call("/").await.unwrap();
            let until = reason(&response).retry_at().unwrap();
            assert_eq!(until, world.clock.wall() + secs(pause));
            pass(secs(pause)).await;
        }
        world.api.accept_valid_tokens();
        world.server.revoke_all();
        assert_eq!(world.status("/").await, StatusCode::OK, "cured");
    }
}

/// Pins the second renewal in a row for an API that rejects everything: the one in the background
/// that its 401 has joined was the one that proved futile.
#[tokio::test(start_paused = true)]
async fn a_renewal_in_the_background_that_a_401_joined_may_prove_futile() {
    let world = World::new();
    world.api.misuse_401("/misuses");
    assert_eq!(world.status("/").await, StatusCode::OK);
    pass(secs(3280)).await;
    world.server.delay_answers(secs(2));
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    let response = within(secs(5), world.call("/misuses")).await.unwrap();
    assert!(reason(&response).is_futile(), "after one replay");
    settle().await;
    let response = world.call("/misuses").await.unwrap();
    assert!(reason(&response).is_cooling_down());
    assert_eq!(world.server.requests(), 2);
}

/// It returned `Pending`, and nothing would have woken it.
#[tokio::test(start_paused = true)]
async fn a_replacement_that_is_polled_after_its_end_is_an_error() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    let mut cache = world.cache();
    let token = cache.peek().unwrap().clone();
    // The first is waited for; the second is there at once.
    for _ in 0..2 {
        let mut replacement = std::pin::pin!(cache.rejected(&token));
        assert!(replacement.as_mut().await.is_ok());
        for _ in 0..2 {
            let error = replacement.as_mut().await.unwrap_err();
            let error = error.error().expect("why it failed");
            assert_eq!(error.class(), ErrorClass::Interrupted);
            assert!(error.to_string().contains("polled after"), "{error}");
        }
    }
    assert_eq!(world.server.requests(), 2);
}

/// Row 8, in the cooldown: the current token is known to be of no use.
#[tokio::test(start_paused = true)]
async fn a_late_401_is_not_replayed_with_a_token_that_was_rejected_as_well() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let late: Vec<_> = (0..100).map(|_| tokio::spawn(world.call("/late"))).collect();
    world.api.held(100).await;
    world.api.reject_everything();
    let mut cache = world.cache();
    let token = cache.peek().unwrap().clone();
    let newer = cache.rejected(&token).await.unwrap();
    cache.rejected_again(&newer);
    world.api.release();
    for call in late {
        let response = call.await.unwrap().unwrap();
        assert!(reason(&response).is_cooling_down());
    }
    assert_eq!((world.server.requests(), world.api.calls()), (2, 101), "no replay");
}

/// Row 8: the current token was rejected in the meantime, and its successor is under way. Pins the
/// replay that is spent on a token which is known to be of no use.
#[tokio::test(start_paused = true)]
async fn a_late_401_waits_where_the_current_token_is_being_replaced_too() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let late = tokio::spawn(world.call("/late"));
    world.api.held(1).await;
    let cache = world.cache();
    let first = cache.token().await.unwrap();
    let second = cache.rejected(&first).await.unwrap();
    cache.accepted(&second);
    world.server.revoke_all();
    world.server.delay_answers(secs(2));
    let replacement = cache.rejected(&second);
    settle().await;
    assert_eq!(world.server.requests(), 3, "under way");
    world.api.release();
    assert_eq!(late.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(replacement.await.is_ok());
    assert_eq!((world.server.requests(), world.api.calls()), (3, 3));
}

/// Row 8: and where that fails, the current token is still newer than the rejected one.
#[tokio::test(start_paused = true)]
async fn a_late_401_that_has_waited_in_vain_is_replayed_with_the_current_token() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let late = tokio::spawn(world.call("/late"));
    world.api.held(1).await;
    world.server.revoke_all();
    let cache = world.cache();
    let first = cache.token().await.unwrap();
    let second = cache.rejected(&first).await.unwrap();
    cache.accepted(&second);
    // Some path misuses 401, and the server breaks.
    world.server.respond_once(Answer::never());
    world.server.script((0..2).map(|_| Answer::unavailable()));
    let misused = cache.rejected(&second);
    settle().await;
    world.api.release();
    assert_eq!(within(secs(60), late).await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(misused.await.unwrap_err().error().is_some());
    assert_eq!(world.api.calls(), 3);
}

/// Row 8: but not for a renewal that one path forces again and again.
#[tokio::test(start_paused = true)]
async fn a_late_401_does_not_wait_for_a_renewal_that_misuse_has_forced() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let late = tokio::spawn(world.call("/late"));
    world.api.held(1).await;
    world.server.revoke_all();
    let other = ProtectedApi::new(&world.server);
    other.misuse_401("/misuses");
    let client = world.layer.layer(other.service());
    let call = |path| client.clone().oneshot(get(path));
    assert_eq!(call("/misuses").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(call("/works").await.unwrap().status(), StatusCode::OK);
    pass(secs(10)).await;
    world.server.delay_answers(secs(2));
    let misusing = tokio::spawn(call("/misuses"));
    settle().await;
    assert_eq!(world.server.requests(), 3, "under way");
    world.api.release();
    let before = world.clock.wall();
    assert_eq!(late.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(world.clock.wall(), before, "with the token that others use");
    assert_eq!(misusing.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
}

fn reason(response: &ApiResponse) -> &NotReplaced {
    response.extensions().get::<NotReplaced>().expect("the reason, in the extensions")
}

/// Row 11.
#[tokio::test(start_paused = true)]
async fn the_same_token_from_a_forced_renewal_is_not_replayed_and_starts_a_cooldown() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.revoke_all();
    world.server.repeat_token();
    let response = world.call("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(reason(&response).is_futile() && !reason(&response).is_cooling_down());
    assert_eq!((world.server.requests(), world.api.calls()), (2, 2), "no replay");
    let ten_seconds_on = world.clock.wall() + secs(10);
    for _ in 0..3 {
        pass(secs(3)).await;
        let response = world.call("/").await.unwrap();
        assert!(reason(&response).is_cooling_down());
        assert_eq!(reason(&response).retry_at(), Some(ten_seconds_on), "from the renewal on");
    }
    assert_eq!((world.server.requests(), world.api.calls()), (2, 5), "a cooldown");
    world.server.issue_new_tokens();
    pass(secs(1)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
    assert_eq!(world.server.requests(), 3);
}

/// Row 11: 500 at once, and the late ones: none is sent again with the token that was rejected.
#[tokio::test(start_paused = true)]
async fn the_same_token_is_not_replayed_by_anyone() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.hold();
    let calls: Vec<_> = (0..500).map(|_| tokio::spawn(world.call("/"))).collect();
    world.api.held(500).await;
    world.server.revoke_all();
    world.server.repeat_token();
    let mut cache = world.cache();
    let token = cache.peek().unwrap().clone();
    assert!(cache.rejected(&token).await.unwrap_err().is_futile());
    world.api.release();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!((world.server.requests(), world.api.calls()), (2, 501));
}

/// Row 8: a renewal in the background brought the rejected token again, which is no reason not to ask
/// for a newer one. Pins the 401 that stands for that although the server has others by now.
#[tokio::test(start_paused = true)]
async fn a_late_401_for_a_token_that_came_again_is_cured() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.repeat_token();
    pass(secs(3280)).await;
    world.api.hold();
    let late: Vec<_> = (0..2).map(|_| tokio::spawn(world.call("/late"))).collect();
    world.api.held(2).await;
    assert_eq!(world.server.requests(), 2, "the same token, in the background");
    world.server.issue_new_tokens();
    world.server.revoke_all();
    world.api.release();
    for call in late {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(world.server.requests(), 3);
}

/// Row 10, with a server that has turned to tokens for one use. Pins the token at hand that is used
/// on, although it was rejected and its substitutes are accepted.
#[tokio::test(start_paused = true)]
async fn a_revoked_token_that_a_token_for_one_use_has_cured_is_not_used_again() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.announce_expires_in("0");
    world.server.revoke_all();
    for _ in 0..100 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(millis(100)).await;
    }
    assert_eq!(world.api.rejected(), 1, "the first call with it");
    assert_eq!(world.server.requests(), 1 + 100, "each needs one of its own");
    // Kept again when it can be.
    world.server.issue_for(secs(3600));
    for _ in 0..10 {
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
    assert_eq!(world.server.requests(), 1 + 100 + 1);
}

/// Row 8: pins the 401 that comes while the replay that would tell of the cure is still on its way.
#[tokio::test(start_paused = true)]
async fn a_second_401_beside_a_token_for_one_use_is_cured_as_the_first() {
    let clock = ManualClock::new();
    let issued = AtomicU64::new(0);
    let source = source_fn(move |_| {
        let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            let lifetime = secs(if number == 1 { 3600 } else { 0 });
            Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(lifetime))
        }
    });
    let layer = Builder::from_source(source).clock(clock.clone()).build().unwrap();
    layer.cache().token().await.unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let answers = Arc::clone(&gate);
    // The first token is revoked; with any other, the API takes its time.
    let client = layer.layer(tower::service_fn(move |call: Call| {
        let gate = Arc::clone(&answers);
        async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            if number_of(&call) == 1 {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            } else {
                gate.acquire().await.unwrap().forget();
            }
            Ok::<_, Infallible>(response)
        }
    }));
    let first = tokio::spawn(client.clone().oneshot(to("/")));
    settle().await;
    let second = tokio::spawn(client.oneshot(to("/")));
    settle().await;
    gate.add_permits(2);
    for call in [first, second] {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}

/// A renewal that fails never turns a response into an error.
#[tokio::test(start_paused = true)]
async fn when_the_renewal_fails_the_401_comes_whole_with_the_cause() {
    use http_body_util::BodyExt;

    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.api.reject_with(
        Answer::challenge(INVALID_TOKEN).with_header("x-trace", "42").with_body("why not"),
    );
    world.server.revoke_all();
    world.server.down();
    let response = world.call("/").await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(response.headers()["x-trace"], "42");
    assert!(reason(&response).error().unwrap().is_unreachable());
    assert!(std::error::Error::source(reason(&response)).is_some(), "and the cause of that");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "why not");
    world.server.up();
    pass(secs(2)).await;
    assert_eq!(world.status("/").await, StatusCode::OK);
}

/// A request that cannot be sent again gets its 401, and the next call works.
#[tokio::test(start_paused = true)]
async fn without_a_replay_the_token_is_rejected_all_the_same() {
    let world = World::new();
    let client = world.layer.clone().never_replay().layer(world.api.service());
    assert_eq!(client.clone().oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
    world.server.revoke_all();
    let response = client.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(reason(&response).is_not_replayable());
    settle().await;
    let response: Response<_> = client.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let _: Request<Full<Bytes>> = get("/");
    assert_eq!(world.server.requests(), 2);
}

/// Row 10. Pins the stream of renewals for an API that answers 401 and 503 by turns: a server that is
/// broken accepts no token, so it is no cure.
#[tokio::test(start_paused = true)]
async fn a_replay_that_meets_a_broken_server_is_no_cure() {
    for broken in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        let _limit = Watchdog::start(secs(300));
        let clock = ManualClock::new();
        let (layer, issued) = numbered(&clock);
        let calls = Arc::new(AtomicU64::new(0));
        let mut client = layer.layer(tower::service_fn(move |_: Call| {
            let turn = calls.fetch_add(1, Ordering::Relaxed) % 2;
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = if turn == 0 { StatusCode::UNAUTHORIZED } else { broken };
            ready(Ok::<_, Infallible>(response))
        }));
        for _ in 0..600 {
            (&mut client).oneshot(to("/")).await.unwrap();
            pass(secs(1)).await;
        }
        let tokens = issued.load(Ordering::Relaxed);
        assert!((4..=9).contains(&tokens), "{tokens} with {broken}");
    }
}

/// Row 10. Pins the token request for every call of an API that answers 401 at random: each time the
/// newer token looks like a cure. Thirty in a row, and then one every two seconds.
#[tokio::test(start_paused = true)]
async fn an_api_that_answers_401_at_random_costs_no_more_than_a_token_a_second() {
    let _limit = Watchdog::start(secs(300));
    let clock = ManualClock::new();
    let (layer, issued) = numbered(&clock);
    let api = Api::new();
    let turns = Arc::new(AtomicU64::new(0));
    let service =
        api.service(Some(INVALID_TOKEN), move |_| turns.fetch_add(1, Ordering::Relaxed) % 2 == 1);
    let mut client = layer.layer(service);
    for _ in 0..1_200 {
        (&mut client).oneshot(to("/")).await.unwrap();
        tokio::time::advance(millis(100)).await;
    }
    let tokens = issued.load(Ordering::Relaxed);
    assert!((120..=155).contains(&tokens), "{tokens} in two minutes");
}

/// Row 11: the same token twice over, and a 401 for the second time that it was handed out.
#[tokio::test(start_paused = true)]
async fn a_token_that_was_handed_out_three_times_is_the_same_token() {
    let world = World::new();
    let mut cache = world.cache();
    cache.token().await.unwrap();
    world.server.repeat_token();
    let mut handed_out = Vec::new();
    for _ in 0..3 {
        let token = cache.peek().unwrap().clone();
        assert!(cache.rejected(&token).await.unwrap_err().is_futile());
        handed_out.push(token);
        pass(secs(100)).await;
    }
    for token in handed_out {
        assert!(
            cache.rejected(&token).await.is_err(),
            "no replay with the token that was rejected"
        );
    }
}

/// Pins the replay with a token that has expired since it took the place of the rejected one.
#[tokio::test(start_paused = true)]
async fn a_late_rejection_gets_no_token_that_has_expired() {
    let world = World::new();
    let cache = world.cache();
    let first = cache.token().await.unwrap();
    world.server.issue_for(secs(20));
    let second = cache.rejected(&first).await.unwrap();
    cache.accepted(&second);
    pass(secs(20)).await;
    let third = cache.rejected(&first).await.unwrap();
    assert!(third.expires_at().unwrap() > world.clock.wall());
    assert_eq!(world.server.requests(), 3);
}

/// Row 8. Pins the acceptance of an older token that is taken for a cure by the newest.
#[tokio::test(start_paused = true)]
async fn that_an_older_token_was_accepted_says_nothing_about_the_newest() {
    let world = World::new();
    let cache = world.cache();
    let first = cache.token().await.unwrap();
    let mut second = cache.rejected(&first).await.unwrap();
    cache.rejected_again(&second);
    for n in 1..4 {
        pass(secs(60)).await;
        let third = cache.rejected(&second).await.unwrap();
        cache.accepted(&second);
        cache.rejected_again(&third);
        let why = cache.rejected(&third).await.unwrap_err();
        let pause = if n == 3 { 80 } else { 60 };
        assert_eq!(why.retry_at(), Some(world.clock.wall() + secs(pause)), "one more in a row");
        second = third;
    }
}

/// The replay was rejected, and meanwhile yet another renewal has brought a token that the call has
/// not tried.
#[tokio::test(start_paused = true)]
async fn a_replay_that_is_rejected_late_is_followed_by_one_with_the_newest_token() {
    let world = World::new();
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.revoke_all();
    world.server.delay_answers(secs(1));
    let call = tokio::spawn(world.call("/"));
    settle().await;
    world.api.hold();
    pass(secs(1)).await;
    world.api.held(1).await;
    // The replay is on its way, and its token is revoked and renewed.
    world.server.delay_answers(secs(0));
    world.server.revoke_all();
    let mut cache = world.cache();
    let token = cache.peek().unwrap().clone();
    cache.accepted(&token);
    assert!(cache.rejected(&token).await.is_ok());
    world.api.release();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!((world.server.requests(), world.api.calls()), (3, 4));
}

/// An API whose tokens are replaced by others while it looks at a request would otherwise keep a call
/// going for ever.
#[tokio::test(start_paused = true)]
async fn a_call_is_sent_three_times_and_no_more() {
    let world = World::new();
    let calls = Arc::new(AtomicU64::new(0));
    let (cache, count) = (world.cache(), Arc::clone(&calls));
    let api = tower::service_fn(move |_: Request<Empty<Bytes>>| {
        let mut cache = cache.clone();
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            // Another caller, with the same token, is quicker.
            let token = cache.peek().unwrap().clone();
            cache.accepted(&token);
            pass(secs(1)).await;
            cache.rejected(&token).await.unwrap();
            let status = if number < 9 { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
            let response = Response::builder().status(status);
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
        }
    });
    let client = Builder::from_cache(world.cache()).build().unwrap().layer(api);
    let response = client.oneshot(get("/").map(|_| Empty::new())).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!((calls.load(Ordering::SeqCst), world.server.requests()), (3, 4));
}

/// A renewal that is under way is joined, also in a cooldown: it costs nothing more.
#[tokio::test(start_paused = true)]
async fn a_renewal_in_the_background_is_joined_in_the_cooldown_too() {
    let world = World::new();
    world.api.misuse_401("/misuses");
    assert_eq!(world.status("/").await, StatusCode::OK);
    world.server.issue_for(secs(10));
    let response = world.call("/misuses").await.unwrap();
    assert!(reason(&response).is_futile(), "the cooldown begins");
    pass(secs(6)).await;
    world.server.delay_answers(secs(1));
    assert_eq!(world.status("/").await, StatusCode::OK);
    settle().await;
    assert_eq!(world.server.requests(), 3, "the soft renewal is under way");
    world.server.revoke(world.cache().peek().unwrap().clone().expose_secret());
    assert_eq!(world.status("/").await, StatusCode::OK, "cured");
    assert_eq!(world.server.requests(), 3);
}
