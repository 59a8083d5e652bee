//! [`RotatingSecret`]: a secret that the program replaces at run time.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use zeroize::Zeroizing;

use super::{ClientCredentials, CredentialsProvider};
use crate::{error::BoxError, token::BoxFuture};

/// A handle to credentials whose secret can be replaced at any time.
///
/// Clones share one secret. A token that was issued for the old secret stays in use; the new secret
/// is sent with the next token request, and a remembered refusal of the old one is forgotten.
///
/// ```
/// use tower_oauth2_client_credentials::{Builder, credentials::RotatingSecret};
///
/// let secret = RotatingSecret::new("my-service", "the first secret");
/// let builder = Builder::new().credentials(secret.clone());
/// // later, when the secret has been rotated:
/// secret.set("the second secret");
/// # drop(builder);
/// ```
#[derive(Clone)]
pub struct RotatingSecret {
    state: Arc<Mutex<State>>,
}

struct State {
    credentials: ClientCredentials,
    version: u64,
}

impl RotatingSecret {
    /// Creates the credentials of the client `id`, with `secret` as the initial secret.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        let credentials = ClientCredentials::new(id, secret);
        Self { state: Arc::new(Mutex::new(State { credentials, version: 0 })) }
    }

    /// Replaces the secret for all clones of this handle.
    pub fn set(&self, secret: impl Into<String>) {
        let secret = Zeroizing::new(secret.into());
        let mut state = self.lock();
        state.credentials.secret = secret;
        state.version = state.version.wrapping_add(1);
    }

    /// Locks the state. Nothing can panic while the lock is held, so a poisoned state is still
    /// consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialsProvider for RotatingSecret {
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
        // Read when the future is polled, not when it is created.
        Box::pin(async move { Ok(self.lock().credentials.clone()) })
    }

    fn version(&self) -> u64 {
        self.lock().version
    }
}

impl fmt::Debug for RotatingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("RotatingSecret")
            .field("id", &state.credentials.id())
            .field("version", &state.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_secret_reaches_every_clone_and_changes_the_version() {
        let handle = RotatingSecret::new("me", "c4n4ry-1");
        let provider = handle.clone();
        let before = provider.version();
        handle.set(String::from("c4n4ry-2"));
        assert_ne!(provider.version(), before);
        assert_eq!(provider.credentials().await.unwrap().expose_secret(), "c4n4ry-2");
        assert!(!format!("{provider:?}").contains("c4n4ry"));
    }
}
