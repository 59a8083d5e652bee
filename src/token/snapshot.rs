//! One token as it was issued: [`AccessToken`] for users, and behind it the snapshot that the
//! cache shares. Neither ever changes; what is learned about a token later is in the cache.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;

use super::{
    schedule::{Schedule, Standing},
    source::{Scheme, TokenResponse, secret_text},
};
use crate::clock::Now;

/// An access token, ready to be put on a request.
///
/// Cheap to clone. `Debug` does not show the token.
#[derive(Clone)]
pub struct AccessToken {
    snapshot: Arc<Snapshot>,
}

pub(crate) struct Snapshot {
    /// Numbers the tokens of one cache, from 1.
    pub(crate) generation: u64,
    /// The generation in which this very token was first seen: servers hand out a token again.
    pub(crate) first_seen: u64,
    pub(crate) header: HeaderValue,
    pub(crate) schedule: Schedule,
    /// It came because a request was rejected.
    pub(crate) forced: bool,
    scheme: Scheme,
    scope: Option<Box<str>>,
}

impl Snapshot {
    /// What `response` becomes as the token after `former`.
    pub(crate) fn new(
        response: TokenResponse,
        mut schedule: Schedule,
        generation: u64,
        forced: bool,
        former: Option<&Self>,
    ) -> Self {
        let (header, scheme, scope) = response.into_parts();
        let mut first_seen = generation;
        if let Some(former) = former.filter(|former| former.header == header) {
            first_seen = former.first_seen;
            // The same token with the same end: asking again and again would bring nothing.
            if schedule.ends_with(&former.schedule) {
                schedule = schedule.again(&former.schedule, forced);
            }
        }
        Self { generation, first_seen, header, schedule, forced, scheme, scope }
    }

    /// The same token, to be used to its end before another is asked for.
    pub(crate) fn to_the_end(&self) -> Self {
        Self {
            header: self.header.clone(),
            schedule: self.schedule.to_the_end(),
            scope: self.scope.clone(),
            ..*self
        }
    }

    /// May it go out at `now`? A token of no lifetime serves those who waited for it.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.schedule.is_for_once() || self.schedule.standing(now) != Standing::Expired
    }
}

impl AccessToken {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The value for the `Authorization` header, `Bearer` and the token, marked sensitive
    /// (RFC 6750 section 2.1).
    #[must_use]
    pub fn header(&self) -> &HeaderValue {
        &self.snapshot.header
    }

    /// The token itself. Keep it out of logs.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        secret_text(&self.snapshot.header, self.snapshot.scheme)
    }

    /// How the token is presented: `Bearer`, or `Basic` for a static id and secret.
    #[must_use]
    pub fn token_type(&self) -> &str {
        self.snapshot.scheme.as_str()
    }

    /// The scope that was granted, if the server named one.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.snapshot.scope.as_deref()
    }

    /// When the token expires, by the wall clock at the time it was asked for.
    /// `None`: it never does.
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

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("first_seen", &self.first_seen)
            .field("schedule", &self.schedule)
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}
