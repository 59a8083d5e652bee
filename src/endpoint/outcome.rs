//! Decides whether a failed token request can have reached the token endpoint.

use std::{error::Error as StdError, io};

/// Returns `true` if `error` shows that no connection was established, so that the request was not
/// sent.
pub(crate) fn was_never_sent(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        #[cfg(feature = "rustls")]
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        #[cfg(feature = "reqwest")]
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return error.is_connect();
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::NetworkDown
                    | io::ErrorKind::AddrNotAvailable
                    | io::ErrorKind::NotFound
            );
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorClass, TokenError};

    #[test]
    fn only_a_connection_that_never_came_about_is_free() {
        for (kind, is_free) in [
            (io::ErrorKind::ConnectionRefused, true),
            (io::ErrorKind::HostUnreachable, true),
            (io::ErrorKind::ConnectionReset, false),
            (io::ErrorKind::BrokenPipe, false),
            (io::ErrorKind::TimedOut, false),
            (io::ErrorKind::UnexpectedEof, false),
        ] {
            let error =
                TokenError::new(ErrorClass::Transient, "x").with_source(io::Error::from(kind));
            assert_eq!(was_never_sent(&error), is_free, "{kind:?}");
        }
        assert!(!was_never_sent(&TokenError::new(ErrorClass::Transient, "x")), "nobody knows");
    }
}
