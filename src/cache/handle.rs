//! [`TokenCache`]: one shared token; the handle that users and the layer hold.
//!
//! The public handle and its cached copy of the token. All decisions are made in `state`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::HeaderValue;

use super::{
    cached::Cached,
    driver::Driver,
    replacement::Replacement,
    settings::Settings,
    state::{Call, Rejected, Sending},
    waiting::Acquiring,
};
use crate::policy::challenge::Evidence;
use crate::{error::TokenError, token::issued::AccessToken, token::source::TokenSource};

/// One access token, which is fetched from a [`TokenSource`] when it is needed, renewed before it
/// expires, and shared by all clones.
///
/// The layer is built on this type, and you can use it without the layer:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
///
/// let mut cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
/// assert!(cache.peek().is_none(), "no token is requested before it is needed");
///
/// let token = cache.token().await?;
/// assert_eq!(token.header(), "Bearer t0k3n");
/// assert!(cache.peek().is_some());
/// # Ok::<(), tower_oauth2_client_credentials::TokenError>(()) }).unwrap();
/// ```
///
/// # Renewal
///
/// At most one renewal is in flight, however many callers wait for it. It runs on a Tokio task of
/// its own, which no caller can cancel, and ends at its own deadline (30 s by default). Only its
/// first poll may happen within the poll of a future that waits for it, since a source that is
/// ready immediately needs no task. Calls start renewals, so an idle cache requests nothing.
/// Creating a cache does no I/O and needs no runtime.
///
/// On a runtime that is alive but not driven, no deadline is kept. A renewal there is given up by
/// the first call that comes 5 s past its deadline; until then, its waiters keep waiting.
///
/// Dropping the last clone cancels the renewal.
pub struct TokenCache {
    driver: Arc<Driver>,
    cached: Cached<Option<AccessToken>>,
}

impl TokenCache {
    /// Creates a cache of the token that `source` fetches, with the default settings. Does no I/O.
    ///
    /// [`Builder`](crate::Builder) makes caches with other settings.
    pub fn new(source: impl TokenSource) -> Self {
        Self::with_settings(Arc::new(source), Settings::default())
    }

    pub(crate) fn with_settings(source: Arc<dyn TokenSource>, settings: Settings) -> Self {
        Self::of(Driver::new(source, settings))
    }

    pub(crate) fn of(driver: Arc<Driver>) -> Self {
        Self { driver, cached: Cached::none(None) }
    }

    pub(crate) fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// Returns the cached token if it is usable. Starts no renewal and does not wait.
    ///
    /// Takes `&mut self` because every handle keeps its own copy of the token: as long as the copy
    /// is current, this method touches no memory that other threads write to. Clone the cache to
    /// get another handle.
    #[inline]
    pub fn peek(&mut self) -> Option<&AccessToken> {
        if !self.cached.is_current_fast(&self.driver) {
            self.refresh();
        }
        self.cached.value().as_ref()
    }

    #[cold]
    fn refresh(&mut self) {
        if self.cached.is_current(&self.driver) {
            return;
        }
        // Read before the state is: a change in between makes the copy outdated.
        let epoch = self.driver.epoch();
        let now = self.driver.clock.now();
        self.cached = match self.driver.usable(now) {
            None => Cached::none(None),
            Some(snapshot) => {
                let until = snapshot.schedule.expires_at();
                Cached::new(Some(AccessToken::new(snapshot)), epoch, until, now)
            }
        };
    }

    /// Returns a usable token: the cached one, or else the one that the renewal fetches.
    ///
    /// A token that is close to its expiry is returned immediately, and a renewal is started in the
    /// background.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no usable token, and the renewal failed or is not tried again
    /// yet (see [`TokenError::retry_at`]).
    pub fn token(&self) -> Token {
        Token { driver: Arc::clone(&self.driver), acquiring: Acquiring::new() }
    }

