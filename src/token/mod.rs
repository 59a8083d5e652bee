//! A token, from where it is fetched to where it is shared: [`TokenSource`] fetches one,
//! [`TokenCache`] shares it, [`AccessToken`](crate::AccessToken) is what comes out.
//!
//! This folder knows neither token endpoints nor request bodies: a source may be anything that
//! can produce a [`TokenResponse`].

mod budget;
pub(crate) mod cache;
mod flight;
pub(crate) mod jwt;
#[cfg(all(oauth2_loom, test))]
mod model;
mod random;
mod rejection;
mod renewal;
pub(crate) mod replacement;
mod schedule;
mod shared;
pub(crate) mod snapshot;
pub(crate) mod source;
mod state;

#[cfg(test)]
pub(crate) use self::source::Lifetime;
pub use self::{
    cache::Token,
    replacement::Replacement,
    source::{Attempt, BoxFuture, SourceFn},
};
// Public at the crate's root.
pub(crate) use self::{
    cache::TokenCache,
    replacement::NotReplaced,
    source::{TokenResponse, TokenSource, source_fn},
};
pub(crate) use self::{
    flight::Outcome,
    rejection::{Sending, Staleness},
    renewal::in_runtime,
    shared::{Acquiring, Replacing, Settings, Shared, Warmth},
    snapshot::Snapshot,
    source::{sensitive_header, unshared},
    state::{Answer, Hand, Rejection},
};
