//! [`OAuthClientCredentials`]: the middleware's service. Here a request is admitted, gets its
//! token, and goes to the inner service; what becomes of the response is in `future`.

use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, Entry, MaxSizeReached},
};
use tower_service::Service;

use crate::{
    detour::Detour,
    error::{BoxError, ErrorClass, TokenError},
    future::ResponseFuture,
    local::{Local, Tag},
    mode::{self, Mode, Replay},
    origin::Admission,
    rules::{Existing, Rules},
    sync::{Mutex, lock, try_lock},
    token::{Acquiring, Answer, Shared, TokenCache, in_runtime},
};

/// Puts an access token on every request and renews it, in one flight, when it nears its end or is
/// rejected.
///
/// Made by [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer). Clones share the
/// token. One that lives on for a second or two keeps bytes of its own, and then a request with a
/// token at hand writes to nothing that other threads use; that costs the length of the token and
/// a clone of the inner service. One that is cloned for a request borrows.
///
/// # Readiness
///
/// `poll_ready` is the inner service's own: no token is waited for there. While a request waits
/// for a token, nothing of the inner service is held: what `poll_ready` had reserved is given up,
/// and a fresh clone is made ready when the token is there.
///
/// # Bodies
///
/// - The request's body must be a [`ReplayBody`](crate::ReplayBody), like `Bytes`, `String`, `Full`,
///   boxed bodies, and those of the adapters. Another, like `hyper::body::Incoming`, is boxed before
///   the request gets here (`request.map(http_body_util::BodyExt::boxed_unsync)`), or implements the
///   trait.
/// - The response's body must be an [`http_body::Body`]. Before a replay, that of the rejected response
///   is read to its end if it has at most 512 KiB and comes within 250 ms, so that its connection can
///   be used again; up to there, that is cheaper than a new connection with TLS. A longer one costs
///   an HTTP/1.1 connection. One that announces more is not begun.
/// - After [`never_replay()`](crate::OAuthClientCredentialsLayer::never_replay) on the layer, both may
///   be of any type.
///
/// With other bodies this is no [`Service`]. Where a method is called, the compiler says so without a
/// word on the body: error E0599, "the method `oneshot` exists for struct `OAuthClientCredentials`,
/// but its trait bounds were not satisfied"; the same of `ready` and `call`. It does say what is wrong
/// where the service is passed on, as in `tower::util::BoxCloneSyncService::new(service)`.
pub struct OAuthClientCredentials<S, M = Replay> {
    inner: S,
    handle: Arc<Handle<S>>,
    /// It was made for this value; what is cloned from it leaves in time.
    keeps_handle: bool,
    local: Local,
    mode: PhantomData<fn() -> M>,
}

/// What the response future may need: behind one pointer, as most responses need none of it.
pub(crate) struct Handle<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rules: Arc<Rules>,
    /// Cloned when a second call is to be made.
    template: Mutex<S>,
    /// What the last of the values that share this has found: one that was cloned for a single
    /// request need not ask the cache.
    recent: Mutex<Local>,
}

impl<S: Clone> Handle<S> {
    fn new(shared: Arc<Shared>, rules: Arc<Rules>, template: S, recent: Local) -> Arc<Self> {
        let (template, recent) = (Mutex::new(template), Mutex::new(recent));
        Arc::new(Self { shared, rules, template, recent })
    }

    /// A clone of the inner service, to be made ready.
    pub(crate) fn fresh_inner(&self) -> S {
        lock(&self.template).clone()
    }
}

/// What becomes of a request that does not simply get the token at hand.
enum Instead {
    Pass,
    Wait(Acquiring),
    Refuse(TokenError),
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>, rules: Arc<Rules>) -> Self {
        let handle = Handle::new(shared, rules, inner.clone(), Local::none());
        Self { inner, handle, keeps_handle: true, local: Local::none(), mode: PhantomData }
    }

    /// What `poll_ready` has reserved is given back: it will not be used.
    fn release(&mut self) {
        drop(mem::replace(&mut self.inner, self.handle.fresh_inner()));
    }
}

