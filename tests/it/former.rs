//! The former token: an API that does not accept a new token at once is no outage, as long as the
//! token before it is good.

use http::StatusCode;
use tower::{Layer, ServiceExt};

use crate::{
    kit::{get, millis, pass, secs},
    provider::{Api, Client, Lag, Provider, STRONG, WEAK, answer},
};

/// The ways in which APIs lag behind.
#[derive(Clone, Copy, Debug)]
struct Case {
    lag: Lag,
    same_in_a_second: bool,
    challenge: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for challenge in [STRONG, WEAK] {
        for (lag, same_in_a_second) in [
            // `nbf`, `iat`, or replication.
            (Lag::Young(secs(2)), false),
            // A copy of the key set that is fetched once a minute.
            (Lag::Key(secs(60)), false),
            // A clock that is a minute behind: each newer token is too new as well.
            (Lag::Young(secs(60)), false),
            // A JWT whose times are whole seconds: asked for again at once, it comes again.
            (Lag::Young(secs(1)), true),
            (Lag::Young(secs(2)), true),
        ] {
            cases.push(Case { lag, same_in_a_second, challenge });
        }
    }
    cases
}

impl Case {
    /// A provider whose API does not lag yet.
    fn provider(self) -> Provider {
        let provider = Provider::new();
        provider.books().same_in_a_second = self.same_in_a_second;
        provider.books().challenge = self.challenge;
        provider
    }

    fn begins(self, provider: &Provider) {
        provider.rotate_key();
        provider.books().lag = self.lag;
    }
}

/// A client whose token was accepted, near the soft point of an hour's token.
async fn before_renewal(provider: &Provider) -> Client {
    let client = provider.client();
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
    pass(secs(3200)).await;
    client
}

#[tokio::test(start_paused = true)]
async fn a_new_token_that_the_api_does_not_accept_yet_fails_no_call() {
    for case in cases() {
        let provider = case.provider();
        let client = before_renewal(&provider).await;
        case.begins(&provider);
        let failures = provider.traffic(&client, millis(100), secs(600)).await;
        assert_eq!(failures.count(), 0, "{case:?}: {failures:?}");
        assert!(provider.asked() <= 3, "{case:?}: {} token requests", provider.asked());
        assert!(provider.books().tokens.len() >= 2, "it was renewed");
        // Each pause has one probe, and each probe one replay.
        let more = provider.books().api_calls - failures.calls as u64 - 1;
        assert!(more <= 10, "{case:?}: {more} more requests to the API");
    }
}

/// Three renewals in a row, each with its lag.
#[tokio::test(start_paused = true)]
async fn an_api_with_a_clock_behind_fails_no_call_at_any_renewal() {
    let provider = Provider::new();
    let client = before_renewal(&provider).await;
    provider.books().lag = Lag::Young(secs(60));
    let failures = provider.traffic(&client, millis(500), secs(3 * 3600)).await;
    assert_eq!(failures.count(), 0, "{failures:?}");
    assert!((4..=6).contains(&provider.asked()), "{}", provider.asked());
}

