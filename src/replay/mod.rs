//! Keeps requests and their bodies, so that they can be sent again.
//!
//! This module defines the [`ReplayBody`] trait and implements it. `request` combines the body with
//! the request's `head`, `tee` copies a stream as it is sent, and `replayed` is the stream that is
//! sent the second time. The layer decides whether a request is replayed.

pub(crate) mod drain;
mod head;
pub(crate) mod mode;
mod replayed;
mod request;
mod tee;

use std::{collections::VecDeque, io::Cursor, mem};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use http_body_util::{
    Either, Empty, Full,
    combinators::{BoxBody, UnsyncBoxBody},
};

pub(crate) use self::{
    request::KeptRequest,
    tee::{TeeHandle, keep_stream},
};

/// A request body that can be kept and sent a second time.
///
/// The trait is implemented for
///
/// - bodies that are cheap to clone (`Bytes`, [`Full`] of `Bytes` or `&[u8]`, [`Empty`], `()`,
///   `&'static str`): they are cloned, regardless of their size, or copied if that is cheaper;
/// - bodies that own their bytes (`String`, `Vec<u8>`, [`Full`] of `BytesMut`, `Cursor<Vec<u8>>` or
///   `VecDeque<u8>`): they are copied, up to the limit;
/// - boxed bodies ([`BoxBody`] and [`UnsyncBoxBody`] of `Bytes`), which may be streams: their bytes
///   are copied as they are sent, up to the limit. Beyond the limit the stream continues unchanged,
///   and the request is not replayed;
/// - with the features of the same names, the body types of axum (like boxed bodies), reqwest (kept
///   by reference if in memory, otherwise like boxed bodies) and tonic (calls with a single
///   message, up to the limit).
///
/// The implementations for the types of http-body-util apply to its version 0.1.
///
/// If a body type does not implement this trait, the compiler names it where the service is passed
/// on, boxed or returned. Where a method of the service is called, the error only says that there
/// is no `call`, or that the bounds of `ready` or `oneshot` are not satisfied.
///
/// Box a body of another type (`http_body_util::BodyExt::boxed_unsync`), or implement the trait for
/// it. For a type that can be cloned:
///
/// ```
/// use tower_oauth2_client_credentials::ReplayBody;
///
/// #[derive(Clone)]
/// struct Report {
///     // what makes it cheap to clone
/// }
///
/// impl ReplayBody for Report {
///     type Kept = Self;
///
///     fn keep(&mut self, _limit: usize) -> Option<Self> {
///         Some(self.clone())
///     }
///
///     fn restore(kept: Self) -> Option<Self> {
///         Some(kept)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a request with a body of type `{Self}` cannot be kept to be sent again after a 401",
    label = "`{Self}` is not a `ReplayBody`",
    note = "box the body: `http_body_util::BodyExt::boxed_unsync(body)` works for every `Send` body of `Bytes`",
    note = "or implement `ReplayBody` for it: three lines if it can be cloned, see the trait's example",
    note = "or do without: `.never_replay()` on the layer takes every body"
)]
pub trait ReplayBody: Sized {
    /// The data kept while the request is in flight.
    type Kept;

    /// Keeps the data needed to rebuild this body. Called before any of it is read. Returns `None`
    /// if the body cannot be sent again.
    ///
    /// The implementation may copy at most `limit` bytes; memory that is shared with the body does
    /// not count. It may replace the body with one that yields the same frames and keeps them as
    /// they pass.
    fn keep(&mut self, limit: usize) -> Option<Self::Kept>;

    /// Rebuilds the body, with the same bytes and trailers. Returns `None` if that turned out to be
    /// impossible, or is not possible yet because the original is still being read.
    fn restore(kept: Self::Kept) -> Option<Self>;

    /// Appends the whole body to `packed` if copying is cheaper than [`keep`](Self::keep) and the
    /// body has at most `limit` bytes. Reserves room for `spare` more bytes. Returns `true` if the
    /// body was appended; [`unpack`](Self::unpack) then rebuilds it.
    #[doc(hidden)]
    #[inline]
    fn pack(&mut self, limit: usize, packed: &mut Vec<u8>, spare: usize) -> bool {
        let _ = (limit, packed, spare);
        false
    }

    /// Rebuilds a packed body.
    #[doc(hidden)]
    fn unpack(packed: Bytes) -> Option<Self> {
        drop(packed);
        None
    }
}

/// The longest body that is copied although it could be shared, in bytes. The first clone of a
/// `Bytes` takes about 70 ns including its consequences, as long as copying about 6,000 bytes.
const LONGEST_COPY: usize = 4 * 1024;

/// Appends `data` to `packed` if that is cheaper than cloning. Only the first clone is expensive:
/// `Bytes` that are already shared, or static, are not copied.
#[inline]
fn pack_unshared(data: &Bytes, limit: usize, packed: &mut Vec<u8>, spare: usize) -> bool {
    let is_copied = data.len() <= LONGEST_COPY.min(limit) && data.is_unique();
    if is_copied {
        packed.reserve_exact(data.len() + spare);
        packed.extend_from_slice(data);
    }
    is_copied
}