impl<S, M> OAuthClientCredentials<S, M> {
    /// The token, shared with this service.
    #[must_use]
    pub fn cache(&self) -> TokenCache {
        TokenCache::of(Arc::clone(&self.handle.shared))
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B, R, M> Service<Request<B>> for OAuthClientCredentials<S, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    M: Mode<B, R>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, R, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let at_hand = self.handle.rules.origins.surely_admit(request.uri())
            && self.local.is_surely_current(&self.handle.shared);
        if !at_hand && let Err(instead) = self.prepare(request.uri(), request.headers()) {
            return self.call_instead(request, instead);
        }
        // First kept, then changed: a copy of the map would have no room for one more header.
        let kept = M::keep(&mut request, self.handle.rules.replay_limit);
        match request.headers_mut().try_append(AUTHORIZATION, self.local.header.clone()) {
            Ok(false) => {}
            appended => {
                if let Err(instead) = self.settle(request.headers_mut(), appended) {
                    return self.call_instead(request, instead);
                }
            }
        }
        let tag = self.local.tag;
        let future = self.inner.call(request);
        ResponseFuture::sent(future, Arc::clone(&self.handle), tag, kept)
    }
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    /// Brings the copy of the token up to date, if a request for `uri` with `headers` may have
    /// one, and there is one to be used at once.
    #[cold]
    fn prepare(&mut self, uri: &Uri, headers: &HeaderMap) -> Result<(), Instead> {
        let origins = &self.handle.rules.origins;
        if !origins.surely_admit(uri) {
            match origins.admit(uri) {
                Admission::Attach if self.local.is_surely_current(&self.handle.shared) => {
                    return Ok(());
                }
                Admission::Attach => {}
                Admission::Without => return Err(Instead::Pass),
                // A request with its own `Authorization` carries no token that could get there.
                Admission::Refuse(_) if self.keeps_own(headers) => return Err(Instead::Pass),
                Admission::Refuse(error) => return Err(Instead::Refuse(error)),
            }
        }
        if self.look() {
            return Ok(());
        }
        // Before a token is asked for: such a request is no reason to.
        if self.keeps_own(headers) {
            return Err(Instead::Pass);
        }
        let shared = &self.handle.shared;
        let now = shared.clock.now();
        // `runtime.block_on(service.call(request))` calls outside of the runtime and polls inside
        // of it, where a renewal can be started.
        if !in_runtime() && !shared.is_fresh(now) {
            return Err(Instead::Wait(Acquiring::new()));
        }
        let (answer, epoch) = shared.acquire(now);
        match answer {
            Answer::Use(hand) => {
                self.local = Local::new(&hand, epoch, &self.handle.rules);
                *lock(&self.handle.recent) = self.local.lend();
                Ok(())
            }
            Answer::Wait(flight) => Err(Instead::Wait(Acquiring::waiting_for(&flight))),
            Answer::Refuse(error) => Err(Instead::Refuse(error)),
        }
    }

    /// Whether `headers` have an `Authorization` that stays.
    fn keeps_own(&self, headers: &HeaderMap) -> bool {
        self.handle.rules.existing == Existing::Keep && headers.contains_key(AUTHORIZATION)
    }

    /// Looks at the clocks; or, if this value has no copy of the current token, takes what another
    /// has found last.
    ///
    /// A value that lives on leaves what it shares with others behind: see `Tenure`.
    fn look(&mut self) -> bool {
        let shared = &self.handle.shared;
        if !self.local.is_of_this_epoch(shared) {
            let mut recent = lock(&self.handle.recent);
            let is_current = recent.is_surely_current(shared) || recent.is_current(shared);
            if is_current {
                self.local.follow(&recent);
            }
            return is_current;
        }
        // A look at the clocks by one of many clones will do for all of them. None waits for it.
        let mut recent = try_lock(&self.handle.recent);
        let known = recent.as_ref().is_some_and(|recent| self.local.heed(recent, shared));
        if !known {
            if !self.local.is_current(shared) {
                // Another may have been told since that the token can be used for longer.
                let longer = recent.as_mut().is_some_and(|recent| recent.is_current(shared));
                if let Some(recent) = recent.filter(|_| longer) {
                    self.local.follow(&recent);
                }
                return longer;
            }
            if let Some(recent) = &mut recent {
                recent.heed(&self.local, shared);
            }
        }
        drop(recent);
        if self.local.stay() && !self.keeps_handle {
            let (shared, rules) = (Arc::clone(shared), Arc::clone(&self.handle.rules));
            let template = self.handle.fresh_inner();
            self.handle = Handle::new(shared, rules, template, self.local.lend());
            self.keeps_handle = true;
        }
        true
    }

