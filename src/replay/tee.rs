//! Keeps a streaming body, up to a limit, as it is sent.
//!
//! [`Tee`] is the body that is sent first, [`TeeHandle`] is the handle that stays with the layer,
//! and [`Replay`] is the body that is sent again. A replay is offered only if it is certain to be
//! the same body: the original was read to its end, or was dropped before that (the server
//! responded without reading all of it), in which case the replay is the kept part followed by the
//! rest of the original. There is no replay while the original is still being read, after it
//! failed, or beyond the limit.
//!
//! The kept bytes are copies. A frame of a few bytes can be a slice of several megabytes, which
//! keeping the frame would keep alive; copying makes the limit a bound on memory. The exception is
//! a body of a single frame, which is kept by reference, like a clone of a `Full<Bytes>`: this
//! costs nothing, and it holds only memory that the caller held a moment before.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::replayed::Replayed;

/// The maximum allocation for bytes that are announced but not received yet.
const FIRST_PIECE: usize = 16 * 1024;

/// A body that forwards its frames and keeps a copy of them. Created by [`tee`].
pub(crate) struct Tee<B> {
    /// `None` once the body was handed over.
    body: Option<B>,
    /// `None` once nothing more is kept: the replay was handed over, or is impossible.
    buffer: Option<Buffer>,
    shared: Shared<B>,
}

/// The layer's handle to a body that is being sent.
pub struct TeeHandle<B> {
    /// `None` for a body that was empty from the start.
    shared: Option<Shared<B>>,
}

/// The slot in which the tee leaves the replay for the handle. Empty if there is no replay, or not
/// yet.
type Shared<B> = Arc<Mutex<Option<Replayed<B>>>>;

/// The bytes that have passed so far.
struct Buffer {
    /// The only frame, if there was just one.
    whole: Bytes,
    copied: Vec<u8>,
    trailers: Option<HeaderMap>,
    announced: SizeHint,
    limit: usize,
}

/// The effect of a frame on the buffer.
enum Progress {
    More,
    Complete,
    Lost,
}

/// Replaces `body` with a [`Tee`], unless the outcome is known in advance: an empty body can always
/// be replayed and a body larger than the limit never, so both are left unchanged. `boxed` converts
/// the tee into a `B`.
///
/// Adapters need only this and [`TeeHandle::replay`].
pub(crate) fn keep_stream<B>(
    body: &mut B,
    limit: usize,
    boxed: impl FnOnce(Tee<B>) -> B,
) -> Option<TeeHandle<B>>
where
    B: Body<Data = Bytes> + Default,
{
    if body.is_end_stream() {
        return Some(TeeHandle { shared: None });
    }
    if limit == 0 || body.size_hint().lower() > limit as u64 {
        return None;
    }
    // The default of such a body type is an empty body, which does not allocate.
    let (tee, handle) = tee(mem::take(body), limit);
    *body = boxed(tee);
    Some(handle)
}

/// Splits `body` into a body that keeps up to `limit` of its bytes as they pass, and a handle to
/// them.
pub(crate) fn tee<B: Body<Data = Bytes>>(body: B, limit: usize) -> (Tee<B>, TeeHandle<B>) {
    let shared = Shared::default();
    let buffer = Buffer {
        whole: Bytes::new(),
        copied: Vec::new(),
        trailers: None,
        announced: body.size_hint(),
        limit,
    };
    let tee = Tee { body: Some(body), buffer: Some(buffer), shared: Arc::clone(&shared) };
    (tee, TeeHandle { shared: Some(shared) })
}

impl<B> Tee<B> {
    fn hand_over(&self, replay: Replayed<B>) {
        let mut slot = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(replay);
    }
}

