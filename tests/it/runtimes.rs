//! Several runtimes share a client, some of which end; and clocks at the ends of time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::runtime::Runtime;
use tower::Layer;
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, TokenError, TokenResponse, source_fn, testing::ManualClock,
};

use crate::{
    kit::{Dice, Watchdog, secs, settle},
    provider::{Api, Provider, answer},
};

fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Pins a cache that was kept warm until the runtime of its last renewal ended, and then silently
/// no more.
#[test]
fn a_warm_cache_stays_warm_when_the_runtime_of_its_last_renewal_ends() {
    let _limit = Watchdog::start(secs(300));
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let asked = Arc::clone(&asked);
        source_fn(move |_| {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(secs(3600))) }
        })
    };
    let (first, second) = (paused(), paused());
    let clock = second.block_on(async { ManualClock::new() });
    let cache = Builder::from_source(source).keep_warm().clock(clock.clone()).jitter_seed(7);
    let cache = cache.build().unwrap().cache();
    first.block_on(async {
        cache.token().await.unwrap();
        settle().await;
    });
    drop(first);
    second.block_on(async {
        // One call is enough, and it is long before the renewal.
        assert_eq!(cache.token().await.unwrap().expose_secret(), "t1");
        settle().await;
        tokio::time::sleep(secs(3 * 3600)).await;
        settle().await;
    });
    let asked = asked.load(Ordering::SeqCst);
    assert!((4..=5).contains(&asked), "asked {asked} times in three hours");
}

/// A task that panics would be started again by every call.
#[test]
fn on_a_runtime_without_a_timer_a_warm_cache_starts_no_task() {
    let source = source_fn(|_| async { Ok(TokenResponse::bearer("t1")?.expires_in(secs(3600))) });
    let cache = Builder::from_source(source).keep_warm().build().unwrap().cache();
    let first = paused();
    first.block_on(async { cache.token().await.unwrap() });
    drop(first);
    let without = tokio::runtime::Builder::new_current_thread().build().unwrap();
    without.block_on(async {
        cache.token().await.unwrap();
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    });
}

/// Two runtimes with one client, and one of them dropped 30 times in the middle of things. One
/// renewal is in flight at a time, no expired token goes out, and nobody hangs.
#[test]
fn runtimes_that_come_and_go_leave_the_client_whole() {
    let _limit = Watchdog::start(secs(300));
    let dice = Arc::new(Mutex::new(Dice::seeded(42)));
    let roll = {
        let dice = Arc::clone(&dice);
        move |below: u64| dice.lock().unwrap().between(0, below)
    };
    let (in_flight, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let source = {
        let (roll, in_flight, most) = (roll.clone(), Arc::clone(&in_flight), Arc::clone(&most));
        source_fn(move |_| {
            let (roll, in_flight, most) = (roll.clone(), Arc::clone(&in_flight), Arc::clone(&most));
            async move {
                most.fetch_max(in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _guard = Guard(in_flight);
                for _ in 0..roll(30) {
                    tokio::task::yield_now().await;
                }
                let lifetime = [0, 3_600][usize::try_from(roll(2)).unwrap()];
                if roll(24) == 0 {
                    return Err(TokenError::new(ErrorClass::Throttled, "429")
                        .with_retry_after(Duration::from_millis(1)));
                }
                Ok(TokenResponse::bearer(format!("t{}", roll(u64::MAX)))?
                    .expires_in(secs(lifetime)))
            }
        })
    };
    let cache = Builder::from_source(source).build().unwrap().cache();
    let (answered, errors) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = |runtime: &Runtime, calls: usize| -> Vec<_> {
        (0..8)
            .map(|_| {
                let (cache, roll) = (cache.clone(), roll.clone());
                let (answered, errors) = (Arc::clone(&answered), Arc::clone(&errors));
                runtime.spawn(async move {
                    for _ in 0..calls {
                        match cache.token().await {
                            Ok(token) => {
                                answered.fetch_add(1, Ordering::SeqCst);
                                // A rejection now and then sets off the next renewal.
                                match roll(4) {
                                    0 => drop(cache.rejected(&token).await),
                                    1 => drop(cache.rejected(&token)),
                                    _ => cache.accepted(&token),
                                }
                            }
                            Err(_) => {
                                errors.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                        // A runtime cannot be dropped while a task keeps its thread.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect()
    };
    let new = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let lasting = new();
    let tasks = work(&lasting, 400);
    for _ in 0..30 {
        let passing = new();
        let tasks = work(&passing, usize::MAX);
        let seen = answered.load(Ordering::SeqCst) + errors.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) + errors.load(Ordering::SeqCst) < seen + 50 {
            std::thread::yield_now();
        }
        drop(tasks);
        drop(passing);
    }
    lasting.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    drop(lasting);
    assert_eq!(in_flight.load(Ordering::SeqCst), 0);
    assert!(answered.load(Ordering::SeqCst) >= 1000, "{answered:?} tokens, {errors:?} errors");
    assert_eq!(most.load(Ordering::SeqCst), 1, "renewals in flight at once");
}

/// Wall clocks at the ends of time, stepped about; a `Retry-After` without end.
#[tokio::test(start_paused = true)]
async fn clocks_at_the_ends_of_time_cause_no_panic_and_no_loop() {
    let last = u64::try_from(i64::MAX).unwrap();
    let epoch = SystemTime::UNIX_EPOCH;
    for wall in [
        epoch.checked_sub(secs(1_000_000)).unwrap(),
        epoch,
        epoch + secs(last / 2),
        epoch + secs(last - 1),
    ] {
        let provider = Provider::with_clock(ManualClock::starting_at(wall));
        let asked = Arc::new(AtomicUsize::new(0));
        let source = {
            let (asked, provider) = (Arc::clone(&asked), provider.clone());
            source_fn(move |_| {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let provider = provider.clone();
                async move {
                    if number % 3 == 2 {
                        return Err(TokenError::new(ErrorClass::Throttled, "429")
                            .with_retry_after(Duration::MAX));
                    }
                    // The API knows the tokens of the provider.
                    let token = provider.builder().build().unwrap().cache().token().await?;
                    Ok(TokenResponse::bearer(token.expose_secret())?.expires_in(secs(3600)))
                }
            })
        };
        let cache = Builder::from_source(source)
            .clock(provider.clock.clone())
            .issuance_budget(50, secs(3600))
            .keep_warm()
            .build()
            .unwrap()
            .cache();
        let layer = Builder::from_cache(cache.clone()).build().unwrap();
        let client = layer.layer(Api(provider.clone()));
        let mut failed = 0;
        for n in 0..100 {
            failed += u32::from(!answer(&client, "/").await.is_ok_and(|s| s == StatusCode::OK));
            tokio::time::sleep(secs(300)).await;
            match n % 10 {
                0 => provider.clock.step_wall_forward(secs(100_000)),
                5 => provider.clock.step_wall_back(secs(u64::MAX / 4)),
                _ => {}
            }
            let mut peeking = cache.clone();
            let _ = format!("{cache:?} {:?}", peeking.peek().map(|token| token.expires_at()));
        }
        assert!(failed <= 30, "{wall:?}: {failed} of 100 calls failed");
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked <= 60, "{wall:?}: asked {asked} times");
    }
}
