//! The settings of a cache.

use std::{sync::Arc, time::Duration};

use super::schedule::{ATTEMPT_TIMEOUT, DEFAULT_LIFETIME, RENEWAL_TIMEOUT};
use crate::clock::Clock;

/// The settings of a cache.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    pub(crate) default_lifetime: Duration,
    pub(crate) budget: Option<(u32, Duration)>,
    pub(crate) warmth: Warmth,
    pub(crate) seed: Option<u64>,
    /// For one attempt of a renewal.
    pub(crate) attempt_timeout: Duration,
    /// For a renewal in all.
    pub(crate) renewal_timeout: Duration,
    /// Which client it is, for errors that the source has not said it in.
    pub(crate) client: Option<Arc<str>>,
}

/// What sets off a renewal in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// A request. An idle client uses up no quota.
    OnDemand,
    /// A timer, too, once there has been a token.
    Kept,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            default_lifetime: DEFAULT_LIFETIME,
            budget: None,
            warmth: Warmth::OnDemand,
            seed: None,
            attempt_timeout: ATTEMPT_TIMEOUT,
            renewal_timeout: RENEWAL_TIMEOUT,
            client: None,
        }
    }
}