    /// The request has an `Authorization` of its own, which ours was added to; or no room for ours.
    #[cold]
    fn settle(
        &self,
        headers: &mut HeaderMap,
        appended: Result<bool, MaxSizeReached>,
    ) -> Result<(), Instead> {
        match self.handle.rules.existing {
            Existing::Replace => {
                // First removed: also a map that is full has room for it then.
                headers.remove(AUTHORIZATION);
                match headers.try_insert(AUTHORIZATION, self.local.header.clone()) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Instead::Refuse(too_many_headers())),
                }
            }
            // None of our business.
            Existing::Keep if appended.is_ok() => {
                take_back_ours(headers);
                Err(Instead::Pass)
            }
            // No room for ours, and none needed.
            Existing::Keep if headers.contains_key(AUTHORIZATION) => Err(Instead::Pass),
            Existing::Keep => Err(Instead::Refuse(too_many_headers())),
        }
    }

    /// Passes the request on as it is, waits for a token first, or fails without a call.
    #[cold]
    fn call_instead<B, R>(
        &mut self,
        request: Request<B>,
        instead: Instead,
    ) -> ResponseFuture<S, B, R, M>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        M: Mode<B, R>,
    {
        let handle = Arc::clone(&self.handle);
        match instead {
            Instead::Pass => {
                ResponseFuture::sent(self.inner.call(request), handle, Tag::NONE, None)
            }
            Instead::Wait(acquiring) => {
                // A permit must not be held while a token is waited for.
                self.release();
                ResponseFuture::detour(Detour::for_token(handle, acquiring, request))
            }
            Instead::Refuse(error) => {
                self.release();
                ResponseFuture::detour(Detour::refused(handle, error))
            }
        }
    }
}

/// Takes back the header that was added to the request's own.
///
/// To look first would cost every request; this costs those that the layer has nothing to do with.
fn take_back_ours(headers: &mut HeaderMap) {
    if let Ok(Entry::Occupied(entry)) = headers.try_entry(AUTHORIZATION) {
        let mut values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
        values.pop();
        for value in values {
            let _room_was_made = headers.try_append(AUTHORIZATION, value);
        }
    }
}

/// `HeaderMap` takes 32,768 headers.
#[cold]
pub(crate) fn too_many_headers() -> TokenError {
    TokenError::new(ErrorClass::Origin, "the request has no room for one more header")
}

