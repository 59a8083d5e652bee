//! [`TokenCache`]: one token, shared; the handle that users and the layer hold.
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

/// One access token, fetched from a [`TokenSource`] when it is needed, renewed before it expires,
/// shared by all clones.
///
/// The layer is built on it, and it can be used without the layer:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
///
/// let mut cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
/// assert!(cache.peek().is_none(), "nothing is asked for before it is needed");
///
/// let token = cache.token().await?;
/// assert_eq!(token.header(), "Bearer t0k3n");
/// assert!(cache.peek().is_some());
/// # Ok::<(), tower_oauth2_client_credentials::TokenError>(()) }).unwrap();
/// ```
///
/// # Renewal
///
/// There is never more than one renewal at a time, however many callers. It runs on a Tokio task
/// of its own, which no caller can cancel, and ends at its own deadline (30 s). Only its first poll
/// may happen within the poll of a future that waits for it: a source that answers at once needs no
/// task. It is set off by
/// calls, so an idle cache asks for nothing. Creating a cache does no I/O and needs no runtime.
///
/// On a runtime that lives but that nobody drives, no deadline is kept: a renewal there is given up
/// by the first call that comes 5 s past it, and until then whoever waits for it waits on.
///
/// When the last clone is dropped, so is the renewal.
pub struct TokenCache {
    driver: Arc<Driver>,
    cached: Cached<Option<AccessToken>>,
}

impl TokenCache {
    /// A cache of what `source` fetches, with the default settings. No I/O is done.
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

    /// The token that is at hand, if it may still go out. Starts nothing and waits for nothing.
    ///
    /// Takes `&mut self` because every handle keeps a copy of its own: as long as it is current,
    /// this touches nothing that other threads write to. Clone the cache to get another handle.
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

    /// A token that may go out: the one at hand, or else the one that the renewal brings.
    ///
    /// A token that nears its end is returned at once, and a renewal started in the background.
    ///
    /// # Errors
    ///
    /// When there is no usable token, and the renewal failed or is not tried again yet (see
    /// [`TokenError::retry_at`]).
    pub fn token(&self) -> Token {
        Token { driver: Arc::clone(&self.driver), acquiring: Acquiring::new() }
    }

    /// What [`token`](Self::token) has to say at once: for callers that cannot wait. It starts a
    /// renewal where `token` would, and `None` is that there is no token yet.
    ///
    /// A token that nears its end is returned as long as it may go out. One of no lifetime
    /// (`expires_in: 0`) is for those who wait for it: here it never comes, and each call starts a
    /// renewal in vain. With such a source, use [`token`](Self::token).
    ///
    /// # Errors
    ///
    /// When there is no usable token, and none is asked for yet because the last renewal failed.
    pub fn try_token(&mut self) -> Result<Option<AccessToken>, TokenError> {
        let mut cx = Context::from_waker(Waker::noop());
        match Acquiring::on_task().poll(&self.driver, &mut cx) {
            Poll::Ready(token) => token.map(|token| Some(AccessToken::new(token))),
            Poll::Pending => Ok(self.peek().cloned()),
        }
    }

    /// An API rejected `token`, which a request carried. The future is of the token to send that
    /// request again with, once; a renewal that this sets off goes on also without it.
    ///
    /// If `token` is not the current one any more, the current one is the answer (or its successor,
    /// while a rejection of that one has it renewed). If it is, a renewal is forced, unless renewals
    /// have been of no use lately: an API that rejects everything must not turn into a stream of
    /// token requests. Tell with
    /// [`accepted`](Self::accepted) and [`rejected_again`](Self::rejected_again) how the second
    /// request went.
    ///
    /// To be called in a Tokio runtime: the renewal is started at once.
    ///
    /// # Errors
    ///
    /// [`NotReplaced`](crate::NotReplaced), with the reason.
    #[allow(clippy::must_use_candidate, reason = "a rejection counts without its replacement")]
    pub fn rejected(&self, token: &AccessToken) -> Replacement {
        self.replace(token, Call::default())
    }

    /// Reports that an API rejected a request with this `Authorization` header, for clients whose
    /// hooks see the request that was sent and not the token. The next
    /// [`token`](Self::token) is a newer one, where [`rejected`](Self::rejected) would renew it.
    ///
    /// Nothing happens if the header is not that of the current token: it has been replaced already,
    /// or is not of this cache. To be called in a Tokio runtime.
    pub fn rejected_header(&self, authorization: &HeaderValue) {
        let kept = self.driver.kept().into_iter().flatten().map(AccessToken::new);
        for token in kept.filter(|token| token.header() == authorization) {
            drop(self.rejected(&token));
        }
    }

    /// An API rejected `token`, too, which came from [`rejected`](Self::rejected). Waits for
    /// nothing: the rejection stands.
    pub fn rejected_again(&self, token: &AccessToken) {
        drop(self.replace(token, Call::of_replay(token.snapshot())));
    }

    /// An API accepted `token`, which came from [`rejected`](Self::rejected): the renewal was a
    /// cure, and the next rejection is news.
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

    /// How many tokens have been issued to this cache. Counts answers that were a success and yet
    /// of no use, too: the server will have counted them.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.driver.issued()
    }

    /// Why the last renewal failed, if it did.
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
