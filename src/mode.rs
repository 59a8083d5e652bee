//! Whether a request is kept to be sent again after a 401: chosen by type, so that who does
//! without pays nothing, and may send any body.

use std::{convert::Infallible, fmt, future::Future};

use http::Request;
use http_body::Body;

use crate::{
    discard::Discard,
    replay::{KeptRequest, ReplayBody},
};

/// Requests are kept, and sent again once with a newer token when the first one is rejected.
///
/// The default. The request's body must be a [`ReplayBody`], the response's an
/// [`http_body::Body`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replay;

/// Requests are not kept. A 401 goes to the caller as it came; the token it rejects is renewed all
/// the same, so that the next call works.
///
/// Takes requests and responses with bodies of any type; see
/// [`never_replay`](crate::OAuthClientCredentialsLayer::never_replay).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NeverReplay;

/// [`Replay`] or [`NeverReplay`], for requests with a body `B` and responses with a body `R`.
pub trait Mode<B, R>: sealed::Sealed {
    /// What is kept of a request.
    #[doc(hidden)]
    type Kept;

    /// What becomes of the body of a rejected response.
    #[doc(hidden)]
    type Discard: Future<Output = ()>;

    /// Keeps what is needed to send `request` again.
    #[doc(hidden)]
    fn keep(request: &mut Request<B>, limit: usize) -> Option<Self::Kept>;

    /// Makes the request again, without our header.
    #[doc(hidden)]
    fn restore(kept: Self::Kept) -> Option<Request<B>>;

    /// Reads the body to its end, within limits, so that its connection can be used again.
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

/// The name of a mode, for `Debug`.
pub(crate) fn name<M>() -> impl fmt::Debug {
    let name = std::any::type_name::<M>();
    name.rsplit("::").next().unwrap_or(name)
}