impl ReplayBody for Bytes {
    type Kept = Self;

    #[inline]
    fn keep(&mut self, _limit: usize) -> Option<Self> {
        Some(self.clone())
    }

    #[inline]
    fn restore(kept: Self) -> Option<Self> {
        Some(kept)
    }

    #[inline]
    fn pack(&mut self, limit: usize, packed: &mut Vec<u8>, spare: usize) -> bool {
        pack_unshared(self, limit, packed, spare)
    }

    fn unpack(packed: Bytes) -> Option<Self> {
        Some(packed)
    }
}

impl ReplayBody for Full<Bytes> {
    type Kept = Self;

    #[inline]
    fn keep(&mut self, _limit: usize) -> Option<Self> {
        Some(self.clone())
    }

    #[inline]
    fn restore(kept: Self) -> Option<Self> {
        Some(kept)
    }

    #[inline]
    fn pack(&mut self, limit: usize, packed: &mut Vec<u8>, spare: usize) -> bool {
        // `Full` gives access to its data only by value.
        let Some(data) = mem::take(self).into_inner() else { return false };
        let is_packed = pack_unshared(&data, limit, packed, spare);
        *self = Self::new(data);
        is_packed
    }

    fn unpack(packed: Bytes) -> Option<Self> {
        Some(Self::new(packed))
    }
}

macro_rules! replay_by_clone {
    ($(($($generics:tt)*) $body:ty),* $(,)?) => {$(
        impl<$($generics)*> ReplayBody for $body {
            type Kept = Self;

            #[inline]
            fn keep(&mut self, _limit: usize) -> Option<Self> {
                Some(self.clone())
            }

            #[inline]
            fn restore(kept: Self) -> Option<Self> {
                Some(kept)
            }
        }
    )*};
}

