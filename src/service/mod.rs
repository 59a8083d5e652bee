//! [`OAuthClientCredentials`]: the middleware's service, with the fast path, which admits a
//! request, adds the token and calls the inner service. Responses are handled in `future`, and
//! requests that have to wait in `pending`.

pub(crate) mod future;
mod handle;
mod header;
mod pending;

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
    cache::{Acquiring, Answer, Cached, Driver, Refreshed, TokenCache, in_runtime},
    error::{BoxError, TokenError},
    policy::origin::Admission,
    policy::{Existing, Policy},
    replay::mode::{self, Mode, Replay},
};

use self::{
    future::ResponseFuture,
    handle::{Handle, too_many_headers},
    header::{Tag, TokenHeader},
    pending::Pending,
};

/// A service that adds an access token to every request, and renews the token, in a single flight,
/// before it expires or when it is rejected.
///
/// Created by [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer). Clones share the
/// token. A service that stays in use for more than a second or two makes its own copy of the header
/// and a clone of the inner service. From then on its requests write to no memory that other threads
/// use. Clones that are made for a single request share instead.
///
/// # Readiness
///
/// `poll_ready` polls only the inner service, and does not wait for a token. A request that waits
/// for a token holds no capacity of the inner service: what `poll_ready` reserved is released, and
/// a new clone is made ready once the token is available.
///
/// # Bodies
///
/// - The request's body must be a [`ReplayBody`](crate::ReplayBody), such as `Bytes`, `String`,
///   `Full`, a boxed body, or a body of the adapters. For other bodies, such as
///   `hyper::body::Incoming`, implement the trait, or box the body before the request reaches this
///   service (`request.map(http_body_util::BodyExt::boxed_unsync)`).
/// - The response's body must be an [`http_body::Body`]. Before a replay, the body of the rejected
///   response is read to its end if it has at most 512 KiB and arrives within 250 ms, so that its
///   connection can be reused; up to this size, that is cheaper than a new connection with TLS. A
///   longer body costs an HTTP/1.1 connection. A body that announces a larger size is not read at
///   all.
/// - After [`never_replay()`](crate::OAuthClientCredentialsLayer::never_replay) on the layer, both
///   bodies may have any type.
///
/// With other bodies, this type does not implement [`Service`]. Where a method is called, the
/// compiler does not mention the body: error E0599, "the method `oneshot` exists for struct
/// `OAuthClientCredentials`, but its trait bounds were not satisfied"; likewise for `ready` and
/// `call`. To see the reason, pass the service to a function, such as
/// `tower::util::BoxCloneSyncService::new(service)`.
pub struct OAuthClientCredentials<S, M = Replay> {
    inner: S,
    /// Shared with the service that this one was cloned from, until `cached` is promoted.
    handle: Arc<Handle<S>>,
    cached: Cached<TokenHeader>,
    mode: PhantomData<fn() -> M>,
}

/// The treatment of a request that does not get the cached token.
enum Alternative {
    PassThrough,
    AwaitToken(Acquiring),
    Fail(TokenError),
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    pub(crate) fn new(inner: S, driver: Arc<Driver>, policy: Arc<Policy>) -> Self {
        let cached = Cached::none(TokenHeader::none());
        let handle = Handle::new(driver, policy, inner.clone(), cached.clone());
        Self { inner, handle, cached, mode: PhantomData }
    }

    /// Releases the capacity that `poll_ready` reserved, because no call will use it.
    fn release(&mut self) {
        drop(mem::replace(&mut self.inner, self.handle.fresh_inner()));
    }
}

impl<S, M> OAuthClientCredentials<S, M> {
    /// Returns a handle of the cache that this service uses.
    #[must_use]
    pub fn cache(&self) -> TokenCache {
        TokenCache::of(Arc::clone(&self.handle.driver))
    }

