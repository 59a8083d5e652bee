//! The settings of a token's cache.

use std::time::Duration;

use super::{
    base::Builder,
    target::{HasCache, MakesCache},
};
use crate::error::server_text;

/// # How a token is kept
impl<T: HasCache, S: MakesCache> Builder<T, S> {
    /// Sets how long one attempt to get a token may take. Default: 10 s. At most
    /// [`renewal_timeout`](Self::renewal_timeout).
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("attempt_timeout", timeout);
        self.shared.attempt_timeout = Some(timeout);
        self
    }

    /// Sets how long a renewal may take in all, with up to three attempts. Default: 30 s.
    pub fn renewal_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("renewal_timeout", timeout);
        self.shared.settings.renewal_timeout = timeout;
        self
    }

    /// Sets the lifetime that is assumed if the server does not name one, and the token is no JWT that
    /// does. Default: 5 minutes.
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

    /// Asks for at most `tokens` tokens in any `period`, for providers that limit or bill them.
    /// Default: no limit.
    ///
    /// Renewals in the background and after a 401 give way first: a fifth of the budget, rounded
    /// up, is kept for calls that have no usable token at all. Past the budget such calls fail with
    /// [`ErrorClass::Budget`](crate::ErrorClass::Budget) and the time of the next token.
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

    /// Renews the token by a timer, too, once there has been one. Without this, renewals are set
    /// off by requests, and an idle client uses up no quota.
    pub fn keep_warm(mut self) -> Self {
        self.shared.settings.keep_warm = true;
        self
    }

    /// Sets where the jitter starts, for tests that must run alike each time.
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

/// # Its name
impl<T, S: MakesCache> Builder<T, S> {
    /// Names the client in errors, for programs that have several. Without a name, an error says the
    /// client's id and the host of the token URL, or nothing for a source of your own.
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
    /// Sets the clock by which tokens expire, for tests.
    pub fn clock(mut self, clock: crate::testing::ManualClock) -> Self {
        self.shared.settings.clock = clock.to_clock();
        self
    }
}