replay_by_clone! {
    () (),
    () &'static str,
    () &'static [u8],
    ('a) Full<&'a [u8]>,
    (D) Empty<D>,
}

macro_rules! replay_by_copy {
    ($($body:ty, $len:path);* $(;)?) => {$(
        impl ReplayBody for $body {
            type Kept = Self;

            #[inline]
            fn keep(&mut self, limit: usize) -> Option<Self> {
                ($len(self) <= limit).then(|| self.clone())
            }

            #[inline]
            fn restore(kept: Self) -> Option<Self> {
                Some(kept)
            }
        }
    )*};
}

replay_by_copy! {
    String, String::len;
    Vec<u8>, Vec::len;
    Full<BytesMut>, length;
    Full<Cursor<Vec<u8>>>, length;
    Full<VecDeque<u8>>, length;
}

/// Returns the length of a body that is in one piece.
fn length<D: Buf>(body: &Full<D>) -> usize {
    body.size_hint().exact().and_then(|len| len.try_into().ok()).unwrap_or(usize::MAX)
}

impl<L: ReplayBody, R: ReplayBody> ReplayBody for Either<L, R> {
    type Kept = Either<L::Kept, R::Kept>;

    fn keep(&mut self, limit: usize) -> Option<Self::Kept> {
        match self {
            Self::Left(body) => body.keep(limit).map(Either::Left),
            Self::Right(body) => body.keep(limit).map(Either::Right),
        }
    }

    fn restore(kept: Self::Kept) -> Option<Self> {
        match kept {
            Either::Left(kept) => L::restore(kept).map(Self::Left),
            Either::Right(kept) => R::restore(kept).map(Self::Right),
        }
    }
}

/// Implements [`ReplayBody`] for a type that can wrap any body of `Bytes` with `$new`. The adapters
/// use it for their body types.
macro_rules! replay_by_tee {
    ($(($($generics:tt)*) $body:ty, $new:path);* $(;)?) => {$(
        impl<$($generics)*> $crate::replay::ReplayBody for $body {
            type Kept = $crate::replay::TeeHandle<Self>;

            fn keep(&mut self, limit: usize) -> Option<Self::Kept> {
                $crate::replay::keep_stream(self, limit, $new)
            }

            fn restore(kept: Self::Kept) -> Option<Self> {
                kept.replay().map($new)
            }
        }
    )*};
}

#[cfg(feature = "axum")]
pub(crate) use replay_by_tee;

replay_by_tee! {
    (E: 'static) BoxBody<Bytes, E>, BoxBody::new;
    (E: 'static) UnsyncBoxBody<Bytes, E>, UnsyncBoxBody::new;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;

    use super::*;

    type Boxed = BoxBody<Bytes, Infallible>;

    async fn read<B>(body: B) -> Bytes
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn what_can_be_cloned_is_cloned_whatever_the_limit() {
        let mut body = Full::new(Bytes::from_static(b"hello"));
        let kept = body.keep(0).unwrap();
        assert_eq!(read(body).await, "hello");
        assert_eq!(read(Full::restore(kept).unwrap()).await, "hello");

        let kept = "hello".keep(0).unwrap();
        assert_eq!(<&str>::restore(kept), Some("hello"));
        let kept = Bytes::from_static(b"hello").keep(0).unwrap();
        assert_eq!(Bytes::restore(kept).unwrap(), "hello");
        assert!(Empty::<Bytes>::new().keep(0).and_then(Empty::restore).is_some());
        assert!(().keep(0).and_then(<()>::restore).is_some());
    }

    #[test]
    fn what_must_be_copied_is_copied_up_to_the_limit() {
        assert_eq!(String::from("hello").keep(5).and_then(String::restore).unwrap(), "hello");
        assert!(String::from("hello").keep(4).is_none());
        assert_eq!(vec![1_u8, 2].keep(2).and_then(Vec::restore).unwrap(), [1, 2]);
        assert!(vec![1_u8, 2].keep(1).is_none());
    }

    /// Fails if a body of any size is copied for every request.
    #[test]
    fn what_is_in_one_piece_is_copied_up_to_the_limit_unless_it_is_shared() {
        fn is_kept<D: Buf>(data: D, limit: usize) -> bool
        where
            Full<D>: ReplayBody<Kept = Full<D>>,
        {
            let again = Full::new(data).keep(limit).and_then(Full::restore);
            again.is_some_and(|again| again.size_hint().exact() == Some(1000))
        }

        let bytes = vec![b'a'; 1000];
        for limit in [0, 999] {
            assert!(is_kept(Bytes::from(bytes.clone()), limit));
            assert!(is_kept(&bytes[..], limit), "borrowed for less than ever");
            assert!(!is_kept(Cursor::new(bytes.clone()), limit));
            assert!(!is_kept(BytesMut::from(&bytes[..]), limit));
            assert!(!is_kept(VecDeque::from(bytes.clone()), limit));
        }
        assert!(is_kept(Cursor::new(bytes.clone()), 1000));
        assert!(is_kept(BytesMut::from(&bytes[..]), 1000));
        assert!(is_kept(VecDeque::from(bytes), 1000));
    }

    #[tokio::test]
    async fn a_boxed_body_is_teed() {
        let mut body: Boxed = Full::new(Bytes::from_static(b"hello")).boxed();
        let kept = body.keep(5).unwrap();
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(read(body).await, "hello");
        let again = Boxed::restore(kept).unwrap();
        assert_eq!(again.size_hint().exact(), Some(5));
        assert_eq!(read(again).await, "hello");
    }

    /// Two stacked layers: the replay of the outer one is kept by the inner one.
    #[tokio::test]
    async fn a_replay_can_be_kept_again() {
        let mut body: UnsyncBoxBody<Bytes, Infallible> =
            Full::new(Bytes::from_static(b"hello")).boxed_unsync();
        for _ in 0..3 {
            let kept = body.keep(5).unwrap();
            assert_eq!(read(body).await, "hello");
            body = UnsyncBoxBody::restore(kept).unwrap();
        }
        assert_eq!(read(body).await, "hello");
    }

    #[test]
    fn an_empty_body_can_always_be_replayed_and_is_always_at_its_end() {
        let mut body: Boxed = BoxBody::default();
        for limit in [0, 1] {
            let kept = body.keep(limit).unwrap();
            assert!(body.is_end_stream());
            body = Boxed::restore(kept).unwrap();
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
        }
    }

    /// The transport receives such a body directly, without even a box.
    #[tokio::test]
    async fn a_body_that_will_exceed_the_limit_is_left_alone() {
        let full = || -> Boxed { Full::new(Bytes::from_static(b"hello")).boxed() };
        for (limit, kept) in [(0, false), (4, false), (5, true), (6, true)] {
            let mut body = full();
            assert_eq!(body.keep(limit).is_some(), kept, "{limit}");
            assert_eq!(read(body).await, "hello");
        }
    }

    #[test]
    fn without_a_limit_to_spend_a_stream_is_left_alone() {
        let (_sender, stream) = http_body_util::channel::Channel::<Bytes>::new(1);
        let mut body: Boxed = stream.boxed();
        assert_eq!(body.size_hint().exact(), None);
        assert!(body.keep(0).is_none());
        assert!(body.keep(1).is_some());
    }

    #[tokio::test]
    async fn either_keeps_what_its_sides_keep() {
        type Both = Either<Full<Bytes>, Boxed>;
        let mut left = Both::Left(Full::new(Bytes::from_static(b"left")));
        let kept = left.keep(0).unwrap();
        assert!(matches!(Both::restore(kept), Some(Either::Left(_))));
        let mut right = Both::Right(Full::new(Bytes::from_static(b"right")).boxed());
        assert!(right.keep(4).is_none());
        let kept = right.keep(5).unwrap();
        assert_eq!(right.collect().await.unwrap().to_bytes(), "right");
        let again = Both::restore(kept).unwrap();
        assert_eq!(again.collect().await.unwrap().to_bytes(), "right");
    }

    #[test]
    fn the_kept_parts_go_where_the_bodies_go() {
        fn is_send_and_sync<T: Send + Sync>() {}
        fn is_send<T: Send>() {}
        is_send_and_sync::<<Boxed as ReplayBody>::Kept>();
        is_send::<<UnsyncBoxBody<Bytes, Infallible> as ReplayBody>::Kept>();
    }
}
