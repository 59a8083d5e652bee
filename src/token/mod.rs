//! A token, from where it is fetched to where it is shared: [`TokenSource`] fetches one,
//! [`TokenCache`] shares it, [`AccessToken`](crate::AccessToken) is what comes out.
//!
//! This folder knows neither token endpoints nor request bodies: a source may be anything that
//! can produce a [`TokenResponse`].

mod backoff;
mod budget;
pub(crate) mod cache;
mod cached;
mod core;
mod flight;
pub(crate) mod jwt;
mod keep_warm;
#[cfg(all(oauth2_loom, test))]
mod model;
pub(crate) mod random;
mod renewal;
pub(crate) mod replacement;
mod schedule;
mod settings;
mod shared;
pub(crate) mod snapshot;
pub(crate) mod source;
mod state;
mod waiting;

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
    cached::{Cached, Detach, Refreshed},
    core::{Answer, Hand, Reason, RejectAction},
    flight::Outcome,
    renewal::in_runtime,
    settings::{Settings, Warmth},
    shared::Shared,
    snapshot::Snapshot,
    source::{sensitive_header, unshared},
    state::{Call, Rejected, Sending, Staleness, Trigger},
    waiting::{Acquiring, Replacing},
};
