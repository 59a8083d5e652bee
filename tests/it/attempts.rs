//! Several attempts of one renewal, and calls that wait for several things in turn.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::Sleep;
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_client_credentials::{
    ErrorClass, OAuthClientCredentialsLayer, TokenCache, TokenError, TokenResponse, source_fn,
    testing::ManualClock,
};

use crate::{
    kit::{get, pass, poll_once, secs, settle, within},
    provider::{Mood, Provider, STRONG, answer},
};

/// A source whose first attempt hangs, and whose second ends with `error`.
fn second_fails(error: TokenError) -> (TokenCache, Arc<AtomicUsize>, ManualClock) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |_| {
        let (number, error) = (count.fetch_add(1, Ordering::SeqCst), error.clone());
        async move {
            if number == 0 {
                std::future::pending::<()>().await;
            }
            Err::<TokenResponse, _>(error)
        }
    });
    let clock = ManualClock::new();
    let cache = TokenCache::builder_from(source).clock(clock.clone()).build().unwrap();
    (cache, asked, clock)
}

/// Pins the refusal that was told after 30 s, as a timeout, because a slower attempt was in flight.
#[tokio::test(start_paused = true)]
async fn the_servers_word_ends_a_renewal_while_a_slower_attempt_hangs() {
    let refused = TokenError::new(ErrorClass::Credentials, "invalid_client");
    let throttled = TokenError::new(ErrorClass::Throttled, "429").with_retry_after(secs(600));
    for (error, class) in [(refused, ErrorClass::Credentials), (throttled, ErrorClass::Throttled)] {
        let (cache, asked, clock) = second_fails(error);
        let error = cache.token().await.unwrap_err();
        assert_eq!(error.class(), class);
        assert_eq!(clock.elapsed(), secs(10), "when the second attempt ended");
        assert_eq!(asked.load(Ordering::SeqCst), 2, "and there was no third");
    }
}

/// Ready only after a while, each time.
struct SlowlyReady {
    after: Duration,
    timer: Option<std::pin::Pin<Box<Sleep>>>,
}

impl Clone for SlowlyReady {
    fn clone(&self) -> Self {
        Self { after: self.after, timer: None }
    }
}

impl Service<Request<Full<bytes::Bytes>>> for SlowlyReady {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let after = self.after;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        timer.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, _: Request<Full<bytes::Bytes>>) -> Self::Future {
        std::future::ready(Ok(Response::new(Full::default())))
    }
}

/// Pins the call that queued for readiness again and again, because its token had expired each time
/// while a fresh one was available.
#[tokio::test(start_paused = true)]
async fn a_readiness_that_takes_longer_than_a_token_lives_does_not_hold_a_call_for_ever() {
    let source = source_fn(|_| async { Ok(TokenResponse::bearer("t")?.expires_in(secs(5))) });
    let cache = TokenCache::builder_from(source).clock(ManualClock::new()).build().unwrap();
    let layer = OAuthClientCredentialsLayer::from_cache(cache.clone());
    let client = layer.layer(SlowlyReady { after: secs(6), timer: None });
    let mut service = client.clone();
    ServiceExt::<Request<Full<bytes::Bytes>>>::ready(&mut service).await.unwrap();
    // It waits for a token, and then for a fresh clone to be ready.
    let call = service.call(get("/"));
    let others = tokio::spawn(async move {
        loop {
            cache.token().await.unwrap();
            tokio::time::sleep(secs(1)).await;
        }
    });
    assert_eq!(within(secs(60), call).await.unwrap().status(), StatusCode::OK);
    others.abort();
}

/// Pins the failure of the source that a panic elsewhere was taken for.
#[test]
fn a_runtime_that_is_dropped_by_a_panic_is_no_failure_of_the_source() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = source_fn(move |_| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            TokenResponse::bearer("t")
        }
    });
    let cache = TokenCache::new(source);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = runtime();
    let mut waiter = cache.token();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let first = runtime();
        first.block_on(async {
            assert!(poll_once(&mut cache.token()).is_pending());
            settle().await;
        });
        second.block_on(async { assert!(poll_once(&mut waiter).is_pending()) });
        std::panic::resume_unwind(Box::new("a panic that has nothing to do with it"));
    }));
    assert!(panicked.is_err());
    assert_eq!(second.block_on(waiter).unwrap().expose_secret(), "t");
}

/// Pins half a minute of 401s for requests that cannot be replayed: the former token, past its hard
/// point, was given to nobody, and yet nothing was forced.
#[tokio::test(start_paused = true)]
async fn without_replays_a_former_token_in_its_margin_does_not_hold_back_the_cure() {
    let provider = Provider::new();
    provider.books().challenge = STRONG;
    let layer = provider.layer().never_replay();
    let client = layer.layer(crate::provider::Api(provider.clone()));
    let status = |client: &tower_oauth2_client_credentials::OAuthClientCredentials<_, _>| {
        let call = client.clone().oneshot(get("/"));
        async move { call.await.unwrap().status() }
    };
    assert_eq!(status(&client).await, StatusCode::OK);
    provider.books().takes = [secs(0), secs(2)];
    pass(secs(3571)).await;
    assert_eq!(status(&client).await, StatusCode::OK);
    pass(secs(3)).await;
    assert_eq!(provider.asked(), 2, "the second token is there, and the first in its margin");
    provider.books().takes = [secs(0); 2];
    provider.revoke_all();
    let mut rejected = 0;
    while status(&client).await != StatusCode::OK {
        rejected += 1;
        assert!(rejected <= 2, "not cured");
        pass(secs(1)).await;
    }
}

/// Pins the second call's 401, although the first was served with the former token.
#[tokio::test(start_paused = true)]
async fn while_no_renewal_is_made_every_call_falls_back_to_the_former_token() {
    let provider = Provider::new();
    let client = provider.client();
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
    pass(secs(3230)).await;
    while provider.asked() < 2 {
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        pass(secs(5)).await;
    }
    assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
    pass(secs(125)).await;
    provider.books().mood = Mood::Unavailable;
    provider.revoke_newest();
    for call in 0..5 {
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK, "call {call}");
        pass(secs(1)).await;
    }
}

/// Pins the stored token that is used past its end, or is not replaced after a 401.
#[tokio::test(start_paused = true)]
async fn an_initial_token_is_used_renewed_and_replaced_like_any_other() {
    let provider = Provider::new();
    let stored = |provider: &Provider| {
        let (text, lifetime) = provider.stored();
        TokenResponse::bearer(text).unwrap().expires_in(lifetime)
    };
    let client = |provider: &Provider| {
        let builder = provider.builder().initial_token(stored(provider));
        builder.build().unwrap().layer(crate::provider::Api(provider.clone()))
    };
    let used = client(&provider);
    assert_eq!(answer(&used, "/").await.unwrap(), StatusCode::OK);
    assert_eq!(provider.asked(), 0);
    pass(secs(3300)).await;
    assert_eq!(answer(&used, "/").await.unwrap(), StatusCode::OK);
    settle().await;
    assert_eq!(provider.asked(), 1, "in its soft window");

    let rejected = client(&provider);
    provider.revoke_all();
    assert_eq!(answer(&rejected, "/").await.unwrap(), StatusCode::OK);
    assert_eq!(provider.asked(), 2);
}