    /// Returns a reference to the inner service.
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
        let is_ready = self.handle.policy.origins.admits_fast(request.uri())
            && self.cached.is_current_fast(&self.handle.driver);
        if !is_ready && let Err(alternative) = self.prepare(request.uri(), request.headers()) {
            return self.call_alternative(request, alternative);
        }
        let TokenHeader { tag, ref value } = *self.cached.value();
        // Kept before the header is added: a clone of the map would have no room for another
        // header.
        let kept = M::keep(&mut request, self.handle.policy.replay_limit);
        match request.headers_mut().try_append(AUTHORIZATION, value.clone()) {
            Ok(false) => {}
            appended => {
                if let Err(alternative) = self.settle(request.headers_mut(), appended) {
                    return self.call_alternative(request, alternative);
                }
            }
        }
        let future = self.inner.call(request);
        ResponseFuture::sent(future, Arc::clone(&self.handle), tag, kept)
    }
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    /// Updates the cached token, if a request for `uri` with `headers` gets one and it is available
    /// immediately.
    #[cold]
    fn prepare(&mut self, uri: &Uri, headers: &HeaderMap) -> Result<(), Alternative> {
        let origins = &self.handle.policy.origins;
        if !origins.admits_fast(uri) {
            match origins.admit(uri) {
                Admission::Attach => {}
                Admission::Without => return Err(Alternative::PassThrough),
                // A request with its own `Authorization` does not carry the token there.
                Admission::Refuse(_) if self.keeps_own(headers) => {
                    return Err(Alternative::PassThrough);
                }
                Admission::Refuse(error) => return Err(Alternative::Fail(error)),
            }
        }
        let driver = &self.handle.driver;
        match self.cached.refresh(&self.handle.latest, driver) {
            Refreshed::Current => return Ok(()),
            Refreshed::Promoted => {
                self.own_handle();
                return Ok(());
            }
            Refreshed::Outdated => {}
        }
        // Checked before a token is requested, since such a request needs none.
        if self.keeps_own(headers) {
            return Err(Alternative::PassThrough);
        }
        let now = driver.clock.now();
        // Without a token, the first poll starts the renewal: it may ask the source in place, which
        // `call` must not do. Nor can `call` start one for `runtime.block_on(service.call(request))`,
        // which calls outside of the runtime and polls inside of it.
        if driver.usable(now).is_none() || (!in_runtime() && !driver.is_fresh(now)) {
            return Err(Alternative::AwaitToken(Acquiring::new()));
        }
        let (answer, epoch) = driver.acquire(now);
        match answer {
            Answer::Use(granted) => {
                let header = TokenHeader::new(&granted, &self.handle.policy);
                let answer = Cached::new(header, epoch, granted.until, now);
                self.cached.replace(answer, &self.handle.latest);
                Ok(())
            }
            Answer::Wait(waiting) => {
                Err(Alternative::AwaitToken(Acquiring::waiting_for(&waiting, driver)))
            }
            Answer::Refuse(error) => Err(Alternative::Fail(error)),
        }
    }

    /// Replaces the handle that is shared with other services with one of its own.
    fn own_handle(&mut self) {
        let (driver, policy) = (Arc::clone(&self.handle.driver), Arc::clone(&self.handle.policy));
        let template = self.handle.fresh_inner();
        self.handle = Handle::new(driver, policy, template, self.cached.clone());
    }

    /// Returns `true` if `headers` have an `Authorization` that must be kept.
    fn keeps_own(&self, headers: &HeaderMap) -> bool {
        self.handle.policy.existing == Existing::Keep && headers.contains_key(AUTHORIZATION)
    }

    /// Handles a request that already had an `Authorization`, to which the token's was appended, or
    /// that had no room for another header.
    #[cold]
    fn settle(
        &self,
        headers: &mut HeaderMap,
        appended: Result<bool, MaxSizeReached>,
    ) -> Result<(), Alternative> {
        let value = self.cached.value().value.clone();
        match self.handle.policy.existing {
            Existing::Replace => {
                // Removed first, so that a full map has room for the token's header.
                headers.remove(AUTHORIZATION);
                match headers.try_insert(AUTHORIZATION, value) {
                    Ok(_) => Ok(()),
                    Err(_) => Err(Alternative::Fail(too_many_headers())),
                }
            }
            Existing::Keep if appended.is_ok() => {
                remove_appended(headers);
                Err(Alternative::PassThrough)
            }
            // The map has no room for the token's header, which is not needed.
            Existing::Keep if headers.contains_key(AUTHORIZATION) => Err(Alternative::PassThrough),
            Existing::Keep => Err(Alternative::Fail(too_many_headers())),
        }
    }

    /// Passes the request on unchanged, waits for a token first, or fails without a call.
    #[cold]
    fn call_alternative<B, R>(
        &mut self,
        request: Request<B>,
        alternative: Alternative,
    ) -> ResponseFuture<S, B, R, M>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        M: Mode<B, R>,
    {
        let handle = Arc::clone(&self.handle);
        match alternative {
            Alternative::PassThrough => {
                ResponseFuture::sent(self.inner.call(request), handle, Tag::NONE, None)
            }
            Alternative::AwaitToken(acquiring) => {
                // No permit may be held while waiting for a token.
                self.release();
                ResponseFuture::pending(Pending::for_token(handle, acquiring, request))
            }
            Alternative::Fail(error) => {
                self.release();
                ResponseFuture::pending(Pending::refused(handle, error))
            }
        }
    }
}

