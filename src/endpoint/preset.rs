//! Presets for the token endpoints of single vendors.
//!
//! Each is a [`Dialect`] that you could also spell out. They follow the vendors' documentation.

use http::{HeaderValue, header};

use super::{BodyEncoding, ClientAuthentication};
use crate::Dialect;

/// Returns the dialect of Podero, which is Django OAuth Toolkit with its JSON backend: Basic, a
/// JSON body `{"grant_type":"client_credentials"}`, and `Cache-Control: no-cache`. The toolkit
/// decodes Basic, so it is percent-encoded. The token URL ends with a slash: without it, the
/// response is a redirect.
///
/// ```
/// use http::{HeaderValue, header::CACHE_CONTROL};
/// use tower_oauth2_client_credentials::{
///     Dialect,
///     endpoint::{BodyEncoding, ClientAuthentication, preset},
/// };
///
/// let by_hand = Dialect::rfc6749()
///     .client_authentication(ClientAuthentication::ClientSecretBasic)
///     .body(BodyEncoding::Json)
///     .header(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
/// assert_eq!(by_hand, preset::podero());
/// ```
#[must_use]
pub fn podero() -> Dialect {
    Dialect::rfc6749()
        .body(BodyEncoding::Json)
        .header(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// Returns the dialect of DADI API: a JSON body `{"clientId", "secret"}` without a grant type, and
/// a response with `accessToken`, `tokenType` and `expiresIn`.
///
/// ```
/// use tower_oauth2_client_credentials::{
///     Dialect,
///     endpoint::{BodyEncoding, ClientAuthentication, preset},
/// };
///
/// let by_hand = Dialect::rfc6749()
///     .body(BodyEncoding::Json)
///     .client_authentication(ClientAuthentication::ClientSecretPost)
///     .without_grant_type()
///     .client_id_field("clientId")
///     .client_secret_field("secret")
///     .access_token_field("accessToken")
///     .token_type_field("tokenType")
///     .expires_in_field("expiresIn");
/// assert_eq!(by_hand, preset::dadi());
/// ```
#[must_use]
pub fn dadi() -> Dialect {
    Dialect::rfc6749()
        .body(BodyEncoding::Json)
        .client_authentication(ClientAuthentication::ClientSecretPost)
        .without_grant_type()
        .client_id_field("clientId")
        .client_secret_field("secret")
        .access_token_field("accessToken")
        .token_type_field("tokenType")
        .expires_in_field("expiresIn")
}
