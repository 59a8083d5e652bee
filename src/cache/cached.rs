//! [`Cached`]: a handle's private copy of an answer of the cache. Using it again takes no lock,
//! reads no exact clock and, for a handle that stays in use, writes to no memory that other threads
//! use.
//!
//! # Protocol
//!
//! An answer holds for an *epoch* of the cache and *until* a point in time. While the epoch stands
//! and neither clock has reached that time, the copy is *current*: the cache would answer the same.
//!
//! 1. [`is_current_fast`](Cached::is_current_fast) runs for each request. `true` is certain;
//!    `false` means that the copy must be refreshed.
//! 2. [`refresh`](Cached::refresh) reads the exact clocks, unless another clone of the handle has
//!    done so within the same second. The clones of a handle share the *latest* copy, behind a lock:
//!    it tells a clone that was made for a single request what the others know.
//! 3. If the copy is [`Outdated`](Refreshed::Outdated), the cache is asked. Its answer replaces the
//!    copy and becomes the latest one: [`replace`](Cached::replace).
//!
//! An answer that is valid only at the moment of asking is meant for a single request. `replace`
//! stores it for that request; neither the next request nor another clone finds it.
//!
//! # Ownership
//!
//! A copy shares its bytes with the one that it was made from, so each use writes to a reference
//! count. That suits a clone that is made for a single request. A handle that stays in use for more
//! than a second or two is [`Promoted`](Refreshed::Promoted): it makes its own copy of the bytes,
//! now and with each new answer.

use super::driver::Driver;
use crate::{
    clock::{Deadline, Now},
    sync::{Mutex, lock, try_lock},
};

/// An answer of the cache, with the epoch and the time for which it is valid.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    epoch: u64,
    until: Deadline,
    ownership: Ownership,
    value: T,
}

/// A value whose clones share memory.
pub(crate) trait Detach: Clone {
    /// Returns a copy that shares no memory with `self`.
    fn detached(&self) -> Self;
}

/// The owner of the value's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    /// The copy that this one was cloned from.
    Borrowed,
    /// Shared with other copies; this handle has used them in an earlier second.
    Shared,
    /// This copy alone.
    Owned,
}

/// The result of [`Cached::refresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// The copy is current.
    Current,
    /// The copy is current, and has just made its bytes its own. Returned once by each handle.
    Promoted,
    /// The cache must be asked.
    Outdated,
}

/// Not an epoch of any cache: those start at one.
const NO_EPOCH: u64 = 0;

impl<T> Cached<T> {
    /// Returns a copy that is never current.
    pub(crate) fn none(value: T) -> Self {
        Self { epoch: NO_EPOCH, until: Deadline::past(), ownership: Ownership::Borrowed, value }
    }

    /// Returns a copy of the answer that the cache gave at `now`, in `epoch`. If `until` is not
    /// after `now`, the answer is for a single request, and the copy is never current.
    pub(crate) fn new(value: T, epoch: u64, until: Now, now: Now) -> Self {
        if now.is_before(until) {
            let until = Deadline::new(until);
            Self { epoch, until, ownership: Ownership::Shared, value }
        } else {
            Self::none(value)
        }
    }

    /// Returns the last answer. It is meaningful after one of the checks, or after
    /// [`replace`](Self::replace).
    #[inline(always)]
    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// Returns `true` if the copy is certainly current, by the epoch and the coarse clock. `false`
    /// means that it must be refreshed.
    #[inline(always)]
    pub(crate) fn is_current_fast(&self, driver: &Driver) -> bool {
        self.epoch == driver.epoch() && driver.clock.is_before_fast(&self.until)
    }

    /// Returns whether the copy is current, by the epoch and the exact clocks. If so,
    /// [`is_current_fast`](Self::is_current_fast) is `true` for the rest of this second.
    pub(crate) fn is_current(&mut self, driver: &Driver) -> bool {
        self.epoch == driver.epoch() && driver.clock.is_before(&mut self.until)
    }
}