/// Removes the header that was appended to the request's own.
///
/// Checking before appending would cost every request; undoing it costs only requests that the layer
/// does not handle.
fn remove_appended(headers: &mut HeaderMap) {
    if let Ok(Entry::Occupied(entry)) = headers.try_entry(AUTHORIZATION) {
        let mut values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
        values.pop();
        for value in values {
            let _room_was_made = headers.try_append(AUTHORIZATION, value);
        }
    }
}

impl<S: Clone, M> Clone for OAuthClientCredentials<S, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handle: Arc::clone(&self.handle),
            cached: self.cached.clone(),
            mode: PhantomData,
        }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for OAuthClientCredentials<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthClientCredentials")
            .field("inner", &self.inner)
            .field("cache", &self.handle.driver)
            .field("policy", &self.handle.policy)
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
        cache::Settings,
        sync::{Mutex, lock},
        testing::ManualClock,
        token::{TokenResponse, source_fn},
    };

    /// Records the address of the header's bytes.
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

    /// Prevents a reference count that every thread writes to, which costs each of them more than
    /// everything else in the layer.
    #[tokio::test(start_paused = true)]
    async fn a_value_that_lives_on_shares_nothing_that_it_writes_to() {
        let clock = ManualClock::new();
        let settings = Settings { clock: clock.to_clock(), ..Settings::default() };
        let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let seen = Seen::default();
        let layer = OAuthClientCredentialsLayer::from_cache(cache.clone()).never_replay();
        let original = tower_layer::Layer::layer(&layer, seen.clone());
        let bytes = |service: &mut OAuthClientCredentials<_, _>| {
            drop(service.call(Request::new(())));
            lock(&seen.0).take().unwrap()
        };
        let mut first = original.clone();
        let mut second = original.clone();
        let driver = bytes(&mut first);
        assert_eq!(bytes(&mut second), driver);
        assert!(Arc::ptr_eq(&first.handle, &second.handle));

        tokio::time::advance(Duration::from_secs(1)).await;
        let own = bytes(&mut first);
        assert_ne!(own, driver, "second to call with it, in another second");
        assert_eq!(bytes(&mut first), own, "once");
        assert!(!Arc::ptr_eq(&first.handle, &second.handle));
        assert!(first.cached.value().value.is_sensitive());
        let mut third = original.clone();
        assert_eq!(bytes(&mut third), driver, "one that has just been cloned copies nothing");
        assert!(Arc::ptr_eq(&third.handle, &original.handle));

        // One reading serves all clones of a service that is not called itself.
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..2 {
            bytes(&mut original.clone());
            assert!(lock(&original.handle.latest).is_current_fast(&original.handle.driver));
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

    /// Prevents asking the cache for each request from the time that a renewal is due until it
    /// ends.
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
        let layer = OAuthClientCredentialsLayer::from_cache(cache.clone()).never_replay();
        let mut original = tower_layer::Layer::layer(&layer, Seen::default());
        drop(original.call(Request::new(())));

        // The renewal is due, and never ends.
        tokio::time::advance(Duration::from_secs(60)).await;
        let is_known = || lock(&original.handle.latest).is_current_fast(&original.handle.driver);
        drop(original.clone().call(Request::new(())));
        assert!(!is_known(), "the first asks");
        drop(original.clone().call(Request::new(())));
        assert!(is_known(), "the second follows");
    }

    /// Counts its readings.
    struct Counting(ManualClock, std::sync::atomic::AtomicU32);

    impl crate::clock::ReadClock for Counting {
        fn now(&self) -> crate::clock::Now {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.now()
        }
    }

    /// Prevents reading the exact clocks for every request of a program that clones a service for
    /// each request and has called the service itself.
    #[tokio::test(start_paused = true)]
    async fn one_look_does_for_all_clones_of_a_value_that_was_called() {
        let clock = Arc::new(Counting(ManualClock::new(), 0.into()));
        let read_clock = Arc::clone(&clock) as Arc<dyn crate::clock::ReadClock>;
        let settings =
            Settings { clock: crate::clock::Clock::Test(read_clock), ..Settings::default() };
        let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
        let cache = TokenCache::with_settings(Arc::new(source), settings);
        cache.token().await.unwrap();
        let layer = OAuthClientCredentialsLayer::from_cache(cache.clone()).never_replay();
        let mut original = tower_layer::Layer::layer(&layer, Seen::default());
        drop(original.call(Request::new(())));

        tokio::time::advance(Duration::from_secs(1)).await;
        let looks = || {
            let before = clock.1.load(std::sync::atomic::Ordering::Relaxed);
            drop(original.clone().call(Request::new(())));
            clock.1.load(std::sync::atomic::Ordering::Relaxed) - before
        };
        let first = looks();
        assert!(lock(&original.handle.latest).is_current_fast(&original.handle.driver));
        let second = looks();
        assert!(second < first, "a glance of its own, one at what is known: {first}, {second}");
        assert_eq!(looks(), second);
    }

    /// Prevents a new handle for each clone of a promoted service, and a service that shares its
    /// clone's bytes after it has followed the clone to another token.
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
        let layer = OAuthClientCredentialsLayer::from_cache(cache.clone()).never_replay();
        let mut value = tower_layer::Layer::layer(&layer, seen.clone());
        let bytes = |service: &mut OAuthClientCredentials<_, _>| {
            drop(service.call(Request::new(())));
            lock(&seen.0).take().unwrap()
        };
        let second = Duration::from_secs(1);
        let driver = bytes(&mut value);
        tokio::time::advance(second).await;
        let own = bytes(&mut value);
        assert_ne!(own, driver);
        tokio::time::advance(second).await;
        let mut clone = value.clone();
        assert_eq!(bytes(&mut clone), own);
        assert!(Arc::ptr_eq(&clone.handle, &value.handle), "no handle for one request");

        // Renewed; the clone is the first to know.
        tokio::time::advance(Duration::from_secs(100)).await;
        cache.token().await.unwrap();
        let mut clone = value.clone();
        let driver = bytes(&mut clone);
        let own = bytes(&mut value);
        assert_ne!(own, driver, "its own again");
        tokio::time::advance(second).await;
        assert_eq!(bytes(&mut value), own);
        assert!(Arc::ptr_eq(&clone.handle, &value.handle), "one handle for the new token, too");
    }
}