impl<B> Body for Tee<B>
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
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        // Taken out while the body is polled, so that nothing is handed over if it panics.
        let Some(mut buffer) = this.buffer.take() else {
            return Pin::new(body).poll_frame(cx);
        };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            this.buffer = Some(buffer);
            return Poll::Pending;
        };
        let progress = match &frame {
            None => Progress::Complete,
            Some(Err(_)) => Progress::Lost,
            // The handle was dropped: the request was answered, and no replay will be needed.
            Some(Ok(_)) if Arc::strong_count(&this.shared) == 1 => Progress::Lost,
            Some(Ok(frame)) => buffer.keep(frame, body.is_end_stream()),
        };
        match progress {
            Progress::More => this.buffer = Some(buffer),
            // Hand over now rather than on drop, since some transports hold on to a body after
            // reading it.
            Progress::Complete => this.hand_over(buffer.followed_by(None)),
            Progress::Lost => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::new, B::size_hint)
    }
}

/// If the body is dropped before its end, its rest is handed over with the kept part.
impl<B> Drop for Tee<B> {
    fn drop(&mut self) {
        if let (Some(buffer), Some(body)) = (self.buffer.take(), self.body.take()) {
            self.hand_over(buffer.followed_by(Some(body)));
        }
    }
}

impl<B> TeeHandle<B> {
    /// Returns the body for a second request, if the original was read to its end within the limit,
    /// or was dropped. Returns `None` while the original is still being read, so call this as late
    /// as possible.
    pub(crate) fn replay(self) -> Option<Replayed<B>> {
        match self.shared {
            None => Some(Replayed::empty()),
            Some(shared) => shared.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl<B> fmt::Debug for TeeHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TeeHandle").finish_non_exhaustive()
    }
}

impl Buffer {
    fn keep(&mut self, frame: &Frame<Bytes>, is_last: bool) -> Progress {
        let room = self.limit - self.copied.len();
        if let Some(data) = frame.data_ref() {
            if data.len() > room {
                return Progress::Lost;
            }
            if is_last && self.copied.is_empty() {
                self.whole = data.clone();
            } else {
                self.copy(data);
            }
            if is_last { Progress::Complete } else { Progress::More }
        } else if let Some(trailers) = frame.trailers_ref() {
            let size = trailers.iter().map(|(name, value)| name.as_str().len() + value.len());
            if size.sum::<usize>() > room {
                return Progress::Lost;
            }
            self.trailers = Some(trailers.clone());
            Progress::Complete
        } else {
            // An unknown kind of frame, which this crate cannot replay.
            Progress::Lost
        }
    }

    /// Copies `data`, which fits into the limit, and never allocates more than the limit. Bytes
    /// that are announced but not received yet count up to [`FIRST_PIECE`]: the caller of a proxy
    /// may announce more bytes than fit into memory.
    fn copy(&mut self, data: &[u8]) {
        let (len, capacity) = (self.copied.len(), self.copied.capacity());
        let needed = len + data.len();
        if needed > capacity {
            let announced = usize::try_from(self.announced.lower()).unwrap_or(usize::MAX);
            let wanted = needed
                .max(announced.min(FIRST_PIECE))
                .max(capacity.saturating_mul(2))
                .min(self.limit);
            self.copied.reserve_exact(wanted - len);
        }
        self.copied.extend_from_slice(data);
    }

    fn followed_by<B>(self, rest: Option<B>) -> Replayed<B> {
        let Self { whole, copied, trailers, announced, limit: _ } = self;
        let kept = if copied.is_empty() { whole } else { Bytes::from(copied) };
        Replayed { kept, rest, trailers, announced }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        panic::{AssertUnwindSafe, catch_unwind},
        task::Waker,
    };

    use http::HeaderValue;

    use super::{
        super::replayed::{hint, less},
        *,
    };

