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
    HeaderMap, HeaderValue, Request, Response,
    header::{AUTHORIZATION, Entry},
};
use tower_service::Service;

use crate::{
    clock::{Clock, Deadline},
    error::{BoxError, ErrorClass, TokenError},
    future::{Detour, ResponseFuture},
    mode::{self, Mode, Replay},
    origin::Admission,
    rules::{Existing, Rules},
    sync::{Mutex, lock},
    token::{Acquiring, Answer, Hand, Sending, Shared, Snapshot, TokenCache, in_runtime},
};

/// Puts an access token on every request and renews it, in one flight, when it nears its end or is
/// rejected.
///
/// Made by [`OAuthClientCredentialsLayer`](crate::OAuthClientCredentialsLayer). Clones share the
/// token; each keeps a copy of its header, so that a request with a token at hand touches nothing
/// that other threads write to.
///
/// # Readiness
///
/// `poll_ready` is the inner service's own: no token is waited for there. While a request waits
/// for a token, nothing of the inner service is held: what `poll_ready` had reserved is given up,
/// and a fresh clone is made ready when the token is there.
pub struct OAuthClientCredentials<S, M = Replay> {
    inner: S,
    handle: Arc<Handle<S>>,
    local: Local,
    mode: PhantomData<fn() -> M>,
}

/// What the response future may need: behind one pointer, as most responses need none of it.
pub(crate) struct Handle<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) rules: Arc<Rules>,
    /// Cloned when a second call is to be made.
    template: Mutex<S>,
}

impl<S: Clone> Handle<S> {
    /// A clone of the inner service, to be made ready.
    pub(crate) fn fresh_inner(&self) -> S {
        lock(&self.template).clone()
    }
}

/// This service's own copy of the token's header. It is what `acquire` would answer as long as
/// the epoch stands and neither clock has reached `until`.
#[derive(Clone)]
struct Local {
    epoch: u64,
    until: Deadline,
    tag: Tag,
    header: HeaderValue,
}

/// What becomes of a request while there is no token at hand.
enum Instead {
    Pass,
    Wait(Acquiring),
    Refuse(TokenError),
}

/// What the response future has to know of the token that its request carries, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    /// The request carries no token of ours.
    pub(crate) const NONE: Self = Self(0);

    const WATCHED: u64 = 1;
    const REPLAY: u64 = 2;

    pub(crate) fn first(generation: u64) -> Self {
        Self(generation << 2)
    }

    pub(crate) fn of(snapshot: &Snapshot, sending: Sending) -> Self {
        let tag = Self::first(snapshot.generation);
        match sending {
            Sending::First => tag.watched(),
            Sending::Replay => Self(tag.0 | Self::WATCHED | Self::REPLAY),
        }
    }

    /// It is of interest whether the request is accepted.
    fn watched(self) -> Self {
        Self(self.0 | Self::WATCHED)
    }

    pub(crate) fn is_watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    pub(crate) fn generation(self) -> u64 {
        self.0 >> 2
    }

    pub(crate) fn sending(self) -> Sending {
        if self.0 & Self::REPLAY == 0 { Sending::First } else { Sending::Replay }
    }
}

impl Local {
    fn none() -> Self {
        Self {
            // The shared epoch starts at one.
            epoch: 0,
            until: Deadline::past(),
            tag: Tag::NONE,
            header: HeaderValue::from_static(""),
        }
    }

    fn new(hand: &Hand, epoch: u64, clock: &Clock) -> Self {
        let tag = Tag::first(hand.snapshot.generation);
        Self {
            epoch,
            until: clock.deadline(hand.until),
            tag: if hand.watched { tag.watched() } else { tag },
            header: hand.snapshot.header.clone(),
        }
    }

