//! [`Replay`]: a body that is sent a second time.
//!
//! `tee` decides whether there is a replay, and tests this file's behavior as well.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The second copy of a body: the bytes kept from the original, followed by the unread rest of it.
pub(crate) struct Replayed<B> {
    pub(super) kept: Bytes,
    pub(super) rest: Option<B>,
    pub(super) trailers: Option<HeaderMap>,
    /// The size that the original announced, less the bytes read from this body: the replay is
    /// framed like the original.
    pub(super) announced: SizeHint,
}

impl<B> Replayed<B> {
    /// Creates the replay of an empty body.
    pub(super) fn empty() -> Self {
        let announced = SizeHint::with_exact(0);
        Self { kept: Bytes::new(), rest: None, trailers: None, announced }
    }
}

impl<B> Body for Replayed<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = if !this.kept.is_empty() {
            Some(Ok(Frame::data(mem::take(&mut this.kept))))
        } else if let Some(rest) = &mut this.rest {
            let frame = ready!(Pin::new(rest).poll_frame(cx));
            if !matches!(frame, Some(Ok(_))) {
                this.rest = None;
            }
            frame
        } else {
            this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
        };
        if let Some(data) = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref()) {
            this.announced = less(&this.announced, data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.size_hint().lower());
        let known = (self.kept.len() as u64).saturating_add(rest);
        hint(self.announced.lower().max(known), self.announced.upper())
    }
}

pub(super) fn less(hint_before: &SizeHint, read: u64) -> SizeHint {
    hint(
        hint_before.lower().saturating_sub(read),
        hint_before.upper().map(|upper| upper.saturating_sub(read)),
    )
}

/// Creates a size hint from bounds that may contradict each other: a body may announce too little,
/// and `SizeHint` panics in that case.
pub(super) fn hint(lower: u64, upper: Option<u64>) -> SizeHint {
    let mut hint = SizeHint::new();
    if let Some(upper) = upper {
        hint.set_upper(upper);
    }
    hint.set_lower(lower.min(upper.unwrap_or(u64::MAX)));
    hint
}