impl<T: Detach> Cached<T> {
    /// Updates the copy without asking the cache, if that is possible: by the exact clocks, or from
    /// the `latest` copy of the handle's clones.
    pub(crate) fn refresh(&mut self, latest: &Mutex<Self>, driver: &Driver) -> Refreshed {
        if self.is_current_fast(driver) {
            return Refreshed::Current;
        }
        if self.epoch != driver.epoch() {
            let mut latest = lock(latest);
            if latest.is_current_fast(driver) || latest.is_current(driver) {
                self.adopt(&latest);
                return Refreshed::Current;
            }
            return Refreshed::Outdated;
        }
        // A lock that another clone holds is not waited for: the clocks give the same result.
        let mut latest = try_lock(latest);
        let validated = latest.as_deref().filter(|latest| self.is_validated_by(latest, driver));
        if let Some(latest) = validated {
            // One reading of the exact clocks per second serves all clones.
            self.until = latest.until;
        } else if self.is_current(driver) {
            if let Some(latest) = latest.as_deref_mut()
                && self.epoch == latest.epoch
            {
                latest.until = self.until;
            }
        } else if let Some(latest) = latest.as_deref_mut()
            && latest.is_current(driver)
        {
            // The cache has told another clone that the same token holds for longer.
            self.adopt(latest);
            return Refreshed::Current;
        } else {
            return Refreshed::Outdated;
        }
        drop(latest);
        self.promote()
    }

    /// Replaces the copy with a new answer of the cache, and tells the handle's clones.
    pub(crate) fn replace(&mut self, answer: Self, latest: &Mutex<Self>) {
        self.adopt(&answer);
        if answer.epoch != NO_EPOCH {
            *lock(latest) = self.clone();
        }
    }

    /// Returns whether `other` is the same answer, and current.
    fn is_validated_by(&self, other: &Self, driver: &Driver) -> bool {
        self.epoch == other.epoch && other.is_current_fast(driver)
    }

    /// Replaces this copy with `other`, and detaches the bytes if this copy owned its bytes before.
    fn adopt(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.until = other.until;
        if self.ownership == Ownership::Owned {
            self.value = other.value.detached();
        } else {
            self.value.clone_from(&other.value);
            self.ownership = Ownership::Shared;
        }
    }

    /// Promotes a current copy by one step towards owning its bytes. This runs at most once per
    /// second, so a clone made for a single request is never promoted.
    fn promote(&mut self) -> Refreshed {
        match self.ownership {
            // Close to the end of the answer, this runs for each request.
            _ if self.until.is_close() => {}
            Ownership::Borrowed => self.ownership = Ownership::Shared,
            Ownership::Shared => {
                self.value = self.value.detached();
                self.ownership = Ownership::Owned;
                return Refreshed::Promoted;
            }
            Ownership::Owned => {}
        }
        Refreshed::Current
    }
}

/// A clone borrows the bytes.
impl<T: Clone> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ownership: Ownership::Borrowed, ..*self }
    }
}

