//! The interleavings, model-checked with loom: the production code of the cache, the flight and
//! the renewal's landing, with threads in place of tasks. See ARCHITECTURE.md for how to run it.
//!
//! A model fails when any interleaving panics, deadlocks (a lost wake-up) or breaks an assertion.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use loom::{future::block_on, thread};

use super::{
    Answer, Call, Driver, Reason, RejectAction, Rejected, Settings, TokenCache,
    renewal::RenewalGuard,
};
use crate::{
    challenge::Evidence,
    clock::{Clock, Now, ReadClock},
    error::{ErrorClass, TokenError},
    token::{Attempt, BoxFuture, TokenResponse, TokenSource},
};

/// In place of a Tokio task: a thread that asks the source once and lands.
pub(crate) fn run(driver: &Arc<Driver>, guard: RenewalGuard) {
    let source = Arc::clone(&driver.source);
    let t0 = driver.clock.now();
    drop(thread::spawn(move || {
        match block_on(source.fetch(Attempt::first())) {
            // Stands for a task that is aborted or panics: the guard is dropped.
            Err(error) if error.class() == ErrorClass::Interrupted => drop(guard),
            result => drop(guard.finish(result.map(|response| (response, t0)))),
        }
    }));
}

/// Numbers its tokens, from 1. Not loom's atomics: what the source does is not what is checked.
struct Source {
    asked: AtomicU32,
    first: Option<ErrorClass>,
}

impl Source {
    fn new() -> Arc<Self> {
        Arc::new(Self { asked: AtomicU32::new(0), first: None })
    }

    fn failing_first(class: ErrorClass) -> Arc<Self> {
        Arc::new(Self { asked: AtomicU32::new(0), first: Some(class) })
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl TokenSource for Source {
    fn fetch<'a>(&'a self, _: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let result = match self.first {
            Some(class) if number == 1 => Err(TokenError::new(class, "as the model wants it")),
            _ => TokenResponse::bearer(number.to_string())
                .map(|response| response.expires_in(Duration::from_secs(3600))),
        };
        Box::pin(std::future::ready(result))
    }
}

/// Stands still, at some moment of the token's life.
struct At(u64);

impl ReadClock for At {
    fn now(&self) -> Now {
        let now = Duration::from_secs(self.0);
        Now { mono: now, wall: now }
    }
}

fn cache(source: &Arc<Source>) -> TokenCache {
    let settings =
        Settings { clock: Clock::Test(Arc::new(At(1))), seed: Some(1), ..Settings::default() };
    TokenCache::with_settings(Arc::clone(source) as _, settings)
}

fn text(cache: &TokenCache) -> String {
    block_on(cache.token()).unwrap().expose_secret().to_owned()
}

fn reject(driver: &Arc<Driver>, generation: u64, evidence: Evidence, call: Call) -> RejectAction {
    let rejected = Rejected { generation, evidence, call, is_replayable: true };
    driver.reject(rejected, driver.clock.now())
}

/// At a handful of preemptions the space is searched whole; more finds nothing new and takes hours.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

#[test]
fn two_cold_callers_share_one_renewal() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let other = cache.clone();
        let caller = thread::spawn(move || text(&other));
        assert_eq!(text(&cache), "1");
        assert_eq!(caller.join().unwrap(), "1");
        assert_eq!(source.asked(), 1);
    });
}

#[test]
fn who_joins_while_the_renewal_lands_is_served() {
    check(|| {
        let source = Source::failing_first(ErrorClass::Interrupted);
        let cache = cache(&source);
        let other = cache.clone();
        let caller = thread::spawn(move || block_on(other.token()).is_ok());
        let served = block_on(cache.token()).is_ok();
        let other_served = caller.join().unwrap();
        // The renewal that was cut short failed those who had joined it; the next call is right.
        assert!(u32::from(served) + u32::from(other_served) < 2 || source.asked() == 2);
        assert!(block_on(cache.token()).is_ok());
        assert_eq!(source.asked(), 2);
    });
}

#[test]
fn a_failure_is_shared_and_remembered() {
    check(|| {
        let source = Source::failing_first(ErrorClass::Transient);
        let cache = cache(&source);
        let other = cache.clone();
        let caller = thread::spawn(move || block_on(other.token()).is_err());
        assert!(block_on(cache.token()).is_err());
        assert!(caller.join().unwrap());
        assert_eq!(source.asked(), 1);
    });
}

