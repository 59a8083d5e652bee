//! One token as it was issued: [`AccessToken`] for users, and [`IssuedToken`], which the cache
//! shares. Both are immutable; later facts about a token are in the cache.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;

use super::{
    schedule::Schedule,
    source::{Scheme, TokenResponse, secret_text},
};
use crate::clock::Now;

/// An access token, ready to be added to a request.
///
/// Cheap to clone. `Debug` does not show the token.
#[derive(Clone)]
pub struct AccessToken {
    snapshot: Arc<IssuedToken>,
}

/// A token as it was issued.
pub(crate) struct IssuedToken {
    /// The number of the token in its cache, from 1. A token that the server issues again keeps its
    /// number.
    pub(crate) generation: u64,
    pub(crate) header: HeaderValue,
    pub(crate) schedule: Schedule,
    /// Whether it was requested because of a rejection.
    pub(crate) forced: bool,
    scheme: Scheme,
    scope: Option<Box<str>>,
}

impl IssuedToken {
    pub(crate) fn new(
        response: TokenResponse,
        generation: u64,
        schedule: Schedule,
        forced: bool,
    ) -> Self {
        let (header, scheme, scope) = response.into_parts();
        Self { generation, header, schedule, forced, scheme, scope }
    }

    /// Returns the same token under another number, or with another schedule.
    pub(crate) fn renumbered(&self, generation: u64, schedule: Schedule, forced: bool) -> Self {
        let (header, scope) = (self.header.clone(), self.scope.clone());
        Self { generation, header, schedule, forced, scheme: self.scheme, scope }
    }

    /// Returns `true` if it is usable at `now`. An uncacheable token serves its waiters, whenever
    /// that is.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.schedule.is_uncacheable() || self.schedule.is_usable(now)
    }
}

impl AccessToken {
    pub(crate) fn new(snapshot: Arc<IssuedToken>) -> Self {
        Self { snapshot }
    }

    pub(crate) fn snapshot(&self) -> &Arc<IssuedToken> {
        &self.snapshot
    }

    /// Returns the value for the `Authorization` header: the scheme and the token, marked sensitive
    /// (RFC 6750 section 2.1).
    #[must_use]
    pub fn header(&self) -> &HeaderValue {
        &self.snapshot.header
    }

    /// Returns the token without its scheme. Keep it out of logs.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        secret_text(&self.snapshot.header, self.snapshot.scheme)
    }

    /// Returns the scheme: `Bearer`, or `Basic` for a static id and secret.
    #[must_use]
    pub fn token_type(&self) -> &str {
        self.snapshot.scheme.as_str()
    }

    /// Returns the granted scope, if the server named one.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.snapshot.scope.as_deref()
    }

    /// Returns the time at which the token expires, by the wall clock at the time of the request.
    /// `None` means that it never expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        let expiry = self.snapshot.schedule;
        (expiry.lifetime() != Duration::MAX).then(|| expiry.expires_at().system_time())
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("token_type", &self.token_type())
            .field("scope", &self.scope())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("generation", &self.generation)
            .field("schedule", &self.schedule)
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}
