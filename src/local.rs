//! [`Local`]: a service value's own copy of the token, and [`Tag`]: what a response future keeps of
//! it.

use http::HeaderValue;

use crate::{
    clock::Deadline,
    rules::Rules,
    token::{Hand, Sending, Shared, Snapshot, unshared},
};

/// A copy of the token's header. It is what `acquire` would answer as long as the epoch stands and
/// neither clock has reached `until`.
pub(crate) struct Local {
    epoch: u64,
    until: Deadline,
    pub(crate) tag: Tag,
    pub(crate) header: HeaderValue,
    tenure: Tenure,
}

/// Whose the bytes of a copy are. Values that are cloned for one request leave it at the first;
/// one that lives on for a second or two with one token comes to the last. Then its requests touch
/// no count that other threads write to, for the price of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenure {
    /// Of the value that this one was cloned from.
    Borrowed,
    /// Shared with others, but this value has called with them before.
    Shared,
    /// Its own.
    Own,
}

impl Local {
    pub(crate) fn none() -> Self {
        Self {
            // The shared epoch starts at one.
            epoch: 0,
            until: Deadline::past(),
            tag: Tag::NONE,
            header: HeaderValue::from_static(""),
            tenure: Tenure::Borrowed,
        }
    }

    pub(crate) fn new(hand: &Hand, epoch: u64, rules: &Rules) -> Self {
        let tag = Tag::first(hand.snapshot.generation, rules);
        Self {
            epoch,
            until: Deadline::new(hand.until),
            tag: if hand.watched { tag.watched() } else { tag },
            header: hand.snapshot.header.clone(),
            tenure: Tenure::Shared,
        }
    }

    /// The same for a value cloned from this one's.
    pub(crate) fn lend(&self) -> Self {
        Self { header: self.header.clone(), tenure: Tenure::Borrowed, ..*self }
    }

    /// Current beyond doubt, at the cost of a glance at the clock. `false` says nothing.
    #[inline]
    pub(crate) fn is_surely_current(&self, shared: &Shared) -> bool {
        self.epoch == shared.epoch() && shared.clock.is_surely_before(&self.until)
    }

    pub(crate) fn is_current(&mut self, shared: &Shared) -> bool {
        self.epoch == shared.epoch() && shared.clock.is_before(&mut self.until)
    }

    /// Made in the epoch that still stands.
    pub(crate) fn is_of_this_epoch(&self, shared: &Shared) -> bool {
        self.epoch == shared.epoch()
    }

    /// What `other` is, for this value to call with.
    pub(crate) fn follow(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.until = other.until;
        self.tag = other.tag;
        self.header.clone_from(&other.header);
        self.tenure = Tenure::Shared;
    }

    /// The clocks have been looked at, and it is still current. Says whether this value is there to
    /// stay: then it has its own copy of the bytes from now on.
    pub(crate) fn stay(&mut self) -> bool {
        // Close to the end the clocks are looked at for every request.
        if self.until.is_close() {
            return self.tenure == Tenure::Own;
        }
        match self.tenure {
            Tenure::Borrowed => self.tenure = Tenure::Shared,
            Tenure::Shared => {
                self.header = unshared(&self.header);
                self.tenure = Tenure::Own;
            }
            Tenure::Own => {}
        }
        self.tenure == Tenure::Own
    }
}

/// What the response future has to know of the token that its request carries, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    /// The request carries no token of ours.
    pub(crate) const NONE: Self = Self(0);

    const WATCHED: u64 = 1;
    const REPLAY: u64 = 2;
    const TESTED: u64 = 4;

    fn first(generation: u64, rules: &Rules) -> Self {
        let tested = if rules.test.is_some() { Self::TESTED } else { 0 };
        Self(generation << 3 | tested)
    }

    pub(crate) fn of(snapshot: &Snapshot, sending: Sending, rules: &Rules) -> Self {
        let tag = Self::first(snapshot.generation, rules);
        match sending {
            Sending::First => tag.watched(),
            Sending::Replay => Self(tag.0 | Self::WATCHED | Self::REPLAY),
        }
    }

    /// It is of interest whether the request is accepted.
    fn watched(self) -> Self {
        Self(self.0 | Self::WATCHED)
    }

    pub(crate) fn is_watched(self) -> bool {
        self.0 & Self::WATCHED != 0
    }

    /// A response that accepts the token is no news, and no user's test is to see it.
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