#[test]
fn two_rejections_of_one_token_force_one_renewal() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let token = block_on(cache.token()).unwrap();
        let (other, rejected) = (cache.clone(), token.clone());
        let caller = thread::spawn(move || {
            block_on(other.rejected(&rejected)).unwrap().expose_secret().to_owned()
        });
        assert_eq!(block_on(cache.rejected(&token)).unwrap().expose_secret(), "2");
        assert_eq!(caller.join().unwrap(), "2");
        assert_eq!(source.asked(), 2);
    });
}

#[test]
fn a_rejection_and_the_publication_of_its_successor_do_not_miss_each_other() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let token = block_on(cache.token()).unwrap();
        // One caller's rejection renews; another's arrives before, during or after.
        let renewing = cache.rejected(&token);
        let other = cache.clone();
        let caller = thread::spawn(move || {
            block_on(other.rejected(&token)).unwrap().expose_secret().to_owned()
        });
        assert_eq!(caller.join().unwrap(), "2");
        assert_eq!(block_on(renewing).unwrap().expose_secret(), "2");
        assert_eq!(source.asked(), 2, "the late one must not renew again");
    });
}

#[test]
fn a_replay_that_is_rejected_starts_the_pause_whoever_else_is_about() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let first = block_on(cache.token()).unwrap();
        let second = block_on(cache.rejected(&first)).unwrap();
        let driver = Arc::clone(cache.driver());
        let generation = second.snapshot().generation;
        let other = Arc::clone(&driver);
        let late = first.snapshot().generation;
        let caller = thread::spawn(move || {
            // A late rejection of the first token: a replay, or the pause, but no renewal.
            match reject(&other, late, Evidence::Weak, Call::default()) {
                RejectAction::Wait(_) => panic!("renewed for a token that is long replaced"),
                RejectAction::Retry(_) | RejectAction::GiveUp(_) => {}
            }
        });
        let replay = Call::of_replay(second.snapshot());
        let decision = reject(&driver, generation, Evidence::Weak, replay);
        assert!(matches!(decision, RejectAction::GiveUp(Reason::ReplayRejected)));
        caller.join().unwrap();
        let again = reject(&driver, generation, Evidence::Weak, Call::default());
        assert!(matches!(again, RejectAction::GiveUp(Reason::Cooldown { .. })));
        assert_eq!(source.asked(), 2);
    });
}

#[test]
fn a_copy_is_out_of_date_once_its_successor_is_published() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let token = block_on(cache.token()).unwrap();
        let mut reader = cache.clone();
        assert_eq!(reader.peek().unwrap().expose_secret(), "1");
        let renewing = cache.rejected(&token);
        let renewed = thread::spawn(move || drop(block_on(renewing).unwrap()));
        // Meanwhile either is right.
        let text = reader.peek().unwrap().expose_secret().to_owned();
        assert!(text == "1" || text == "2");
        renewed.join().unwrap();
        assert_eq!(reader.peek().unwrap().expose_secret(), "2");
    });
}

#[test]
fn the_last_handle_may_go_while_the_renewal_lands() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let mut token = Box::pin(cache.token());
        let mut cx = Context::from_waker(Waker::noop());
        let _ = token.as_mut().poll(&mut cx);
        drop(token);
        drop(cache);
    });
}

#[test]
fn a_waiter_who_leaves_takes_nobody_elses_place() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let mut leaving = Box::pin(cache.token());
        let mut cx = Context::from_waker(Waker::noop());
        let left = leaving.as_mut().poll(&mut cx);
        assert!(left.is_pending() || matches!(left, Poll::Ready(Ok(_))));
        let other = cache.clone();
        let caller = thread::spawn(move || text(&other));
        drop(leaving);
        assert_eq!(text(&cache), "1");
        assert_eq!(caller.join().unwrap(), "1");
    });
}

#[test]
fn a_blocking_rejection_holds_new_callers_until_the_renewal_lands() {
    check(|| {
        let source = Source::new();
        let cache = cache(&source);
        let token = block_on(cache.token()).unwrap();
        let driver = Arc::clone(cache.driver());
        let generation = token.snapshot().generation;
        let now = driver.clock.now();
        let rejection = reject(&driver, generation, Evidence::Strong, Call::default());
        assert!(matches!(rejection, RejectAction::Wait(_)));
        match driver.acquire(now).0 {
            Answer::Use(granted) => assert_eq!(granted.snapshot.generation, generation + 1),
            Answer::Wait(_) => {}
            Answer::Refuse(error) => panic!("{error}"),
        }
        assert_eq!(text(&cache), "2");
    });
}
