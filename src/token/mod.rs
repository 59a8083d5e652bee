//! A token, from where it is fetched to where it is shared: [`TokenSource`] fetches one,
//! [`TokenCache`] shares it, [`AccessToken`] is what comes out.
//!
//! This folder knows neither token endpoints nor request bodies: a source may be anything that
//! can produce a [`TokenResponse`].

mod backoff;
mod budget;
mod cache;
mod cached;
mod core;
mod flight;
pub(crate) mod jwt;
mod keep_warm;
#[cfg(all(oauth2_loom, test))]
mod model;
mod random;
mod renewal;
mod replacement;
mod schedule;
mod settings;
mod shared;
mod snapshot;
mod source;
mod state;
mod waiting;

#[cfg(test)]
pub(crate) use self::source::Lifetime;
pub use self::{
    cache::{Token, TokenCache},
    replacement::{NotReplaced, Replacement},
    snapshot::AccessToken,
    source::{Attempt, BoxFuture, SourceFn, TokenResponse, TokenSource, source_fn},
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