#[tokio::test(start_paused = true)]
async fn without_a_former_token_a_lag_costs_a_minute_and_two_requests_at_most() {
    for case in cases() {
        let provider = case.provider();
        case.begins(&provider);
        let client = provider.client();
        let failures = provider.traffic(&client, millis(100), secs(600)).await;
        assert!(failures.span() <= secs(60), "{case:?}: {:?}", failures.span());
        assert!(provider.asked() <= 3, "{case:?}: {} token requests", provider.asked());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_revocation_a_lag_costs_a_minute_and_two_requests_at_most() {
    for case in cases() {
        let provider = case.provider();
        let client = provider.client();
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        pass(secs(1000)).await;
        case.begins(&provider);
        provider.revoke_all();
        let failures = provider.traffic(&client, millis(100), secs(600)).await;
        assert!(failures.span() <= secs(60), "{case:?}: {:?}", failures.span());
        assert!(provider.asked() <= 4, "{case:?}: {} token requests", provider.asked());
    }
}

/// Both tokens of a renewal are revoked while the API does not accept the newer one yet.
#[tokio::test(start_paused = true)]
async fn a_revocation_while_the_newest_token_waits_is_cured_at_once() {
    for challenge in [STRONG, WEAK] {
        let provider = Provider::new();
        provider.books().challenge = challenge;
        let client = before_renewal(&provider).await;
        provider.books().lag = Lag::Young(secs(60));
        let failures = provider.traffic(&client, millis(100), secs(90)).await;
        assert_eq!(failures.count(), 0);
        let asked = provider.asked();
        assert_eq!(asked, 2);
        provider.books().lag = Lag::None;
        provider.revoke_all();
        let failures = provider.traffic(&client, millis(100), secs(60)).await;
        assert_eq!(failures.count(), 0, "{failures:?}");
        assert_eq!(provider.asked(), asked + 1);
    }
}

/// The former token is rejected as well: it is not asked again, and no two tokens take turns.
#[tokio::test(start_paused = true)]
async fn a_former_token_that_is_rejected_is_never_used_again() {
    let provider = Provider::new();
    let client = before_renewal(&provider).await;
    provider.books().lag = Lag::Young(secs(20));
    let failures = provider.traffic(&client, millis(100), secs(75)).await;
    assert_eq!((failures.count(), provider.asked()), (0, 2), "{failures:?}");
    provider.revoke_older();
    let calls = provider.books().api_calls;
    let failures = provider.traffic(&client, millis(100), secs(120)).await;
    let more = provider.books().api_calls - calls - failures.calls as u64;
    assert!(more <= 3, "{more} replays");
    assert_eq!(failures.count(), 0);
    assert_eq!(provider.asked(), 2);
}

/// Each probe is visible where nothing is replayed, and there are few.
#[tokio::test(start_paused = true)]
async fn without_replays_a_lag_shows_in_the_probes_alone() {
    for case in cases() {
        let provider = case.provider();
        let client = provider.layer().never_replay().layer(Api(provider.clone()));
        let status = async || client.clone().oneshot(get("/")).await.unwrap().status();
        assert_eq!(status().await, StatusCode::OK);
        pass(secs(3200)).await;
        case.begins(&provider);
        let mut failed = 0;
        for _ in 0..6000 {
            failed += u32::from(status().await != StatusCode::OK);
            pass(millis(100)).await;
        }
        assert!((1..=8).contains(&failed), "{case:?}: {failed}");
        assert!(provider.asked() <= 3, "{case:?}: {} token requests", provider.asked());
    }
}

/// The probes go on for as long as the former token is used, and the longest pause is a minute.
#[tokio::test(start_paused = true)]
async fn a_lag_of_four_minutes_fails_no_call() {
    let provider = Provider::new();
    let client = before_renewal(&provider).await;
    provider.books().lag = Lag::Young(secs(240));
    let failures = provider.traffic(&client, millis(100), secs(900)).await;
    assert_eq!(failures.count(), 0, "{failures:?}");
    assert!(provider.asked() <= 3, "{}", provider.asked());
}

/// The former token expires before the API accepts the newest one.
#[tokio::test(start_paused = true)]
async fn a_lag_that_outlasts_the_former_token_costs_few_requests() {
    let provider = Provider::new();
    let client = before_renewal(&provider).await;
    provider.books().lag = Lag::Young(secs(1200));
    let failures = provider.traffic(&client, millis(100), secs(900)).await;
    // Until the former token expires, at 3600 s.
    assert!(failures.at.iter().all(|at| *at >= secs(3599)), "{:?}", failures.at.first());
    assert!(provider.asked() <= 8, "{}", provider.asked());
}

/// Two replicas share a client, and each new token ends the one before it. Each replica's renewal
/// ends the other's token, as often as a renewal may be forced.
#[tokio::test(start_paused = true)]
async fn two_replicas_whose_tokens_end_each_other_fail_no_call() {
    let provider = Provider::new();
    let clients = [provider.client(), provider.client()];
    for second in 0..600 {
        for client in &clients {
            let status = answer(client, "/").await.unwrap();
            assert_eq!(status, StatusCode::OK, "{second} s, {} tokens", provider.asked());
            provider.revoke_older();
        }
        pass(secs(1)).await;
    }
}
