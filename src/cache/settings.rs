//! The settings of a cache.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    token::{
        TokenResponse,
        schedule::{ATTEMPT_TIMEOUT, LifetimeLimits, RENEWAL_TIMEOUT},
    },
};

/// The settings of a cache.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    pub(crate) lifetimes: LifetimeLimits,
    pub(crate) budget: Option<(u32, Duration)>,
    /// Whether a timer also renews the token, once there has been one. Without it, an idle client
    /// uses no quota.
    pub(crate) keep_warm: bool,
    pub(crate) seed: Option<u64>,
    /// The token to start with.
    pub(crate) initial_token: Option<TokenResponse>,
    /// The timeout of one attempt of a renewal, after which another joins it.
    pub(crate) attempt_timeout: Duration,
    /// The deadline of a whole renewal.
    pub(crate) renewal_timeout: Duration,
    /// The name of the client, for errors of sources that do not give it.
    pub(crate) client: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clock: Clock::default(),
            lifetimes: LifetimeLimits::default(),
            budget: None,
            keep_warm: false,
            seed: None,
            initial_token: None,
            attempt_timeout: ATTEMPT_TIMEOUT,
            renewal_timeout: RENEWAL_TIMEOUT,
            client: None,
        }
    }
}