impl<S: Clone, M> Clone for OAuthClientCredentials<S, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handle: Arc::clone(&self.handle),
            keeps_handle: false,
            local: self.local.lend(),
            mode: PhantomData,
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for OAuthClientCredentials<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClientCredentials")
            .field("inner", &self.inner)
            .field("cache", &self.handle.shared)
            .field("rules", &self.handle.rules)
            .field("mode", &mode::name::<M>())
            .finish()
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::{convert::Infallible, future::Ready, time::Duration};

    use super::*;
    use crate::{
        OAuthClientCredentialsLayer,
        testing::ManualClock,
        token::{Settings, TokenResponse, source_fn},
    };

    /// Keeps where the bytes of the header were that it was sent.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Option<usize>>>);

    impl Service<Request<()>> for Seen {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = Ready<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<()>) -> Self::Future {
            *lock(&self.0) = Some(request.headers()[AUTHORIZATION].as_bytes().as_ptr().addr());
            std::future::ready(Ok(Response::new(())))
        }
    }

    /// Pins the count of references that every thread writes to, which costs each of them more than
    /// all else that the layer does.
    #[tokio::test(start_paused = true)]
    async fn a_value_that_lives_on_shares_nothing_that_it_writes_to() {
        let clock = ManualClock::new();
        let settings = Settings { clock: clock.to_clock(), ..Settings::default() };
        let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let seen = Seen::default();
        let layer = OAuthClientCredentialsLayer::from_cache(&cache).never_replay();
        let original = tower_layer::Layer::layer(&layer, seen.clone());
        let bytes = |service: &mut OAuthClientCredentials<_, _>| {
            drop(service.call(Request::new(())));
            lock(&seen.0).take().unwrap()
        };
        let mut first = original.clone();
        let mut second = original.clone();
        let shared = bytes(&mut first);
        assert_eq!(bytes(&mut second), shared);
        assert!(Arc::ptr_eq(&first.handle, &second.handle));

        tokio::time::advance(Duration::from_secs(1)).await;
        let own = bytes(&mut first);
        assert_ne!(own, shared, "second to call with it, in another second");
        assert_eq!(bytes(&mut first), own, "once");
        assert!(!Arc::ptr_eq(&first.handle, &second.handle));
        assert!(first.local.header.is_sensitive());
        let mut third = original.clone();
        assert_eq!(bytes(&mut third), shared, "one that has just been cloned copies nothing");
        assert!(Arc::ptr_eq(&third.handle, &original.handle));

        // One look does for all clones of a value that is not called itself.
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..2 {
            bytes(&mut original.clone());
            assert!(lock(&original.handle.recent).is_surely_current(&original.handle.shared));
        }

        // After a rejection it starts over, but for the handle.
        let rejected = first.cache().peek().unwrap().clone();
        cache.rejected(&rejected).await.unwrap_err();
        bytes(&mut first);
        let handle = Arc::clone(&first.handle);
        tokio::time::advance(Duration::from_secs(1)).await;
        bytes(&mut first);
        assert!(Arc::ptr_eq(&first.handle, &handle), "the handle is its own already");
    }

    /// Pins a request for each of which the cache is asked, from the moment that a renewal is due
    /// until it ends.
    #[tokio::test(start_paused = true)]
    async fn clones_of_a_value_that_was_called_follow_who_has_asked_last() {
        let clock = ManualClock::new();
        let settings = Settings { clock: clock.to_clock(), ..Settings::default() };
        let asked = std::sync::atomic::AtomicBool::new(false);
        let source = source_fn(move |_| {
            let again = asked.swap(true, std::sync::atomic::Ordering::Relaxed);
            async move {
                if again {
                    std::future::pending::<()>().await;
                }
                Ok(TokenResponse::bearer("t0k3n")?.expires_in(Duration::from_secs(100)))
            }
        });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let layer = OAuthClientCredentialsLayer::from_cache(&cache).never_replay();
        let mut original = tower_layer::Layer::layer(&layer, Seen::default());
        drop(original.call(Request::new(())));

        // The renewal is due, and never ends.
        tokio::time::advance(Duration::from_secs(60)).await;
        let is_known = || lock(&original.handle.recent).is_surely_current(&original.handle.shared);
        drop(original.clone().call(Request::new(())));
        assert!(!is_known(), "the first asks");
        drop(original.clone().call(Request::new(())));
        assert!(is_known(), "the second follows");
    }

    /// Counts how often it is looked at.
    struct Counting(ManualClock, std::sync::atomic::AtomicU32);

    impl crate::clock::ReadClock for Counting {
        fn now(&self) -> crate::clock::Now {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.now()
        }
    }

    /// Pins a look at the exact clocks for every request of a program that clones a service for each
    /// which it has called itself.
    #[tokio::test(start_paused = true)]
    async fn one_look_does_for_all_clones_of_a_value_that_was_called() {
        let clock = Arc::new(Counting(ManualClock::new(), 0.into()));
        let read_clock = Arc::clone(&clock) as Arc<dyn crate::clock::ReadClock>;
        let settings =
            Settings { clock: crate::clock::Clock::Test(read_clock), ..Settings::default() };
        let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let layer = OAuthClientCredentialsLayer::from_cache(&cache).never_replay();
        let mut original = tower_layer::Layer::layer(&layer, Seen::default());
        drop(original.call(Request::new(())));

        tokio::time::advance(Duration::from_secs(1)).await;
        let looks = || {
            let before = clock.1.load(std::sync::atomic::Ordering::Relaxed);
            drop(original.clone().call(Request::new(())));
            clock.1.load(std::sync::atomic::Ordering::Relaxed) - before
        };
        let first = looks();
        assert!(lock(&original.handle.recent).is_surely_current(&original.handle.shared));
        let second = looks();
        assert!(second < first, "a glance of its own, one at what is known: {first}, {second}");
        assert_eq!(looks(), second);
    }

    /// Pins the handle that each clone of a value with bytes of its own would make, and the value that
    /// keeps no bytes of its own any more once it has followed its clone to another token.
    #[tokio::test(start_paused = true)]
    async fn clones_of_a_value_with_its_own_bytes_borrow_and_it_has_them_again_after_a_renewal() {
        let clock = ManualClock::new();
        let settings = Settings { clock: clock.to_clock(), ..Settings::default() };
        let source = source_fn(|attempt: crate::token::Attempt| async move {
            Ok(TokenResponse::bearer(format!("t{}", attempt.number()))?
                .expires_in(Duration::from_secs(100)))
        });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let seen = Seen::default();
        let layer = OAuthClientCredentialsLayer::from_cache(&cache).never_replay();
        let mut value = tower_layer::Layer::layer(&layer, seen.clone());
        let bytes = |service: &mut OAuthClientCredentials<_, _>| {
            drop(service.call(Request::new(())));
            lock(&seen.0).take().unwrap()
        };
        let second = Duration::from_secs(1);
        let shared = bytes(&mut value);
        tokio::time::advance(second).await;
        let own = bytes(&mut value);
        assert_ne!(own, shared);
        tokio::time::advance(second).await;
        let mut clone = value.clone();
        assert_eq!(bytes(&mut clone), own);
        assert!(Arc::ptr_eq(&clone.handle, &value.handle), "no handle for one request");

        // Renewed; the clone is the first to know.
        tokio::time::advance(Duration::from_secs(100)).await;
        cache.token().await.unwrap();
        let shared = bytes(&mut value.clone());
        assert_eq!(bytes(&mut value), shared, "it follows");
        tokio::time::advance(second).await;
        let own = bytes(&mut value);
        assert_ne!(own, shared, "its own again");
        assert_eq!(bytes(&mut value), own);
    }
}