    /// A scripted body. By default its size is unknown, and it reports its end only when polled for
    /// another frame.
    #[derive(Default)]
    struct Script {
        steps: VecDeque<Step>,
        announced: SizeHint,
        knows_its_end: bool,
        failed: bool,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Data(Bytes),
        Trailers(HeaderMap),
        Wait,
        Fail,
        Panic,
    }
    use Step::{Data, Fail, Panic, Trailers, Wait};

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            assert!(!self.failed, "polled after an error");
            Poll::Ready(match self.steps.pop_front() {
                None => None,
                Some(Data(data)) => {
                    self.announced = less(&self.announced, data.len() as u64);
                    Some(Ok(Frame::data(data)))
                }
                Some(Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Wait) => return Poll::Pending,
                Some(Fail) => {
                    self.failed = true;
                    Some(Err("the stream broke"))
                }
                Some(Panic) => panic!("the body panicked"),
            })
        }

        fn is_end_stream(&self) -> bool {
            self.knows_its_end && self.steps.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            hint(self.announced.lower(), self.announced.upper())
        }
    }

    impl<B> Tee<B> {
        /// Returns the number of bytes that are held for a replay.
        fn held(&self) -> usize {
            self.buffer.as_ref().map_or(0, |b| b.whole.len() + b.copied.capacity())
        }
    }

    fn script(steps: impl IntoIterator<Item = Step>) -> Script {
        Script { steps: steps.into_iter().collect(), ..Script::default() }
    }

    fn data(text: &'static str) -> Step {
        Data(Bytes::from_static(text.as_bytes()))
    }

    fn some_trailers() -> HeaderMap {
        [("x-hello", "world"), ("x-foo", "bar")]
            .into_iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    /// Polls once. Returns `None` if the body is pending.
    fn poll<B: Body<Data = Bytes> + Unpin>(
        body: &mut B,
    ) -> Option<Option<Result<Frame<Bytes>, B::Error>>> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        }
    }

    /// Returns the next data frame as text.
    fn chunk<B: Body<Data = Bytes, Error = &'static str> + Unpin>(body: &mut B) -> String {
        loop {
            if let Some(frame) = poll(body) {
                let data = frame.unwrap().unwrap().into_data().unwrap();
                return String::from_utf8(data.to_vec()).unwrap();
            }
        }
    }

    /// Reads to the end, and checks the invariants of every body on the way.
    fn read<B>(mut body: B) -> (String, Option<HeaderMap>)
    where
        B: Body<Data = Bytes, Error = &'static str> + Unpin,
    {
        let (mut all, mut trailers) = (Vec::new(), None);
        loop {
            let (before, ended) = (body.size_hint(), body.is_end_stream());
            let Some(frame) = poll(&mut body) else {
                continue;
            };
            let Some(frame) = frame.transpose().unwrap() else {
                break;
            };
            assert!(!ended, "a frame after the end of the stream");
            match frame.into_data() {
                Ok(data) => {
                    assert!(before.upper().is_none_or(|upper| data.len() as u64 <= upper));
                    if let (Some(before), Some(after)) = (before.exact(), body.size_hint().exact())
                    {
                        assert_eq!(after, before - data.len() as u64);
                    }
                    all.extend_from_slice(&data);
                }
                Err(frame) => trailers = Some(frame.into_trailers().unwrap()),
            }
        }
        assert!(poll(&mut body).is_some_and(|frame| frame.is_none()), "ends once and for all");
        (String::from_utf8(all).unwrap(), trailers)
    }

    #[test]
    fn one_chunk_is_replayed() {
        for knows_its_end in [false, true] {
            let (first, handle) = tee(Script { knows_its_end, ..script([data("hello")]) }, 64);
            assert_eq!(read(first), ("hello".into(), None));
            assert_eq!(read(handle.replay().unwrap()), ("hello".into(), None));
        }
    }

    #[test]
    fn several_chunks_are_replayed() {
        let steps = [data("hello"), Wait, data(" world"), data(""), data(", have lots"), Wait];
        let (first, handle) = tee(script(steps), 64);
        assert_eq!(read(first).0, "hello world, have lots");
        assert_eq!(read(handle.replay().unwrap()), ("hello world, have lots".into(), None));
    }

    #[test]
    fn trailers_are_replayed_behind_the_data() {
        let (first, handle) = tee(script([data("hello"), Trailers(some_trailers())]), 64);
        assert_eq!(read(first).1, Some(some_trailers()));
        assert_eq!(read(handle.replay().unwrap()), ("hello".into(), Some(some_trailers())));
    }

    #[test]
    fn trailers_alone_are_replayed() {
        let (first, handle) = tee(script([Trailers(some_trailers())]), 64);
        assert_eq!(read(first), (String::new(), Some(some_trailers())));
        let replay = handle.replay().unwrap();
        assert!(!replay.is_end_stream());
        assert_eq!(read(replay), (String::new(), Some(some_trailers())));
    }

    /// The server responds before it has read everything: the replay continues with the original.
    #[test]
    fn a_body_that_is_dropped_with_some_of_it_left_is_replayed_in_full() {
        let steps =
            [data("hello"), data(" world"), Wait, data(", have fun"), Trailers(some_trailers())];
        for frames in 0..4 {
            let (mut first, handle) = tee(script(steps.clone()), 64);
            for _ in 0..frames {
                let _ = poll(&mut first);
            }
            drop(first);
            let (text, trailers) = read(handle.replay().unwrap());
            assert_eq!(text, "hello world, have fun", "{frames}");
            assert_eq!(trailers, Some(some_trailers()));
        }
    }

    #[test]
    fn there_is_no_replay_while_the_first_body_is_being_read() {
        let (mut first, handle) = tee(script([data("hello"), Wait, data(" world")]), 64);
        assert_eq!(chunk(&mut first), "hello");
        assert!(handle.replay().is_none());
        assert_eq!(read(first).0, " world");
    }

    /// Some transports keep a body that was read until the connection is free.
    #[test]
    fn a_body_that_came_to_its_end_need_not_be_dropped() {
        let (mut first, handle) = tee(script([data("hello")]), 64);
        assert_eq!(chunk(&mut first), "hello");
        assert!(poll(&mut first).unwrap().is_none());
        assert_eq!(read(handle.replay().unwrap()).0, "hello");
        let at_end = Script { knows_its_end: true, ..script([data("hello")]) };
        let (mut first, handle) = tee(at_end, 64);
        assert_eq!(chunk(&mut first), "hello");
        assert_eq!(read(handle.replay().unwrap()).0, "hello");
        drop(first);
    }

    #[test]
    fn replays_can_be_replayed_also_incomplete_ones() {
        let steps = [data("hello"), data(" world"), data(", have lots"), Trailers(some_trailers())];
        let (mut first, handle) = tee(script(steps), 64);
        assert_eq!(chunk(&mut first), "hello");
        drop(first);
        let (mut second, handle) = tee(handle.replay().unwrap(), 64);
        assert_eq!(chunk(&mut second), "hello");
        assert_eq!(chunk(&mut second), " world");
        drop(second);
        let (third, handle) = tee(handle.replay().unwrap(), 64);
        let all = ("hello world, have lots".to_owned(), Some(some_trailers()));
        assert_eq!(read(third), all);
        assert_eq!(read(handle.replay().unwrap()), all);
    }

    #[test]
    fn the_end_of_the_stream_is_not_seen_before_it_comes() {
        let (mut first, handle) =
            tee(Script { knows_its_end: true, ..script([data("hello")]) }, 64);
        assert!(!first.is_end_stream());
        assert_eq!(chunk(&mut first), "hello");
        assert!(first.is_end_stream());
        drop(first);
        let mut replay = handle.replay().unwrap();
        assert!(!replay.is_end_stream());
        assert_eq!(chunk(&mut replay), "hello");
        assert!(replay.is_end_stream());

        let (first, handle) = tee(script([Trailers(some_trailers())]), 64);
        drop(first);
        let mut replay = handle.replay().unwrap();
        assert!(!replay.is_end_stream());
        assert!(poll(&mut replay).unwrap().unwrap().unwrap().is_trailers());
    }

    #[test]
    fn past_the_limit_the_stream_goes_on_and_nothing_is_kept() {
        let (mut first, handle) = tee(script([data("aaaaaaaa"), data("b"), data("c")]), 8);
        assert_eq!(chunk(&mut first), "aaaaaaaa");
        assert_eq!(first.held(), 8);
        assert_eq!(chunk(&mut first), "b");
        assert_eq!(first.held(), 0);
        assert_eq!(read(first).0, "c");
        assert!(handle.replay().is_none());

        // This holds also if the body is dropped before its end, and if a single frame exceeds the
        // limit.
        for steps in [[data("aaaaaaaa"), data("b"), data("c")], [data("aaaaaaaaa"), Wait, Wait]] {
            let (mut first, handle) = tee(script(steps), 8);
            let _ = poll(&mut first);
            let _ = poll(&mut first);
            drop(first);
            assert!(handle.replay().is_none());
        }
    }

    #[test]
    fn at_the_limit_all_is_kept() {
        for knows_its_end in [false, true] {
            let steps = script([data("aaaa"), data("bbbb")]);
            let (first, handle) = tee(Script { knows_its_end, ..steps }, 8);
            assert_eq!(read(first).0, "aaaabbbb");
            assert_eq!(read(handle.replay().unwrap()).0, "aaaabbbb");
        }
    }

    #[test]
    fn trailers_count_towards_the_limit() {
        let size = "x-helloworldx-foobar".len();
        for (limit, kept) in [(5 + size, true), (4 + size, false)] {
            let (first, handle) = tee(script([data("hello"), Trailers(some_trailers())]), limit);
            assert_eq!(read(first).1, Some(some_trailers()));
            assert_eq!(handle.replay().is_some(), kept);
        }
    }

    #[test]
    fn the_limit_may_be_passed_by_a_replay_as_well() {
        let (mut first, handle) = tee(script([data("aaaaaaaa"), data("bbbbbbbb")]), 8);
        assert_eq!(chunk(&mut first), "aaaaaaaa");
        drop(first);
        let (second, handle) = tee(handle.replay().unwrap(), 8);
        assert_eq!(read(second).0, "aaaaaaaabbbbbbbb");
        assert!(handle.replay().is_none());
    }

    #[test]
    fn a_stream_that_failed_is_not_replayed() {
        let (mut first, handle) = tee(script([data("hello"), Fail]), 64);
        assert_eq!(chunk(&mut first), "hello");
        assert!(poll(&mut first).unwrap().unwrap().is_err());
        drop(first);
        assert!(handle.replay().is_none());

        // The rest may fail in the replay: the error is passed on.
        let (mut first, handle) = tee(script([data("hello"), Fail]), 64);
        assert_eq!(chunk(&mut first), "hello");
        drop(first);
        let mut replay = handle.replay().unwrap();
        assert_eq!(chunk(&mut replay), "hello");
        assert!(poll(&mut replay).unwrap().unwrap().is_err());
        assert!(poll(&mut replay).unwrap().is_none());
    }

    #[test]
    fn a_stream_that_panicked_is_not_replayed() {
        let (mut first, handle) = tee(script([data("hello"), Panic, data(" world")]), 64);
        assert_eq!(chunk(&mut first), "hello");
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut first).is_some())).is_err());
        assert_eq!(chunk(&mut first), " world");
        drop(first);
        assert!(handle.replay().is_none());
    }

    #[test]
    fn the_size_that_was_announced_is_announced_again() {
        for announced in [SizeHint::with_exact(11), SizeHint::new(), hint(3, Some(20))] {
            let again = |frames: usize| {
                let steps = script([data("hello"), data(" world")]);
                let (mut first, handle) = tee(
                    Script { announced: hint(announced.lower(), announced.upper()), ..steps },
                    64,
                );
                assert_eq!(first.size_hint().exact(), announced.exact());
                for _ in 0..frames {
                    let _ = poll(&mut first);
                }
                drop(first);
                handle.replay().unwrap()
            };
            for frames in 0..=3 {
                let replay = again(frames);
                assert_eq!(replay.size_hint().exact(), announced.exact());
                assert_eq!(replay.size_hint().upper(), announced.upper());
                assert!(replay.size_hint().lower() >= [0, 5, 11, 11][frames], "the kept bytes");
                assert_eq!(read(replay).0, "hello world");
            }
        }
    }

    #[test]
    fn a_body_that_announces_the_wrong_size_makes_nothing_panic() {
        for announced in [SizeHint::with_exact(3), hint(0, Some(1)), hint(u64::MAX, None)] {
            let steps = script([data("hello"), data(" world")]);
            let (mut first, handle) = tee(Script { announced, ..steps }, 64);
            assert_eq!(chunk(&mut first), "hello");
            assert!(first.held() <= 64);
            drop(first);
            let mut replay = handle.replay().unwrap();
            let _ = replay.size_hint();
            assert_eq!(chunk(&mut replay), "hello");
            assert_eq!(chunk(&mut replay), " world");
            let _ = replay.size_hint();
        }
    }

    #[test]
    fn a_long_stream_holds_no_more_than_the_limit() {
        const LIMIT: usize = 64 * 1024;
        for size in [1, 1000, 16 * 1024, LIMIT, 10 * 1024 * 1024] {
            let total: usize = if size == 1 { 2 * LIMIT } else { 10 * 1024 * 1024 };
            // Every frame is a slice of one large block, which the kept bytes must not hold on to.
            let block = Bytes::from(vec![7; 10 * 1024 * 1024]);
            let frames = (0..total.div_ceil(size)).map(|_| Data(block.slice(..size)));
            let (mut first, handle) = tee(script(frames), LIMIT);
            let mut read = 0;
            while let Some(frame) = poll(&mut first).unwrap() {
                read += frame.unwrap().into_data().unwrap().len();
                assert!(first.held() <= LIMIT);
                let buffer = first.buffer.as_ref();
                assert!(buffer.is_none_or(|b| b.whole.is_empty() && b.copied.capacity() <= LIMIT));
            }
            assert_eq!(read, total.div_ceil(size) * size);
            assert!(block.is_unique(), "a slice of the block is still held");
            assert!(handle.replay().is_none());
        }
    }

    #[test]
    fn the_buffer_of_an_announced_size_is_allocated_once() {
        let steps = script([data("hello"), data(" world")]);
        let (mut first, _handle) = tee(Script { announced: SizeHint::with_exact(11), ..steps }, 64);
        let _ = chunk(&mut first);
        assert_eq!(first.held(), 11);
    }

    /// Fails if a single request with a huge `Content-Length` ends the process because the limit
    /// exceeds the memory.
    #[test]
    fn no_memory_is_taken_for_a_size_that_is_only_announced() {
        for announced in [1 << 20, 1 << 46, u64::MAX - 1] {
            let steps = script([data("hello"), data(" world")]);
            let announced = SizeHint::with_exact(announced);
            let (mut first, handle) = tee(Script { announced, ..steps }, usize::MAX);
            let _ = chunk(&mut first);
            assert!(first.held() <= FIRST_PIECE, "{} bytes", first.held());
            drop(first);
            let mut replay = handle.replay().unwrap();
            assert_eq!((chunk(&mut replay), chunk(&mut replay)), ("hello".into(), " world".into()));
        }
    }

    #[test]
    fn a_body_of_one_frame_is_kept_without_a_copy() {
        let frame = Bytes::from(vec![7; 1000]);
        let body = Script { knows_its_end: true, ..script([Data(frame.clone())]) };
        let (mut first, handle) = tee(body, 1000);
        let _ = poll(&mut first);
        let mut replay = handle.replay().unwrap();
        let again = poll(&mut replay).unwrap().unwrap().unwrap().into_data().unwrap();
        assert_eq!(again.as_ptr(), frame.as_ptr());
    }

    /// The response was not a 401: the kept bytes are freed even though the body is still being
    /// sent.
    #[test]
    fn nothing_is_kept_once_nobody_can_ask() {
        let (mut first, handle) = tee(script([data("hello"), data(" world"), data("!")]), 64);
        assert_eq!(chunk(&mut first), "hello");
        drop(handle);
        assert_eq!(chunk(&mut first), " world");
        assert_eq!(first.held(), 0);
        assert_eq!(read(first).0, "!");
    }

    #[test]
    fn a_replay_is_the_whole_body_or_none() {
        let mut seed = 0x5eed_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let (mut offered, mut refused) = (0, 0);
        for round in 0..20_000 {
            let (mut steps, mut text) = (Vec::new(), String::new());
            let (mut fails, mut trailers) = (false, None);
            for _ in 0..random(8) {
                if random(3) == 0 {
                    steps.push(Wait);
                }
                let len = usize::try_from(random(12)).unwrap();
                let piece: String = (0..len)
                    .map(|_| char::from(b'a' + u8::try_from(random(26)).unwrap()))
                    .collect();
                text.push_str(&piece);
                steps.push(Data(piece.into()));
            }
            match random(6) {
                0 => {
                    fails = true;
                    steps.push(Fail);
                }
                1 | 2 => {
                    trailers = Some(some_trailers());
                    steps.push(Trailers(some_trailers()));
                }
                _ => {}
            }
            let limit = usize::try_from(random(80)).unwrap();
            let announced = match random(3) {
                0 => SizeHint::with_exact(text.len() as u64),
                1 => hint(random(text.len() as u64 + 1), None),
                _ => SizeHint::new(),
            };
            let body = Script {
                steps: steps.into(),
                announced: hint(announced.lower(), announced.upper()),
                knows_its_end: random(2) == 0,
                failed: false,
            };
            let (mut first, handle) = tee(body, limit);
            let (mut seen, mut failed, mut ended) = (0, false, false);
            for _ in 0..random(16) {
                match poll(&mut first) {
                    None => {}
                    Some(None) => {
                        ended = true;
                        break;
                    }
                    Some(Some(Err(_))) => {
                        failed = true;
                        break;
                    }
                    Some(Some(Ok(frame))) => {
                        let size = if frame.is_trailers() { 20 } else { 0 };
                        seen += frame.data_ref().map_or(size, Bytes::len);
                        ended |= frame.is_trailers();
                    }
                }
                assert!(first.held() <= limit);
                if first.is_end_stream() {
                    ended = true;
                    break;
                }
            }
            let kept_alive = random(4) == 0;
            let first = kept_alive.then_some(first);
            let replay = handle.replay();
            let context = format!("round {round}: {text:?}, limit {limit}, {seen} read");
            let Some(mut replay) = replay else {
                let expected = failed || seen > limit || kept_alive && !ended;
                assert!(expected, "no replay, {context}");
                refused += 1;
                continue;
            };
            drop(first);
            assert!(!failed && seen <= limit, "{context}");
            assert_eq!(replay.size_hint().exact().is_some(), announced.exact().is_some());
            offered += 1;
            if fails {
                let mut polls = (0..64).map(|_| poll(&mut replay));
                assert!(polls.any(|frame| matches!(frame, Some(Some(Err(_))))), "{context}");
            } else {
                assert_eq!(read(replay), (text, trailers), "{context}");
            }
        }
        assert!(offered > 5_000 && refused > 2_000, "{offered} offered, {refused} refused");
    }
}
