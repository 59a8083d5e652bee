//! The settings of a token cache.

use std::time::Duration;

use super::{
    base::Builder,
    target::{HasCache, MakesCache},
};
use crate::error::server_text;

/// # Cache settings
impl<T: HasCache, S: MakesCache> Builder<T, S> {
    /// Sets the time after which another attempt joins a slow one. Default: 10 s. The slow attempt
    /// is not cut off: the first response counts. Must not exceed
    /// [`renewal_timeout`](Self::renewal_timeout), which is best set to three times this value: a
    /// renewal whose attempts all hang ends then and not before.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("attempt_timeout", timeout);
        self.shared.attempt_timeout = Some(timeout);
        self
    }

    /// Sets the deadline of a whole renewal, which tries up to three times, or once while an
    /// earlier failure is remembered. A slow attempt is joined by others, up to three in flight.
    /// Default: 30 s.
    pub fn renewal_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("renewal_timeout", timeout);
        self.shared.settings.renewal_timeout = timeout;
        self
    }

    /// Sets the lifetime to assume if the server does not announce one and the token is not a JWT
    /// with an `exp` claim. Default: 5 minutes.
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.check_duration("default_lifetime", lifetime);
        self.shared.settings.lifetimes.default = lifetime;
        self
    }

    /// Sets the longest announced lifetime that is believed; longer ones count as this. Default: 30
    /// days. [`default_lifetime`](Self::default_lifetime) is not capped.
    ///
    /// Servers announce years where they mean "until revoked", and milliseconds where RFC 6749
    /// section 5.1 has seconds. A token that expires unseen costs a rejected request; one that is
    /// asked for more often than needed costs little.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
    ///
    /// let year = Duration::from_secs(365 * 24 * 3600);
    /// let source = source_fn(move |_| async move {
    ///     Ok(TokenResponse::bearer("t0k3n")?.expires_in(year))
    /// });
    /// let cache = TokenCache::builder_from(source).max_lifetime(year).build()?;
    /// # drop(cache);
    /// # Ok::<(), tower_oauth2_client_credentials::BoxError>(())
    /// ```
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.check_duration("max_lifetime", lifetime);
        self.shared.settings.lifetimes.max = lifetime;
        self
    }

    /// Limits token requests to `tokens` in any `period`, for providers that limit or bill them.
    /// Default: no limit.
    ///
    /// The budget is checked for each attempt. A failed attempt counts unless the server cannot
    /// have issued a token: a success that cannot be used, a 500, 502 or 504, and a connection that
    /// broke after the request was sent count. After such a failure, the next attempt is delayed by
    /// a tenth of the average interval (`period / tokens / 10`).
    ///
    /// Background renewals and renewals after a 401 yield first: a fifth of the budget, rounded up,
    /// is reserved for calls that have no usable token. Once the budget is used up, such calls fail
    /// with [`ErrorClass::Budget`](crate::ErrorClass::Budget), which gives the time of the next
    /// possible request.
    pub fn issuance_budget(mut self, tokens: u32, period: Duration) -> Self {
        if period.is_zero() {
            self.fail("issuance_budget", "has a period of zero");
        }
        if tokens == 0 {
            self.fail("issuance_budget", "must allow at least one token");
        }
        self.shared.settings.budget = Some((tokens, period));
        self
    }

    /// Starts with a token that was fetched earlier, for example one that another process stored.
    /// Without it, the first request fetches one.
    ///
    /// The lifetime of `response` counts from now, so pass what is left of it. A token without a
    /// lifetime (`expires_in` of zero) is ignored. An API that rejects the token has it renewed like
    /// any other. The token does not count as issued.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use std::time::Duration;
    /// use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
    ///
    /// let stored = TokenResponse::bearer("stored")?.expires_in(Duration::from_secs(1800));
    /// let source = source_fn(|_| async { TokenResponse::bearer("fetched") });
    /// let cache = TokenCache::builder_from(source).initial_token(stored).build()?;
    ///
    /// assert_eq!(cache.token().await?.expose_secret(), "stored");
    /// assert_eq!(cache.issued(), 0);
    /// # Ok::<(), tower_oauth2_client_credentials::BoxError>(()) }).unwrap();
    /// ```
    pub fn initial_token(mut self, response: crate::TokenResponse) -> Self {
        self.shared.settings.initial_token = Some(response);
        self
    }

    /// Renews the token on a timer as well, once a first token has been fetched. By default, only
    /// requests trigger renewals, so that an idle client uses no quota.
    pub fn keep_warm(mut self) -> Self {
        self.shared.settings.keep_warm = true;
        self
    }

    /// Sets the seed of the jitter, for reproducible tests.
    #[cfg(feature = "testing")]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.shared.settings.seed = Some(seed);
        self
    }

    fn check_duration(&mut self, setting: &'static str, duration: Duration) {
        if duration.is_zero() {
            self.fail(setting, "must be longer than zero");
        }
    }
}

/// # Name and clock
impl<T, S: MakesCache> Builder<T, S> {
    /// Sets the client's name in errors, for programs with several clients. Without a name, errors
    /// show the client id and the host of the token URL, or nothing if the source is your own.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use tower_oauth2_client_credentials::{ErrorClass, TokenCache, TokenError, source_fn};
    ///
    /// let down = || TokenError::new(ErrorClass::Request, "no such tenant");
    /// let source = source_fn(move |_| async move { Err(down()) });
    /// let crm = TokenCache::builder_from(source).name("crm").build()?;
    ///
    /// let error = crm.token().await.unwrap_err();
    /// assert_eq!(error.client(), Some("crm"));
    /// assert_eq!(error.to_string(), "no such tenant [client crm]");
    /// # Ok::<(), tower_oauth2_client_credentials::BoxError>(()) }).unwrap();
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.check_text("name", &name);
        self.shared.name = Some(server_text(&name).into());
        self
    }
}

#[cfg(feature = "testing")]
impl<T, S: MakesCache> Builder<T, S> {
    /// Sets the clock that decides when tokens expire, for tests.
    pub fn clock(mut self, clock: crate::testing::ManualClock) -> Self {
        self.shared.settings.clock = clock.to_clock();
        self
    }
}
