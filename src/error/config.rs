//! [`ConfigError`]: what is wrong with the configuration, by the name of the setting.
//!
//! Each setting is checked where it is defined; this file depends on nothing inside the crate.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// The longest offending text that an error repeats, in characters.
const MAX_SHOWN: usize = 200;

/// An error in the configuration.
///
/// It names the setting and shows the offending text, unless the setting is a secret. It is
/// detected without I/O, when a client is built.
#[derive(Debug)]
pub struct ConfigError {
    setting: Cow<'static, str>,
    problem: Cow<'static, str>,
}

impl ConfigError {
    /// Creates an error. `problem` is a predicate to the setting's name, such as "is empty", and
    /// must not contain secrets.
    pub(crate) fn new(
        setting: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }

    /// Returns the invalid setting, by the name of the builder's method, followed by the
    /// environment variable in parentheses if settings were read from the environment.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// Returns the problem without the setting's name.
    pub(crate) fn into_problem(self) -> Cow<'static, str> {
        self.problem
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.problem)
    }
}

impl StdError for ConfigError {}

/// Returns an offending text as an error may show it: quoted, control characters escaped, capped.
pub(crate) fn shown(text: &str) -> String {
    let mut end = text.char_indices().map(|(at, _)| at).skip(MAX_SHOWN);
    match end.next().and_then(|end| text.get(..end)) {
        Some(head) => format!("{head:?}..."),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offending_text_is_escaped_and_capped() {
        assert_eq!(shown("a\nb"), r#""a\nb""#);
        assert_eq!(shown(&"é".repeat(300)).chars().count(), MAX_SHOWN + 5);
        let error = ConfigError::new("scope", "is odd");
        assert_eq!((error.setting(), error.to_string().as_str()), ("scope", "scope is odd"));
    }
}
