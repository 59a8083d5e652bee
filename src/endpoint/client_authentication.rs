//! [`ClientAuthentication`]: the place of the client's id and secret, by the names of the registry
//! of token endpoint authentication methods (RFC 7591 section 4.2).

use std::{fmt, str::FromStr};

use super::encode::BasicEncoding;
use crate::error::config::{ConfigError, shown};

/// The place of the client's id and secret in a token request. They are never in both places, which
/// oidc-provider and oxide-auth refuse.
///
/// ```
/// use tower_oauth2_client_credentials::{Builder, endpoint::ClientAuthentication};
///
/// let builder = Builder::new().client_authentication(ClientAuthentication::ClientSecretPost);
/// # drop(builder);
/// let method: ClientAuthentication = "client_secret_post".parse()?;
/// assert_eq!(method, ClientAuthentication::ClientSecretPost);
/// # Ok::<(), tower_oauth2_client_credentials::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuthentication {
    /// `client_secret_basic`: the `Authorization` header (RFC 6749 section 2.3.1).
    ///
    /// All characters except `A-Z a-z 0-9 - . _ ~` are percent-encoded, a space as `%20`. RFC 6749
    /// requires form encoding; servers that decode forms (Django OAuth Toolkit, oidc-provider)
    /// accept this as well, and those that only decode percent-encoding (Authlib) accept nothing
    /// else.
    ClientSecretBasic,
    /// `client_secret_basic_raw`: the same without the encoding, for servers that decode nothing:
    /// node-oauth2-server, oxide-auth, Glewlwyd. The id must then not contain a colon. The name is
    /// not registered; it is specific to this crate.
    ///
    /// The two methods differ only if the id or the secret has characters other than
    /// `A-Z a-z 0-9 - . _ ~`.
    ClientSecretBasicRaw,
    /// `client_secret_post`: the body.
    ClientSecretPost,
}

impl ClientAuthentication {
    const ALL: [Self; 3] =
        [Self::ClientSecretBasic, Self::ClientSecretBasicRaw, Self::ClientSecretPost];

    /// Returns the name, as in `token_endpoint_auth_method` of RFC 7591 section 2.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretBasicRaw => "client_secret_basic_raw",
            Self::ClientSecretPost => "client_secret_post",
        }
    }

    /// Returns the encoding for HTTP Basic, if this method uses it.
    pub(super) fn basic_encoding(self) -> Option<BasicEncoding> {
        match self {
            Self::ClientSecretBasic => Some(BasicEncoding::PercentEncoded),
            Self::ClientSecretBasicRaw => Some(BasicEncoding::Raw),
            Self::ClientSecretPost => None,
        }
    }
}

impl fmt::Display for ClientAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ClientAuthentication {
    type Err = ConfigError;

    /// Reads a name: `client_secret_basic`, `client_secret_basic_raw` or `client_secret_post`.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|method| method.as_str() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            ConfigError::new(
                "client_authentication",
                format!("is {}, which does not exist (there are: {names})", shown(name)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_authentication_is_known_by_name_and_an_unknown_name_lists_them() {
        for method in ClientAuthentication::ALL {
            assert_eq!(method.to_string().parse::<ClientAuthentication>().unwrap(), method);
        }
        let error = "basic".parse::<ClientAuthentication>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"client_authentication is "basic", which does not exist (there are: client_secret_basic, client_secret_basic_raw, client_secret_post)"#
        );
    }
}
