//! Real revocations, at the worst moments: each is cured at once. And 401s that are none.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn};
use tower_oauth2_client_credentials::{Builder, TokenResponse, source_fn};

use crate::{
    kit::{Dice, get, millis, pass, secs, settle, within},
    provider::{Client, Provider, STRONG, WEAK, answer},
};

/// Four callers who call and wait, and call again, until told to stop.
struct Callers {
    failed: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    fn start(provider: &Provider, client: &Client) -> Self {
        let failed = Arc::new(AtomicUsize::new(0));
        let tasks = (0..4).map(|_| {
            let (client, failed, provider) =
                (client.clone(), Arc::clone(&failed), provider.clone());
            tokio::spawn(async move {
                loop {
                    if answer(&client, "/").await.unwrap() != StatusCode::OK {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    let pause = provider.books().dice.between(200, 600);
                    tokio::time::sleep(millis(pause)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { failed, tasks }
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Revokes everything again and again for 2000 s: at random, or at a random moment of a renewal.
/// Returns how many 401s the callers saw of each revocation.
async fn revocations(
    seed: u64,
    challenge: Option<&'static str>,
    api_takes_up_to: u64,
    is_aimed: bool,
) -> Vec<usize> {
    let provider = Provider::new();
    {
        let mut books = provider.books();
        books.dice = Dice::seeded(seed);
        books.challenge = challenge;
        books.takes_up_to = 500;
        books.api_takes_up_to = api_takes_up_to;
        books.lifetime = secs(300);
    }
    let client = provider.client();
    let callers = Callers::start(&provider, &client);
    let mut seen = Vec::new();
    let end = secs(2000);
    while provider.clock.elapsed() + secs(150) < end {
        let pause = provider.books().dice.between(30_000, 70_000);
        pass(millis(pause)).await;
        if is_aimed {
            while provider.books().in_flight == 0 {
                tokio::time::sleep(millis(50)).await;
            }
            let later = provider.books().dice.between(0, 800);
            pass(millis(later)).await;
        }
        let before = callers.failed();
        provider.revoke_all();
        pass(secs(25)).await;
        seen.push(callers.failed() - before);
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn three_hundred_revocations_aimed_at_renewals_are_cured_at_once() {
    for (challenge, api_takes_up_to) in [(STRONG, 1), (WEAK, 1), (STRONG, 1000)] {
        let mut revoked = 0;
        for seed in 0..35 {
            let seen = revocations(seed, challenge, api_takes_up_to, true).await;
            assert!(seen.iter().all(|&failed| failed == 0), "seed {seed}, {challenge:?}: {seen:?}");
            revoked += seen.len();
        }
        assert!(revoked >= 300, "{revoked}");
    }
}

#[tokio::test(start_paused = true)]
async fn revocations_at_random_moments_are_cured_at_once() {
    for (challenge, api_takes_up_to) in [(STRONG, 1), (WEAK, 1), (STRONG, 1000)] {
        let (mut revoked, mut histogram) = (0, BTreeMap::new());
        for seed in 0..37 {
            let seen = revocations(seed * 7919 + 1, challenge, api_takes_up_to, false).await;
            revoked += seen.len();
            seen.iter().for_each(|&failed| *histogram.entry(failed).or_insert(0) += 1);
        }
        assert!(revoked >= 840, "{revoked}");
        assert_eq!(histogram.get(&0), Some(&revoked), "{challenge:?}: {histogram:?}");
    }
}

/// The renewal's token was issued before the revocation, and arrives after it.
#[tokio::test(start_paused = true)]
async fn a_revocation_during_a_renewal_in_the_background_is_cured_at_once() {
    for challenge in [STRONG, WEAK] {
        let provider = Provider::new();
        provider.books().challenge = challenge;
        provider.books().takes = [secs(0), secs(2)];
        let client = provider.client();
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        pass(secs(3300)).await;
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        pass(secs(1)).await;
        assert_eq!((provider.asked(), provider.books().in_flight), (2, 1), "it is under way");
        provider.revoke_all();
        assert_eq!(within(secs(5), answer(&client, "/")).await.unwrap(), StatusCode::OK);
        assert_eq!(provider.asked(), 3, "the call that joined the renewal had another forced");
        assert_eq!(provider.books().api_calls, 2 + 3, "it was sent three times");
        // Nothing of that is held against the next.
        pass(secs(2)).await;
        provider.revoke_all();
        assert_eq!(within(secs(5), answer(&client, "/")).await.unwrap(), StatusCode::OK);
    }
}

/// A token is rejected while a replay with it waits for a permit.
#[tokio::test(start_paused = true)]
async fn a_replay_does_not_go_out_with_a_token_that_was_rejected_while_it_waited() {
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move { Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(secs(3600))) }
        })
    };
    let cache = Builder::from_source(source).build().unwrap().cache();
    let valid = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let api = {
        let (valid, seen) = (Arc::clone(&valid), Arc::clone(&seen));
        service_fn(move |request: Request<Full<Bytes>>| {
            let line = request.headers()[AUTHORIZATION].to_str().unwrap();
            let token: usize = line.strip_prefix("Bearer t").unwrap().parse().unwrap();
            let is_slow = request.uri().path() == "/slow";
            if !is_slow {
                seen.lock().unwrap().push(token);
            }
            let is_ok = token == valid.load(Ordering::Relaxed);
            async move {
                if is_slow {
                    tokio::time::sleep(secs(5)).await;
                }
                let mut response = Response::new(Full::<Bytes>::default());
                if !is_ok {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let limited = GlobalConcurrencyLimitLayer::new(1).layer(api);
    let layer = Builder::from_cache(cache.clone()).build().unwrap();
    let client = layer.layer(limited.clone());
    let first = client.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    valid.store(1, Ordering::Relaxed);
    let victim = tokio::spawn(client.clone().oneshot(get("/")));
    // The one permit goes to a request beside the layer as soon as the 401 has given it back.
    let mut beside = limited;
    let other = tokio::spawn(async move {
        let mut request = get("/slow");
        request.headers_mut().insert(AUTHORIZATION, "Bearer t1".parse().unwrap());
        beside.ready().await.unwrap().call(request).await
    });
    pass(secs(1)).await;
    assert_eq!(*seen.lock().unwrap(), [0, 0], "the replay waits for the permit");
    let t1 = cache.token().await.unwrap();
    assert_eq!(t1.expose_secret(), "t1");
    cache.accepted(&t1);
    valid.store(2, Ordering::Relaxed);
    assert_eq!(cache.rejected(&t1).await.unwrap().expose_secret(), "t2");
    assert_eq!(within(secs(30), victim).await.unwrap().unwrap().status(), StatusCode::OK);
    other.await.unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), [0, 0, 2]);
}

/// An endpoint that uses 401 for permissions: five renewals, and then one in a quarter of an hour.
#[tokio::test(start_paused = true)]
async fn weak_evidence_costs_five_renewals_and_then_one_in_a_quarter_of_an_hour() {
    let provider = Provider::new();
    provider.books().challenge = WEAK;
    provider.books().lifetime = secs(10 * 86_400);
    let client = provider.client();
    let hours = 3;
    for _ in 0..hours * 3600 {
        assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
        assert_eq!(answer(&client, "/misuses").await.unwrap(), StatusCode::UNAUTHORIZED);
        pass(secs(1)).await;
    }
    let asked = provider.asked();
    // The first token, five in the first minutes, and four an hour.
    assert!(asked <= 1 + 5 + hours * 4 + 1, "{asked} token requests");
    assert!(asked >= 1 + 5 + hours * 4 - 2, "it is tried now and then: {asked}");
}

/// Pins the quarter of an hour that a real revocation would take, in a state where 401s mean little.
#[tokio::test(start_paused = true)]
async fn a_revocation_among_401s_that_mean_little_is_noticed_within_a_minute() {
    for seed in 0..20 {
        let provider = Provider::new();
        provider.books().challenge = WEAK;
        provider.books().lifetime = secs(10 * 86_400);
        let client = provider.client();
        let mut dice = Dice::seeded(seed);
        let revoked_at = dice.between(1000, 3000);
        for _ in 0..revoked_at {
            assert_eq!(answer(&client, "/").await.unwrap(), StatusCode::OK);
            let _ = answer(&client, "/misuses").await.unwrap();
            pass(secs(1)).await;
        }
        provider.revoke_all();
        let mut took = 0;
        while answer(&client, "/").await.unwrap() != StatusCode::OK {
            let _ = answer(&client, "/misuses").await.unwrap();
            pass(secs(1)).await;
            took += 1;
            assert!(took <= 61, "seed {seed}: not noticed");
        }
        settle().await;
    }
}
