//! What a token is, and where it comes from: a [`TokenSource`] fetches a [`TokenResponse`], and
//! [`AccessToken`](crate::AccessToken) is what requests carry.
//!
//! Nothing here knows token endpoints, caches or requests. The life of a token is in
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
