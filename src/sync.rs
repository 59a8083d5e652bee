//! Locks and atomics: the standard library's, or loom's when the interleavings are model-checked.

#[cfg(not(oauth2_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(oauth2_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

/// Locks, also after a panic under the lock: what the locks of this crate guard is whole after
/// every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

/// A value that is set once. To read it takes no lock (under loom, which has no such thing, it does).
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

    /// The first value stands.
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