#[cfg(test)]
#[cfg(all(feature = "testing", not(oauth2_loom)))]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        cache::{Settings, TokenCache},
        testing::ManualClock,
        token::{TokenResponse, source_fn},
    };

    #[derive(Clone)]
    struct Value(Arc<u32>);

    impl Detach for Value {
        fn detached(&self) -> Self {
            Self(Arc::new(*self.0))
        }
    }

    /// A cache, whose epoch changes with each token, and the copies of two clones of a handle.
    struct Stand {
        cache: TokenCache,
        latest: Mutex<Cached<Value>>,
        first: Cached<Value>,
        second: Cached<Value>,
    }

    impl Stand {
        fn new() -> Self {
            let settings = Settings { clock: ManualClock::new().to_clock(), ..Settings::default() };
            let source = Arc::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
            let none = Cached::none(Value(Arc::new(0)));
            Self {
                cache: TokenCache::with_settings(source, settings),
                latest: Mutex::new(none.clone()),
                first: none.clone(),
                second: none,
            }
        }

        fn driver(&self) -> &Driver {
            self.cache.driver()
        }

        /// The cache answers the first clone with `value`, for `seconds` from now on.
        fn answer(&mut self, value: u32, seconds: u64) {
            let now = self.driver().clock.now();
            let until = now.plus(Duration::from_secs(seconds));
            let answer = Cached::new(Value(Arc::new(value)), self.driver().epoch(), until, now);
            self.first.replace(answer, &self.latest);
        }

        fn refresh_first(&mut self) -> Refreshed {
            self.first.refresh(&self.latest, self.cache.driver())
        }

        fn refresh_second(&mut self) -> Refreshed {
            self.second.refresh(&self.latest, self.cache.driver())
        }
    }

    /// Prevents a clone that asks the cache for each request, and one that keeps a token of another
    /// epoch.
    #[tokio::test(start_paused = true)]
    async fn a_clone_adopts_the_latest_answer_of_the_standing_epoch() {
        let mut stand = Stand::new();
        assert_eq!(stand.refresh_second(), Refreshed::Outdated, "nothing is known");
        stand.answer(1, 60);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        assert!(Arc::ptr_eq(&stand.second.value().0, &stand.first.value().0), "the same bytes");
        assert!(stand.second.is_current_fast(stand.driver()));

        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stand.refresh_first(), Refreshed::Promoted, "by the exact clocks");
        assert!(!stand.second.is_current_fast(stand.driver()), "another second");
        assert_eq!(stand.refresh_second(), Refreshed::Promoted, "by what the first has read");
        assert!(stand.second.is_current_fast(stand.driver()));

        stand.cache.token().await.unwrap();
        assert!(!stand.second.is_current_fast(stand.driver()), "another epoch");
        assert_eq!(stand.refresh_second(), Refreshed::Outdated);
        stand.answer(2, 60);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        assert_eq!(*stand.second.value().0, 2);
    }

    /// Prevents reuse of a token that the cache gave to a single request.
    #[tokio::test(start_paused = true)]
    async fn an_answer_for_one_request_is_found_by_no_other() {
        let mut stand = Stand::new();
        stand.answer(1, 60);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        stand.answer(2, 0);
        assert_eq!(*stand.first.value().0, 2, "this request has it");
        assert!(!stand.first.is_current_fast(stand.driver()));
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        assert_eq!(*stand.second.value().0, 1);
        assert_eq!(stand.refresh_first(), Refreshed::Current, "the other clone's knowledge");
        assert_eq!(*stand.first.value().0, 1);
    }

    /// Prevents every clone from asking the cache once a renewal is due, although one was told that
    /// the token is valid for longer.
    #[tokio::test(start_paused = true)]
    async fn a_copy_at_its_end_is_extended_by_the_latest_one() {
        let mut stand = Stand::new();
        stand.answer(1, 10);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(stand.refresh_second(), Refreshed::Outdated, "both are");
        stand.answer(1, 10);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
    }

    /// Prevents bytes that are shared again after each renewal, and bytes that are copied for a
    /// clone made for a single request.
    #[tokio::test(start_paused = true)]
    async fn a_handle_that_stays_in_use_owns_its_bytes_from_then_on() {
        let mut stand = Stand::new();
        stand.answer(1, 60);
        let driver = Arc::clone(&stand.first.value().0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stand.refresh_first(), Refreshed::Promoted);
        assert_eq!(Arc::strong_count(&stand.first.value().0), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stand.refresh_first(), Refreshed::Current, "promoted once");

        stand.second = stand.first.clone();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        assert!(Arc::ptr_eq(&stand.second.value().0, &stand.first.value().0), "a clone borrows");
        assert!(!Arc::ptr_eq(&driver, &stand.first.value().0));

        stand.cache.token().await.unwrap();
        stand.answer(2, 60);
        let latest = Arc::clone(&lock(&stand.latest).value().0);
        assert_eq!(*stand.first.value().0, 2);
        assert_eq!(stand.refresh_second(), Refreshed::Current);
        assert!(Arc::ptr_eq(&stand.second.value().0, &latest));
        stand.cache.token().await.unwrap();
    }

    /// Prevents a copy for each request in the last seconds of a token.
    #[tokio::test(start_paused = true)]
    async fn a_copy_close_to_its_end_is_not_promoted() {
        let mut stand = Stand::new();
        stand.answer(1, 2);
        for _ in 0..3 {
            assert_eq!(stand.refresh_first(), Refreshed::Current);
            assert!(!stand.first.is_current_fast(stand.driver()), "the exact clocks count");
        }
    }
}
