//! A token, from where it is fetched to where it is shared: [`TokenSource`] fetches one,
//! [`TokenCache`] shares it, [`AccessToken`] is what comes out.
//!
//! This folder knows neither token endpoints nor request bodies: a source may be anything that
//! can produce a [`TokenResponse`].

mod budget;
mod cache;
mod flight;
#[cfg(all(oauth2_loom, test))]
mod model;
mod random;
mod rejection;
mod renewal;
mod schedule;
mod shared;
mod snapshot;
pub(crate) mod jwt;
mod source;
mod state;

pub use self::{
    cache::{NotReplaced, Replacement, Token, TokenCache},
    snapshot::AccessToken,
    source::{Attempt, BoxFuture, SourceFn, TokenResponse, TokenSource, source_fn},
};
#[cfg(test)]
pub(crate) use self::source::Lifetime;
pub(crate) use self::{
    flight::Outcome,
    rejection::{Sending, Staleness},
    schedule::DEFAULT_LIFETIME,
    shared::{Acquiring, Replacing, Settings, Shared, Warmth},
    snapshot::Snapshot,
    source::sensitive_header,
    state::{Answer, Hand, Rejection, Standstill},
};
