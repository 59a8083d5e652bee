//! A token, from where it is fetched to where it is shared: [`TokenSource`] fetches one,
//! [`TokenCache`] shares it, [`AccessToken`] is what comes out.
//!
//! This folder knows neither token endpoints nor request bodies: a source may be anything that
//! can produce a [`TokenResponse`].

pub(crate) mod jwt;
mod source;

#[cfg(test)]
pub(crate) use self::source::Lifetime;
pub(crate) use self::source::sensitive_header;
pub use self::source::{Attempt, BoxFuture, SourceFn, TokenResponse, TokenSource, source_fn};
