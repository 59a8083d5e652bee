//! Locks and atomics: from the standard library, or from loom when interleavings are model-checked.

use std::sync::TryLockError;
#[cfg(not(oauth2_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(oauth2_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

/// Locks the mutex and ignores poisoning: the data guarded by this crate's locks is consistent
/// after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// Locks the mutex if it is free, without waiting.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A value that is set once and read without a lock (under loom, which has no `OnceLock`, with
/// one).
#[derive(Debug)]
pub(crate) struct Once<T> {
    #[cfg(not(oauth2_loom))]
    value: std::sync::OnceLock<T>,
    #[cfg(oauth2_loom)]
    value: Mutex<Option<T>>,
}

#[cfg(not(oauth2_loom))]
impl<T: Clone> Once<T> {
    pub(crate) fn new() -> Self {
        Self { value: std::sync::OnceLock::new() }
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.value.get().cloned()
    }

    /// Sets the value, unless one is set already.
    pub(crate) fn set(&self, value: T) {
        let _the_first_stands = self.value.set(value);
    }
}

#[cfg(oauth2_loom)]
impl<T: Clone> Once<T> {
    pub(crate) fn new() -> Self {
        Self { value: Mutex::new(None) }
    }

    pub(crate) fn get(&self) -> Option<T> {
        lock(&self.value).clone()
    }

    pub(crate) fn set(&self, value: T) {
        lock(&self.value).get_or_insert(value);
    }
}
