//! [`ConfigError`]: what is wrong with the configuration, by the name of the setting.
//!
//! What is checked is decided beside each setting; this file depends on nothing inside the crate.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// The longest offending text that an error repeats, in characters.
const MAX_SHOWN: usize = 200;

/// What is wrong with the configuration.
///
/// Names the setting and shows the offending text, unless the setting is a secret. Found without
/// I/O, when a client is built.
#[derive(Debug)]
pub struct ConfigError {
    setting: Cow<'static, str>,
    problem: Cow<'static, str>,
}

impl ConfigError {
    /// `problem` reads on from the setting's name: "is empty". Secrets stay out of it.
    pub(crate) fn new(
        setting: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }

    /// The setting that is wrong, by the name of the builder's method; behind it in parentheses
    /// the environment variable, if settings were read from the environment.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// The problem without the setting's name.
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

/// An offending text as an error may show it: quoted, control characters escaped, capped.
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
