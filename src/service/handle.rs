//! [`Handle`]: everything that the service and its response futures share.

use std::sync::Arc;

use super::header::TokenHeader;
use crate::{
    cache::{Cached, Driver},
    error::{ErrorClass, TokenError},
    policy::Policy,
    sync::{Mutex, lock},
};

/// Everything that a response future may need. It is behind one pointer, since most responses need
/// none of it.
pub(crate) struct Handle<S> {
    pub(crate) driver: Arc<Driver>,
    pub(crate) policy: Arc<Policy>,
    /// The inner service, cloned for each call that the service itself does not make.
    template: Mutex<S>,
    /// The copy that was last validated or replaced by any service with this handle.
    pub(super) latest: Mutex<Cached<TokenHeader>>,
}

impl<S: Clone> Handle<S> {
    pub(super) fn new(
        driver: Arc<Driver>,
        policy: Arc<Policy>,
        template: S,
        latest: Cached<TokenHeader>,
    ) -> Arc<Self> {
        let (template, latest) = (Mutex::new(template), Mutex::new(latest));
        Arc::new(Self { driver, policy, template, latest })
    }

    /// Returns a clone of the inner service that is not ready yet.
    pub(crate) fn fresh_inner(&self) -> S {
        lock(&self.template).clone()
    }
}

/// Returns the error of a request whose [`HeaderMap`](http::HeaderMap) is full, at 32,768 headers.
#[cold]
pub(crate) fn too_many_headers() -> TokenError {
    TokenError::new(ErrorClass::Headers, "the request has no room for one more header")
}