    /// Returns the token without waiting, for callers that cannot await. Starts a renewal where
    /// [`token`](Self::token) would. `None` means that there is no token yet.
    ///
    /// A token that is close to its expiry is returned as long as it is usable. A token with a
    /// lifetime of zero (`expires_in: 0`) serves only the callers that wait for it: this method
    /// never returns it, and each call starts another renewal. With such a source, use
    /// [`token`](Self::token).
    ///
    /// # Errors
    ///
    /// Returns an error if there is no usable token, and none is requested yet because the last
    /// renewal failed.
    pub fn try_token(&mut self) -> Result<Option<AccessToken>, TokenError> {
        let mut cx = Context::from_waker(Waker::noop());
        match Acquiring::on_task().poll(&self.driver, &mut cx) {
            Poll::Ready(token) => token.map(|token| Some(AccessToken::new(token))),
            Poll::Pending => Ok(self.peek().cloned()),
        }
    }

    /// Reports that an API rejected `token`, and resolves to the token to send the request again
    /// with, once. Dropping the future does not cancel a renewal that it started.
    ///
    /// If `token` is no longer the current one, the result is the current one (or its successor, if
    /// a rejection of the current one is already forcing a renewal). Otherwise a renewal is forced,
    /// unless recent forced renewals were ineffective: an API that rejects everything must not
    /// cause a stream of token requests. Report how the second request went with
    /// [`accepted`](Self::accepted) or [`rejected_again`](Self::rejected_again).
    ///
    /// Call this method within a Tokio runtime: the renewal is started immediately.
    ///
    /// # Errors
    ///
    /// Resolves to [`NotReplaced`](crate::NotReplaced), with the reason, if there is no other
    /// token.
    #[allow(clippy::must_use_candidate, reason = "a rejection counts without its replacement")]
    pub fn rejected(&self, token: &AccessToken) -> Replacement {
        self.replace(token, Call::default())
    }

    /// Reports that an API rejected a request with this `Authorization` header, for clients whose
    /// hooks see the request that was sent and not the token. The next [`token`](Self::token) is a
    /// newer one wherever [`rejected`](Self::rejected) would renew it.
    ///
    /// Does nothing if the header is not the one of the current token: that token has been replaced
    /// already, or belongs to another cache. Call this method within a Tokio runtime.
    pub fn rejected_header(&self, authorization: &HeaderValue) {
        let kept = self.driver.kept().into_iter().flatten().map(AccessToken::new);
        for token in kept.filter(|token| token.header() == authorization) {
            drop(self.rejected(&token));
        }
    }

    /// Reports that an API also rejected `token`, which came from [`rejected`](Self::rejected).
    /// Does not wait, since the response to the second request is final.
    pub fn rejected_again(&self, token: &AccessToken) {
        drop(self.replace(token, Call::of_replay(token.snapshot())));
    }

    /// Reports that an API accepted `token`, which came from [`rejected`](Self::rejected): the
    /// forced renewal was effective, and the next rejection may force another.
    pub fn accepted(&self, token: &AccessToken) {
        self.driver.accept(token.snapshot().generation, Sending::Replay);
    }

    fn replace(&self, token: &AccessToken, mut call: Call) -> Replacement {
        let generation = token.snapshot().generation;
        let now = self.driver.clock.now();
        let evidence = Evidence::Weak;
        let rejected = Rejected { generation, evidence, call, is_replayable: true };
        let action = self.driver.reject(rejected, now);
        call.rejected(generation, now.mono);
        Replacement::new(&self.driver, action, call, evidence)
    }

    /// Returns the number of tokens that were issued to this cache. Includes responses that were a
    /// success but could not be used, since the server will have counted them.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.driver.issued()
    }

    /// Returns the error of the last renewal, if it failed.
    #[must_use]
    pub fn last_error(&self) -> Option<TokenError> {
        self.driver.last_error()
    }
}

impl Clone for TokenCache {
    fn clone(&self) -> Self {
        Self { driver: Arc::clone(&self.driver), cached: self.cached.clone() }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.driver.fmt(f)
    }
}

/// The future of [`TokenCache::token`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Token {
    driver: Arc<Driver>,
    acquiring: Acquiring,
}

impl Future for Token {
    type Output = Result<AccessToken, TokenError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.acquiring.poll(&this.driver, cx).map_ok(AccessToken::new)
    }
}
