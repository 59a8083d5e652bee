//! A connection that counts the bytes that are read from it. An exchange may not read more than any
//! token response needs, and a read yields after a certain amount, so that the thread can run other
//! tasks.
//! The body of a response has its own limit. This one covers the bytes before, between and after
//! it: interim responses, chunk sizes, trailers.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use super::body::MAX_BODY;
use crate::{error::BoxError, token::BoxFuture};

/// The most bytes that are read after a request was written. A body in chunks of one byte takes six
/// times its length.
const MAX_EXCHANGE: usize = 8 * MAX_BODY;

/// The number of bytes after which the reader yields.
const MAX_AT_ONCE: usize = 64 * 1024;

/// The counters of a connection. They are in the connector's extras, where an error can find them.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Bytes read since the last request was written.
    read: AtomicUsize,
    /// Whether the connection has served an earlier exchange.
    reused: AtomicBool,
}

impl Meter {
    /// Returns `true` if the connection has served an earlier request, and no byte of the response
    /// to the current one has been read.
    pub(super) fn is_stale(&self) -> bool {
        self.0.reused.load(Ordering::Relaxed) && self.0.read.load(Ordering::Relaxed) == 0
    }

    /// Adds `more` bytes, and returns the number of bytes that were read in this exchange.
    fn add(&self, more: usize) -> usize {
        self.0.read.fetch_add(more, Ordering::Relaxed).saturating_add(more)
    }

    fn request_written(&self) {
        if self.0.read.swap(0, Ordering::Relaxed) > 0 {
            self.0.reused.store(true, Ordering::Relaxed);
        }
    }
}

/// A connection with a [`Meter`].
#[derive(Debug)]
pub(super) struct Metered<T> {
    inner: TokioIo<T>,
    meter: Meter,
    at_once: usize,
}

impl<T> Metered<T> {
    fn new(inner: T) -> Self {
        Self { inner: TokioIo::new(inner), meter: Meter::default(), at_once: 0 }
    }
}

impl<T: Unpin> AsyncRead for Metered<T>
where
    TokioIo<T>: AsyncRead,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.at_once >= MAX_AT_ONCE {
            self.at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let Poll::Ready(result) = Pin::new(&mut self.inner).poll_read(cx, buffer) else {
            self.at_once = 0;
            return Poll::Pending;
        };
        result?;
        let read = buffer.filled().len() - before;
        self.at_once += read;
        if self.meter.add(read) > MAX_EXCHANGE {
            return Poll::Ready(Err(io::Error::other("the answer is longer than 2 MiB")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Unpin> AsyncWrite for Metered<T>
where
    TokioIo<T>: AsyncWrite,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.meter.request_written();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, pieces))?;
        self.meter.request_written();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: Connection> Connection for Metered<T> {
    fn connected(&self) -> Connected {
        self.inner.inner().connected().extra(self.meter.clone())
    }
}

/// A connector whose connections have a [`Meter`].
#[derive(Clone, Debug)]
pub(super) struct Metering<C>(pub(super) C);

impl<C> Service<Uri> for Metering<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = TokioIo<Metered<C::Response>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let mut connecting = std::pin::pin!(connecting);
            let connection = poll_fn(|cx| connecting.as_mut().poll(cx)).await;
            connection.map(|io| TokioIo::new(Metered::new(io))).map_err(Into::into)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Has bytes whenever it is asked.
    struct Flood;

    impl AsyncRead for Flood {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buffer.initialize_unfilled();
            buffer.set_filled(buffer.capacity());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Flood {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Reads until it must wait or fails. How much came.
    fn read(io: &mut Metered<TokioIo<Flood>>) -> (usize, io::Result<()>) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut room, mut sum) = (vec![0; 8 * 1024], 0);
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            match Pin::new(&mut *io).poll_read(&mut cx, &mut buffer) {
                Poll::Ready(Ok(())) => sum += buffer.filled().len(),
                Poll::Ready(Err(error)) => return (sum, Err(error)),
                Poll::Pending => return (sum, Ok(())),
            }
        }
    }

    fn write(io: &mut Metered<TokioIo<Flood>>) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(io).poll_write(&mut cx, b"POST").is_ready());
    }

    /// Pins the thread that reads interim responses for as long as the server sends them.
    #[test]
    fn a_flood_is_read_in_portions_and_not_past_the_limit() {
        let mut io = Metered::new(TokioIo::new(Flood));
        for exchange in 0..3 {
            write(&mut io);
            let mut sum = 0;
            loop {
                let (read, result) = read(&mut io);
                assert!(read <= MAX_AT_ONCE, "{read}");
                sum += read;
                if let Err(error) = result {
                    assert_eq!(error.to_string(), "the answer is longer than 2 MiB");
                    break;
                }
            }
            assert_eq!(sum, MAX_EXCHANGE, "in exchange {exchange}");
        }
    }

    #[test]
    fn a_connection_is_stale_from_its_second_request_until_a_byte_comes() {
        let mut io = Metered::new(TokioIo::new(Flood));
        let meter = io.meter.clone();
        assert!(!meter.is_stale(), "unused");
        write(&mut io);
        assert!(!meter.is_stale(), "its first request");
        let _ = read(&mut io);
        assert!(!meter.is_stale(), "idle");
        write(&mut io);
        write(&mut io);
        assert!(meter.is_stale());
        let _ = read(&mut io);
        assert!(!meter.is_stale(), "an answer has begun");
    }
}
