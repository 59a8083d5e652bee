//! Tokens and their sources: a [`TokenSource`] fetches a [`TokenResponse`], and requests carry an
//! [`AccessToken`](crate::AccessToken).
//!
//! This module depends on neither token endpoints, caches nor requests. The life of a token is in
//! [`cache`](crate::cache).

pub(crate) mod instant;
pub(crate) mod issued;
pub(crate) mod jwt;
pub(crate) mod schedule;
pub(crate) mod source;
mod trigger;

pub use self::source::{Attempt, BoxFuture, SourceFn};
pub(crate) use self::{
    issued::IssuedToken,
    schedule::Schedule,
    source::{Lifetime, TokenResponse, TokenSource, sensitive_header, source_fn, unshared},
    trigger::Trigger,
};
