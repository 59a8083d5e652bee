//! Providers of the client id and secret: the [`CredentialsProvider`] trait and its built-in
//! implementations.
//!
//! `endpoint::request` decides how they are sent, and the renewal decides how a refusal affects the
//! next attempt.
//!
//! | the secret | type |
//! |---|---|
//! | never changes | [`ClientCredentials`] itself (`Builder::client_secret`) |
//! | is in a file that another process replaces, such as a mounted Kubernetes secret | [`SecretFile`] (`Builder::client_secret_file`) |
//! | is replaced by this program | [`RotatingSecret`] |
//! | comes from a vault or a secret manager | a [`CredentialsProvider`] of your own |
//!
//! The provider is called for every attempt, so a new secret takes effect without a restart. If the
//! server refuses the credentials, the attempt is repeated immediately if the provider now returns
//! different ones.
//!
//! ```
//! use tower_oauth2_client_credentials::{
//!     BoxError,
//!     credentials::{ClientCredentials, CredentialsProvider},
//!     token::BoxFuture,
//! };
//!
//! struct Vault;
//!
//! impl CredentialsProvider for Vault {
//!     fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
//!         Box::pin(async {
//!             let secret = String::from("from the vault"); // ask it here
//!             Ok(ClientCredentials::new("my-service", secret))
//!         })
//!     }
//! }
//! ```

mod file;
mod rotating;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use zeroize::Zeroizing;

pub use self::{file::SecretFile, rotating::RotatingSecret};
use crate::{error::BoxError, token::BoxFuture};

/// A provider of the client id and secret, which is called for every attempt to fetch a token.
///
/// See the [module](self) for an example.
pub trait CredentialsProvider: Send + Sync + 'static {
    /// Returns the current credentials.
    ///
    /// It is called at most once per attempt, and the attempt's deadline applies to it. It must not
    /// block the thread.
    ///
    /// # Errors
    ///
    /// Returns an error if the credentials are unavailable. The error is treated as transient, like
    /// an unreachable token endpoint. Its message must not contain secrets.
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>>;

    /// Returns a number that changes when the credentials change, so that a remembered refusal is
    /// forgotten immediately. It must be cheap: no I/O beyond a `stat`. Keep the default of 0 if
    /// changes cannot be detected; new credentials are then used once the refusal has expired.
    fn version(&self) -> u64 {
        0
    }
}

impl<T: CredentialsProvider + ?Sized> CredentialsProvider for Arc<T> {
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
        (**self).credentials()
    }

    fn version(&self) -> u64 {
        (**self).version()
    }
}

/// The id and secret of a client (RFC 6749 section 2.3.1).
///
/// Nothing is validated here; values that cannot be sent are refused when the request is built. As
/// a [`CredentialsProvider`], this type always returns itself.
#[derive(Clone)]
pub struct ClientCredentials {
    id: Box<str>,
    secret: Zeroizing<String>,
}

impl ClientCredentials {
    /// Creates the credentials of the client `id`. The secret is zeroized on drop.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { id: id.into().into_boxed_str(), secret: Zeroizing::new(secret.into()) }
    }

    /// Returns the client id (`client_id`), which is not secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the client secret (`client_secret`). Keep it out of logs and errors.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials").field("id", &self.id).finish_non_exhaustive()
    }
}

impl CredentialsProvider for ClientCredentials {
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

/// Returns a hash of the credentials, which is compared later to detect a change. The hash is keyed
/// with a random per-process key, so it reveals nothing about the secret.
pub(crate) fn fingerprint(credentials: &ClientCredentials) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one((credentials.id(), credentials.expose_secret()))
}

/// Returns what is wrong with a client id, if anything, as a predicate to follow its name. RFC 6749
/// appendix A.1 allows printable ASCII; other printable characters are accepted because some
/// servers issue them.
pub(crate) fn id_problem(id: &str) -> Option<&'static str> {
    if let Some(problem) = emptiness(id) {
        Some(problem)
    } else if id.chars().any(char::is_control) {
        Some("has a control character")
    } else {
        None
    }
}

/// Returns what is wrong with a client secret, like [`id_problem`] (RFC 6749 appendix A.2).
pub(crate) fn secret_problem(secret: &str) -> Option<&'static str> {
    if let Some(problem) = emptiness(secret) {
        Some(problem)
    } else if secret.ends_with(['\n', '\r']) {
        Some("has a newline at its end (`client_secret_file` reads a file without it)")
    } else if secret.chars().any(char::is_control) {
        Some("has a control character")
    } else {
        None
    }
}

/// Returns which kind of invisible text this is: empty, only spaces, or a byte order mark, which
/// some editors insert.
fn emptiness(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("is empty")
    } else if text.chars().all(|c| c == ' ') {
        Some("is blank")
    } else if text.starts_with('\u{feff}') {
        Some("begins with a byte order mark (save it as UTF-8 without one)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn static_credentials_give_themselves_and_hide_the_secret() {
        let credentials = ClientCredentials::new("me", "c4n4ry");
        assert!(!format!("{credentials:?}").contains("c4n4ry"));
        let given = Arc::new(credentials.clone()).credentials().await.unwrap();
        assert_eq!(given.id(), "me");
        assert_eq!(given.expose_secret(), "c4n4ry");
        assert_eq!(credentials.version(), 0);
    }

    #[test]
    fn a_fingerprint_tells_id_and_secret_apart() {
        let of = |id: &str, secret: &str| fingerprint(&ClientCredentials::new(id, secret));
        assert_eq!(of("a", "b"), of("a", "b"));
        assert_ne!(of("a", "b"), of("a", "c"));
        assert_ne!(of("a", "b"), of("c", "b"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }

    #[test]
    fn what_no_request_can_carry_is_named() {
        assert_eq!(id_problem("a:b é"), None);
        for bad in ["", " ", "a\tb", "\u{feff}a"] {
            assert!(id_problem(bad).is_some(), "{bad:?}");
        }
        assert_eq!(secret_problem("p%40:ss+w/ö "), None);
        assert!(secret_problem("a\n").is_some_and(|text| text.contains("newline")));
        for bad in ["", "  ", "a\u{85}b", "\u{feff}a"] {
            assert!(secret_problem(bad).is_some(), "{bad:?}");
        }
    }
}
