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
