//! Reading a response's body to its end and throwing it away, within limits: a body that is
//! dropped unread costs its connection, one that is read for ever costs the caller.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{
    runtime::Handle,
    time::{Sleep, sleep},
};

/// No more is read than this.
const MAX_BYTES: usize = 64 * 1024;
/// And for no longer than this.
const MAX_TIME: Duration = Duration::from_millis(250);
/// What a frame counts at least, so that empty ones come to an end, too.
const FRAME: usize = 64;

pin_project! {
    /// Ends when the body has ended, or a limit is reached. The body is dropped by then.
    #[doc(hidden)]
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Discard<R> {
        #[pin]
        body: Option<R>,
        left: usize,
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<R: Body> Discard<R> {
    pub(crate) fn new(body: R) -> Self {
        Self { body: Some(body), left: MAX_BYTES, timer: None }
    }
}

impl<R: Body> Future for Discard<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(mut body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        while !body.is_end_stream() && *this.left > 0 {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let read = frame.data_ref().map_or(0, Buf::remaining);
                    *this.left = this.left.saturating_sub(read.max(FRAME));
                }
                Poll::Ready(None | Some(Err(_))) => break,
                Poll::Pending => {
                    if this.timer.is_none() {
                        // Without a runtime there is no timer, and nothing to wait with.
                        if Handle::try_current().is_err() {
                            break;
                        }
                        this.timer.set(Some(sleep(MAX_TIME)));
                    }
                    if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                        ready!(timer.poll(cx));
                    }
                    break;
                }
            }
        }
        this.body.set(None);
        this.timer.set(None);
        Poll::Ready(())
    }
}
