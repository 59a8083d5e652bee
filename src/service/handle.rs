//! [`Handle`]: everything that the service and its response futures share.

use std::sync::Arc;

use super::header::TokenHeader;
use crate::{
    cache::{Cached, Driver},
    error::{ErrorClass, TokenError},
    rules::Rules,
    sync::{Mutex, lock},
};

/// Everything that a response future may need, behind one pointer, since most responses need none
/// of it.
pub(crate) struct Handle<S> {
    pub(crate) driver: Arc<Driver>,
    pub(crate) rules: Arc<Rules>,
    /// Cloned for each call that is not made by the service itself.
    template: Mutex<S>,
    /// The copy that any of the services with this handle has validated or replaced last.
    pub(super) latest: Mutex<Cached<TokenHeader>>,
}

impl<S: Clone> Handle<S> {
    pub(super) fn new(
        driver: Arc<Driver>,
        rules: Arc<Rules>,
        template: S,
        latest: Cached<TokenHeader>,
    ) -> Arc<Self> {
        let (template, latest) = (Mutex::new(template), Mutex::new(latest));
        Arc::new(Self { driver, rules, template, latest })
    }

    /// Returns a clone of the inner service that has yet to be made ready.
    pub(crate) fn fresh_inner(&self) -> S {
        lock(&self.template).clone()
    }
}

/// `HeaderMap` takes 32,768 headers.
#[cold]
pub(crate) fn too_many_headers() -> TokenError {
    TokenError::new(ErrorClass::Headers, "the request has no room for one more header")
}
