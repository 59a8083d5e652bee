//! The life of one token: when it is fetched, used, renewed, rejected and given up.
//!
//! [`TokenCache`] is the handle. Behind it, from the outside in: `driver` owns the lock and the
//! tasks, `core` the texts of the tokens, and `state` makes every decision, as data.

mod backoff;
mod budget;
pub(crate) mod cached;
pub(crate) mod core;
pub(crate) mod driver;
mod flight;
pub(crate) mod handle;
mod keep_warm;
#[cfg(all(oauth2_loom, test))]
mod model;
mod renewal;
pub(crate) mod replacement;
pub(crate) mod settings;
mod state;
mod waiting;
mod zero;

pub(crate) use self::{
    cached::{Cached, Detach, Refreshed},
    core::{Answer, Granted, Reason, RejectAction},
    driver::Driver,
    flight::Outcome,
    handle::TokenCache,
    renewal::in_runtime,
    replacement::NotReplaced,
    settings::Settings,
    state::{Call, Rejected, Sending},
    waiting::{Acquiring, Replacing},
};
pub use self::{handle::Token, replacement::Replacement};
