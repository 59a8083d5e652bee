//! Reading the body of a token response, up to a cap.
//!
//! The renewal's deadline limits the time, also for a body without end.

use std::pin::pin;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use crate::error::{BoxError, ErrorClass, TokenError};

/// The longest body that is read, in bytes.
pub(super) const MAX_BODY: usize = 256 * 1024;

/// The initial capacity, in bytes: enough for any ordinary response.
const FIRST_ROOM: usize = 4 * 1024;

/// Reads the whole of `body` into memory that is zeroized, since it contains a token.
///
/// # Errors
///
/// [`ErrorClass::Malformed`] if it is longer than 256 KiB, [`ErrorClass::Transient`] if it breaks
/// off.
pub(crate) async fn read<B>(body: B) -> Result<Zeroizing<Vec<u8>>, TokenError>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_long());
    }
    let mut body = pin!(body);
    let mut content = Zeroizing::new(Vec::with_capacity(FIRST_ROOM));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            TokenError::new(ErrorClass::Transient, "the token endpoint's answer broke off")
                .with_source(error)
        })?;
        if let Ok(data) = frame.into_data() {
            if content.len() + data.len() > MAX_BODY {
                return Err(too_long());
            }
            append(&mut content, &data);
        }
        // A body of empty frames that are always ready would keep its deadline from being seen.
        tokio::task::consume_budget().await;
    }
    Ok(content)
}

/// Appends without leaving a copy of the earlier content in freed memory.
fn append(content: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = content.len() + data.len();
    if needed > content.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(content.capacity() * 2)));
        larger.extend_from_slice(content);
        *content = larger;
    }
    content.extend_from_slice(data);
}

fn too_long() -> TokenError {
    TokenError::new(ErrorClass::Malformed, "the token endpoint's answer is longer than 256 KiB")
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http_body::Frame;
    use http_body_util::{Full, channel::Channel};

    use super::*;

    fn whole(len: usize) -> impl Body<Data = Bytes, Error = BoxError> {
        Full::new(Bytes::from(vec![b'x'; len])).map_err(|never: Infallible| match never {})
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_cap() {
        for len in [0, 1, FIRST_ROOM + 1, MAX_BODY] {
            assert_eq!(read(whole(len)).await.unwrap().len(), len);
        }
        for len in [MAX_BODY + 1, 10 * 1024 * 1024] {
            let error = read(whole(len)).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Malformed);
        }
    }

    /// Always has a frame with this.
    struct Endless(&'static [u8]);

    impl Body for Endless {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0)))))
        }
    }

    #[tokio::test]
    async fn a_body_without_end_meets_the_cap_or_the_deadline() {
        let error = read(Endless(b"{{{{")).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Malformed);
        let deadline = Duration::from_millis(10);
        assert!(tokio::time::timeout(deadline, read(Endless(b""))).await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_transient() {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
        sender.send_data(Bytes::from_static(b"{")).await.unwrap();
        sender.abort("reset".into());
        let error = read(body).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
    }
}