    #[inline]
    fn is_current(&self, shared: &Shared) -> bool {
        self.epoch == shared.epoch() && shared.clock.is_before(&self.until)
    }
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>, rules: Arc<Rules>) -> Self {
        let template = Mutex::new(inner.clone());
        Self {
            inner,
            handle: Arc::new(Handle { shared, rules, template }),
            local: Local::none(),
            mode: PhantomData,
        }
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let rules = &self.handle.rules;
        match rules.origins.admit(request.uri()) {
            Admission::Attach => {}
            Admission::Without => return self.pass(request),
            Admission::Refuse(error) => return self.refuse(error),
        }
        if !self.local.is_current(&self.handle.shared)
            && let Err(instead) = self.refresh(request.headers())
        {
            return match instead {
                Instead::Pass => self.pass(request),
                Instead::Wait(acquiring) => self.call_later(request, acquiring),
                Instead::Refuse(error) => self.refuse(error),
            };
        }
        let rules = &self.handle.rules;
        // First kept, then changed: a copy of the map would have no room for one more header.
        let kept = M::keep(&mut request, rules.replay_limit);
        match request.headers_mut().try_append(AUTHORIZATION, self.local.header.clone()) {
            Ok(false) => {}
            Ok(true) if rules.existing == Existing::Replace => {
                request.headers_mut().insert(AUTHORIZATION, self.local.header.clone());
            }
            // None of our business.
            Ok(true) => return self.pass(without_ours(request)),
            Err(_) => return self.refuse(too_many_headers()),
        }
        let tag = self.local.tag;
        let future = self.inner.call(request);
        ResponseFuture::sent(future, Arc::clone(&self.handle), tag, kept)
    }
}

impl<S: Clone, M> OAuthClientCredentials<S, M> {
    /// Brings the copy of the token up to date, if there is a token to be used at once for a
    /// request with `headers`.
    #[cold]
    fn refresh(&mut self, headers: &HeaderMap) -> Result<(), Instead> {
        // Before a token is asked for: such a request is no reason to.
        if self.handle.rules.existing == Existing::Keep && headers.contains_key(AUTHORIZATION) {
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
                self.local = Local::new(&hand, epoch, &shared.clock);
                Ok(())
            }
            Answer::Wait(flight) => Err(Instead::Wait(Acquiring::waiting_for(&flight))),
            Answer::Refuse(error) => Err(Instead::Refuse(error)),
        }
    }

    /// There is no token at hand.
    #[cold]
    fn call_later<B, R>(
        &mut self,
        request: Request<B>,
        acquiring: Acquiring,
    ) -> ResponseFuture<S, B, R, M>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        M: Mode<B, R>,
    {
        // A permit must not be held while a token is waited for.
        self.release();
        ResponseFuture::detour(Detour::for_token(Arc::clone(&self.handle), acquiring, request))
    }

    /// Sends `request` as it is.
    fn pass<B, R>(&mut self, request: Request<B>) -> ResponseFuture<S, B, R, M>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        M: Mode<B, R>,
    {
        let future = self.inner.call(request);
        ResponseFuture::sent(future, Arc::clone(&self.handle), Tag::NONE, None)
    }

    /// Fails without a call.
    #[cold]
    fn refuse<B, R>(&mut self, error: TokenError) -> ResponseFuture<S, B, R, M>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        M: Mode<B, R>,
    {
        self.release();
        ResponseFuture::failed(error)
    }
}

/// Takes back the header that was added to the `request`'s own.
///
/// To look first would cost every request; this costs those that the layer has nothing to do with.
#[cold]
fn without_ours<B>(mut request: Request<B>) -> Request<B> {
    let headers = request.headers_mut();
    if let Ok(Entry::Occupied(entry)) = headers.try_entry(AUTHORIZATION) {
        let mut values: Vec<HeaderValue> = entry.remove_entry_mult().1.collect();
        values.pop();
        for value in values {
            let _room_was_made = headers.try_append(AUTHORIZATION, value);
        }
    }
    request
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
            local: self.local.clone(),
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
