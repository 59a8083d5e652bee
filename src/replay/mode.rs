//! Selects whether requests are kept for a replay after a 401. The choice is a type parameter:
//! opting out costs nothing at run time and lifts the bounds on the body.

use std::{convert::Infallible, fmt, future::Future};

use http::Request;
use http_body::Body;

use crate::{
    replay::drain::Discard,
    replay::{KeptRequest, ReplayBody},
};

/// The mode that keeps requests, and replays a rejected one once with a newer token.
///
/// This is the default. The request body must be a [`ReplayBody`], and the response body an
/// [`http_body::Body`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replay;

/// The mode that keeps no requests. A 401 is returned to the caller unchanged. The token that it
/// rejects is still renewed, so that the next call works.
///
/// Works with request and response bodies of any type; see
/// [`never_replay`](crate::OAuthClientCredentialsLayer::never_replay).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NeverReplay;

/// The replay mode of a layer, [`Replay`] or [`NeverReplay`], for request bodies `B` and response
/// bodies `R`.
pub trait Mode<B, R>: sealed::Sealed {
    /// The data kept for a replay.
    #[doc(hidden)]
    type Kept;

    /// The future that disposes of the body of a rejected response.
    #[doc(hidden)]
    type Discard: Future<Output = ()>;

    /// Keeps the data needed to send `request` again, or returns `None` if it cannot be replayed.
    #[doc(hidden)]
    fn keep(request: &mut Request<B>, limit: usize) -> Option<Self::Kept>;

    /// Rebuilds the request, without the layer's header.
    #[doc(hidden)]
    fn restore(kept: Self::Kept) -> Option<Request<B>>;

    /// Reads the body to its end, within limits, so that its connection can be reused.
    #[doc(hidden)]
    fn discard(body: R) -> Self::Discard;
}

impl<B: ReplayBody, R: Body> Mode<B, R> for Replay {
    type Kept = KeptRequest<B::Kept>;
    type Discard = Discard<R>;

    #[inline]
    fn keep(request: &mut Request<B>, limit: usize) -> Option<Self::Kept> {
        KeptRequest::keep(request, limit)
    }

    fn restore(kept: Self::Kept) -> Option<Request<B>> {
        kept.rebuild()
    }

    fn discard(body: R) -> Self::Discard {
        Discard::new(body)
    }
}

impl<B, R> Mode<B, R> for NeverReplay {
    type Kept = Infallible;
    type Discard = std::future::Ready<()>;

    #[inline]
    fn keep(_: &mut Request<B>, _: usize) -> Option<Infallible> {
        None
    }

    fn restore(kept: Infallible) -> Option<Request<B>> {
        match kept {}
    }

    fn discard(body: R) -> Self::Discard {
        drop(body);
        std::future::ready(())
    }
}

mod sealed {
    pub trait Sealed: Sized {}

    impl Sealed for super::Replay {}
    impl Sealed for super::NeverReplay {}
}

/// Returns the name of a mode, for `Debug`.
pub(crate) fn name<M>() -> impl fmt::Debug {
    let name = std::any::type_name::<M>();
    name.rsplit("::").next().unwrap_or(name)
}
