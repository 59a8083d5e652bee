//! The issuance budget is a bound: no period has more requests than it says that may have issued a
//! token, however they end.

use std::time::Duration;

use http::StatusCode;
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, TokenError, TokenResponse, source_fn, testing::ManualClock,
};

use crate::{
    kit::{Watchdog, millis, pass, secs},
    provider::{Mood, Provider, answer},
};

const DAY: Duration = Duration::from_secs(86_400);

/// No `per` has more than `most` of these times.
fn assert_bounded(asked: &[Duration], most: usize, per: Duration, what: Mood) {
    for window in asked.windows(most + 1) {
        assert!(window[most] - window[0] >= per, "{what:?}: {} in {per:?}", most + 1);
    }
}

/// Pins 135 requests an hour with slow answers and 204 with broken ones, and a source that was asked
/// 1000 times in 55 ms because it panicked.
#[tokio::test(start_paused = true)]
async fn no_day_has_more_token_requests_than_the_budget_however_they_end() {
    for mood in [Mood::Hangs, Mood::Garbled, Mood::BreaksOff, Mood::Panics, Mood::Well] {
        let provider = Provider::new();
        provider.books().mood = mood;
        // Each is of no more use when the next call comes.
        provider.books().lifetime = secs(5);
        let cache = provider.builder().issuance_budget(24, DAY).build().unwrap().cache();
        while provider.clock.elapsed() < 2 * DAY + secs(3600) {
            let _ = cache.token().await;
            pass(secs(20)).await;
        }
        let asked = provider.books().asked.clone();
        assert_bounded(&asked, 24, DAY, mood);
        assert!(asked.len() >= 24, "{mood:?}: {} requests", asked.len());
    }
}

/// Each attempt of a renewal counts, and the one that is made beside a slow one.
#[tokio::test(start_paused = true)]
async fn every_attempt_counts_also_the_one_beside_a_slow_one() {
    for (mood, takes) in [(Mood::Well, 11), (Mood::Garbled, 11), (Mood::Hangs, 0)] {
        let provider = Provider::new();
        provider.books().mood = mood;
        provider.books().takes = [secs(takes), secs(0)];
        provider.books().lifetime = secs(20);
        let cache = provider.builder().issuance_budget(3, secs(3600)).build().unwrap().cache();
        while provider.clock.elapsed() < secs(4 * 3600) {
            let _ = cache.token().await;
            pass(secs(1)).await;
        }
        let asked = provider.books().asked.clone();
        assert_bounded(&asked, 3, secs(3600), mood);
        assert!(asked.len() >= 6, "{mood:?}: {} requests", asked.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_not_asked_for_every_call() {
    let provider = Provider::new();
    provider.books().mood = Mood::Panics;
    let cache = provider.builder().build().unwrap().cache();
    for _ in 0..1000 {
        assert!(cache.token().await.is_err());
    }
    assert_eq!(provider.asked(), 1, "a panic is followed by a pause without a budget, too");
    let cache = provider.builder().issuance_budget(5, secs(3600)).build().unwrap().cache();
    let before = provider.asked();
    for _ in 0..1000 {
        let error = cache.token().await.unwrap_err();
        assert!(matches!(error.class(), ErrorClass::Interrupted | ErrorClass::Budget), "{error}");
        pass(millis(100)).await;
    }
    assert!(provider.asked() - before <= 5);
}

/// A tenth of the average interval passes after a request that counts and brought nothing: half an
/// hour of it leaves most of the day's budget.
#[tokio::test(start_paused = true)]
async fn a_short_outage_does_not_spend_a_days_budget() {
    for mood in [Mood::Garbled, Mood::BreaksOff, Mood::Hangs, Mood::Panics] {
        let provider = Provider::new();
        let cache = provider.builder().issuance_budget(24, DAY).build().unwrap().cache();
        provider.books().mood = mood;
        while provider.clock.elapsed() < secs(1800) {
            assert!(cache.token().await.is_err());
            pass(millis(500)).await;
        }
        // 86,400 s / 240 = 360 s.
        let asked = provider.asked();
        assert!((3..=6).contains(&asked), "{mood:?}: {asked} requests in half an hour");
        provider.books().mood = Mood::Well;
        let mut took = 0;
        while cache.token().await.is_err() {
            pass(secs(1)).await;
            took += 1;
            assert!(took <= 361, "{mood:?}");
        }
    }
}

/// Connections that never came about and complete 503s issued nothing, and cost nothing.
#[tokio::test(start_paused = true)]
async fn an_outage_that_cannot_have_issued_a_token_spends_no_budget() {
    let provider = Provider::new();
    let client = {
        let layer = provider.builder().issuance_budget(2, DAY).build().unwrap();
        tower::Layer::layer(&layer, crate::provider::Api(provider.clone()))
    };
    provider.books().mood = Mood::Unavailable;
    while provider.clock.elapsed() < secs(3600) {
        assert!(answer(&client, "/").await.is_err());
        pass(secs(1)).await;
    }
    assert!(provider.asked() > 100, "it is asked again and again: {}", provider.asked());
    provider.books().mood = Mood::Well;
    pass(secs(10)).await;
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
}

/// The endpoint says to come back in 4 s, and the renewal may take 2 s.
#[tokio::test(start_paused = true)]
async fn a_retry_after_beyond_the_renewals_deadline_is_reported_at_once() {
    for (renewal, retry_after, takes, ends_at) in [(2, 4, 0, 0), (5, 5, 1, 1), (30, 5, 9, 30)] {
        let _limit = Watchdog::start(secs(300));
        let clock = ManualClock::new();
        let source = source_fn(move |_| async move {
            tokio::time::sleep(secs(takes)).await;
            Err::<TokenResponse, _>(
                TokenError::new(ErrorClass::Throttled, "429").with_retry_after(secs(retry_after)),
            )
        });
        let cache =
            Builder::from_source(source).renewal_timeout(secs(renewal)).clock(clock.clone());
        let cache = cache.build().unwrap().cache();
        let error = cache.token().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Throttled, "renewal {renewal} s: {error}");
        assert_eq!(error.retry_after(), Some(secs(retry_after)));
        let wait = error.retry_at().unwrap().duration_since(clock.wall()).unwrap();
        assert_eq!(wait, secs(retry_after));
        // The last case: the third attempt is cut off at the deadline.
        assert_eq!(clock.elapsed(), secs(ends_at));
    }
}
