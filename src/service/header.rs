//! [`TokenHeader`]: the header of requests; and [`Tag`]: the part of it that a response future
//! keeps.

use http::HeaderValue;

use crate::{
    cache::{Detach, Granted, Sending},
    policy::Policy,
    token::{IssuedToken, unshared},
};

/// An `Authorization` header, and the facts about its token.
#[derive(Clone)]
pub(super) struct TokenHeader {
    pub(super) tag: Tag,
    pub(super) value: HeaderValue,
}

impl TokenHeader {
    pub(super) fn none() -> Self {
        Self { tag: Tag::NONE, value: HeaderValue::from_static("") }
    }

    pub(super) fn new(granted: &Granted, policy: &Policy) -> Self {
        let tag = Tag::first(granted.snapshot.generation, policy);
        Self {
            tag: if granted.watched { tag.watched() } else { tag },
            value: granted.snapshot.header.clone(),
        }
    }
}

impl Detach for TokenHeader {
    fn detached(&self) -> Self {
        Self { tag: self.tag, value: unshared(&self.value) }
    }
}

/// The facts about a request's token that its response is judged with, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    /// The layer put no token on the request.
    pub(crate) const NONE: Self = Self(0);

    const WATCHED: u64 = 1;
    const REPLAY: u64 = 2;
    const TESTED: u64 = 4;

    fn first(generation: u64, policy: &Policy) -> Self {
        let tested = if policy.test.is_some() { Self::TESTED } else { 0 };
        Self(generation << 3 | tested)
    }

    pub(crate) fn of(snapshot: &IssuedToken, sending: Sending, policy: &Policy) -> Self {
        let tag = Self::first(snapshot.generation, policy);
        match sending {
            Sending::First => tag.watched(),
            Sending::Replay => Self(tag.0 | Self::WATCHED | Self::REPLAY),
        }
    }

    /// Marks a request whose acceptance is reported to the cache.
    fn watched(self) -> Self {
        Self(self.0 | Self::WATCHED)
    }

    pub(crate) fn is_watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    /// Returns `true` if a response that accepts the token needs no further check: the cache does
    /// not wait for it, and no user-defined predicate examines it.
    #[inline]
    pub(crate) fn expects_nothing(self) -> bool {
        self.0 & (Self::WATCHED | Self::TESTED) == 0
    }

    pub(crate) fn generation(self) -> u64 {
        self.0 >> 3
    }

    pub(crate) fn sending(self) -> Sending {
        if self.0 & Self::REPLAY == 0 { Sending::First } else { Sending::Replay }
    }
}
