//! [`Trigger`]: the reason for a renewal.

/// The reason for a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// A request had no usable token.
    Cold,
    /// A request's token was in its soft window.
    Soft,
    /// A request's token was past its hard point.
    Hard,
    /// An API rejected the token.
    Forced,
    /// A timer renewed the token without a request.
    Warmup,
}

impl Trigger {
    /// Returns the name in events.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "for events"))]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::Forced => "forced",
            Self::Warmup => "warmup",
        }
    }
}
