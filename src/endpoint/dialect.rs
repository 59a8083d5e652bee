//! [`Dialect`]: the request and response format of a provider's token endpoint, as data.
//!
//! `request` writes requests from it, and `response` reads responses with it. The quirks of a
//! provider are settings here; the provider is named beside each.

use std::{borrow::Cow, fmt, str::FromStr};

use http::{HeaderName, HeaderValue};

use super::{ClientAuthentication, preset};
use crate::error::config::{ConfigError, shown};

type Preset = (&'static str, fn() -> Dialect);

/// The presets by name.
const PRESETS: [Preset; 4] = [
    ("rfc6749", Dialect::rfc6749),
    ("auth0", Dialect::auth0),
    ("podero", preset::podero),
    ("dadi", preset::dadi),
];

/// The request and response format of a provider's token endpoint.
///
/// Start from a preset and change what differs: [`rfc6749`](Self::rfc6749), [`auth0`](Self::auth0),
/// or one of a single vendor in [`preset`](crate::endpoint::preset). Each can be spelled out by hand
/// from [`Dialect::rfc6749`], as its documentation shows. [`FromStr`] knows the presets by name.
///
/// | method | RFC 6749 | Auth0 | Podero | DADI |
/// |---|---|---|---|---|
/// | [`body`](Self::body) | form | JSON | JSON | JSON |
/// | [`client_authentication`](Self::client_authentication) | Basic | body | Basic | body |
/// | names | standard | standard | standard | `clientId`, `secret`, no grant type; `accessToken`, `tokenType`, `expiresIn` |
///
/// Names of fields in the response may be JSON pointers (RFC 6901), such as `/data/accessToken`.
///
/// ```
/// use tower_oauth2_client_credentials::{
///     Dialect,
///     endpoint::{BodyEncoding, ClientAuthentication},
/// };
///
/// let dialect = Dialect::rfc6749()
///     .body(BodyEncoding::Json)
///     .client_authentication(ClientAuthentication::ClientSecretPost)
///     .client_id_field("apiKey")
///     .client_secret_field("apiSecret")
///     .access_token_field("/data/token");
/// # drop(dialect);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub(super) body: BodyEncoding,
    pub(super) client_authentication: ClientAuthentication,
    pub(super) grant_type: Option<Name>,
    pub(super) client_id: Name,
    pub(super) client_secret: Name,
    pub(super) scope: Name,
    pub(super) audience: Name,
    pub(super) resource: Name,
    pub(super) access_token: Name,
    pub(super) token_type: Name,
    pub(super) expires_in: Name,
    pub(super) granted_scope: Name,
    pub(super) headers: Headers,
    pub(super) is_strict: bool,
    pub(super) zero: Option<ZeroExpiresIn>,
    needs_audience: bool,
}

/// A field's name; in the response, a name that begins with `/` is a JSON pointer.
pub(crate) type Name = Cow<'static, str>;

/// The meaning of `expires_in: 0` in a token response, which RFC 6749 section 5.1 leaves open; set
/// with [`Dialect::zero_expires_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ZeroExpiresIn {
    /// The lifetime is unknown, or lasts until the token is revoked: the token's own `exp` counts if
    /// it is a JWT, else [`default_lifetime`](crate::Builder::default_lifetime).
    Unknown,
    /// The token serves only the callers that wait for it, and each later call requests another.
    OneUse,
}

/// The encoding of the body of a token request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyEncoding {
    /// `application/x-www-form-urlencoded` (RFC 6749 section 4.4.2).
    Form,
    /// A JSON object, with a bare `Content-Type: application/json`. There is no `charset`, because
    /// DADI compares the whole value.
    Json,
}

impl Dialect {
    /// Returns the dialect of RFC 6749: a form body, and `client_secret_basic`. The default.
    ///
    /// ```
    /// use tower_oauth2_client_credentials::{
    ///     Dialect,
    ///     endpoint::{BodyEncoding, ClientAuthentication},
    /// };
    ///
    /// let by_hand = Dialect::default()
    ///     .body(BodyEncoding::Form)
    ///     .client_authentication(ClientAuthentication::ClientSecretBasic)
    ///     .grant_type_field("grant_type")
    ///     .client_id_field("client_id")
    ///     .client_secret_field("client_secret")
    ///     .scope_field("scope")
    ///     .audience_field("audience")
    ///     .resource_field("resource")
    ///     .access_token_field("access_token")
    ///     .token_type_field("token_type")
    ///     .expires_in_field("expires_in")
    ///     .granted_scope_field("scope");
    /// assert_eq!(by_hand, Dialect::rfc6749());
    /// ```
    #[must_use]
    pub fn rfc6749() -> Self {
        Self {
            body: BodyEncoding::Form,
            client_authentication: ClientAuthentication::ClientSecretBasic,
            grant_type: Some(Cow::Borrowed("grant_type")),
            client_id: Cow::Borrowed("client_id"),
            client_secret: Cow::Borrowed("client_secret"),
            scope: Cow::Borrowed("scope"),
            audience: Cow::Borrowed("audience"),
            resource: Cow::Borrowed("resource"),
            access_token: Cow::Borrowed("access_token"),
            token_type: Cow::Borrowed("token_type"),
            expires_in: Cow::Borrowed("expires_in"),
            granted_scope: Cow::Borrowed("scope"),
            headers: Headers::default(),
            is_strict: false,
            zero: None,
            needs_audience: false,
        }
    }

    /// Returns the dialect of Auth0, and of services built on it (Probable Futures): a JSON body
    /// with `grant_type`, `client_id`, `client_secret` and `audience`. Building a client without an
    /// audience fails. (A tenant with a default audience needs none: spell the dialect out then.)
    ///
    /// ```
    /// use tower_oauth2_client_credentials::{
    ///     Dialect,
    ///     endpoint::{BodyEncoding, ClientAuthentication},
    /// };
    ///
    /// let by_hand = Dialect::rfc6749()
    ///     .body(BodyEncoding::Json)
    ///     .client_authentication(ClientAuthentication::ClientSecretPost)
    ///     .needs_audience();
    /// assert_eq!(by_hand, Dialect::auth0());
    /// ```
    #[must_use]
    pub fn auth0() -> Self {
        Self::rfc6749()
            .body(BodyEncoding::Json)
            .client_authentication(ClientAuthentication::ClientSecretPost)
            .needs_audience()
    }

    /// Sets the encoding of the body.
    #[must_use]
    pub fn body(mut self, encoding: BodyEncoding) -> Self {
        self.body = encoding;
        self
    }

    /// Sets where the client's id and secret go.
    #[must_use]
    pub fn client_authentication(mut self, method: ClientAuthentication) -> Self {
        self.client_authentication = method;
        self
    }

    /// Names the request's field with the grant type, `client_credentials`.
    #[must_use]
    pub fn grant_type_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.grant_type = Some(name.into());
        self
    }

    /// Omits the grant type from the request.
    #[must_use]
    pub fn without_grant_type(mut self) -> Self {
        self.grant_type = None;
        self
    }

    /// Names the request's field with the client's id; used with [`ClientAuthentication::ClientSecretPost`].
    #[must_use]
    pub fn client_id_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.client_id = name.into();
        self
    }

    /// Names the request's field with the secret; used with [`ClientAuthentication::ClientSecretPost`].
    #[must_use]
    pub fn client_secret_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.client_secret = name.into();
        self
    }

    /// Names the request's field with the scope, if there is one.
    #[must_use]
    pub fn scope_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.scope = name.into();
        self
    }

    /// Names the request's field with the audience, if there is one.
    #[must_use]
    pub fn audience_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.audience = name.into();
        self
    }

    /// Makes a client without an [`audience`](crate::Builder::audience) fail when it is built, for
    /// providers that refuse each of its token requests.
    #[must_use]
    pub fn needs_audience(mut self) -> Self {
        self.needs_audience = true;
        self
    }

    /// Names the request's field with the resources (RFC 8707), if there are any. Several resources
    /// are repeated fields in a form, and an array in JSON.
    #[must_use]
    pub fn resource_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.resource = name.into();
        self
    }

    /// Names the response's field with the token; a name that begins with `/` is a JSON pointer.
    #[must_use]
    pub fn access_token_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.access_token = name.into();
        self
    }

    /// Names the response's field with the token's type; a name that begins with `/` is a JSON
    /// pointer.
    #[must_use]
    pub fn token_type_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.token_type = name.into();
        self
    }

    /// Names the response's field with the lifetime in seconds; a name that begins with `/` is a
    /// JSON pointer. If it is absent, `expires_at` or `expires_on` is read (a point in time, in
    /// seconds or a fraction of them since 1970).
    ///
    /// A number above 30 days is not read as seconds if it is a plausible point in time, or is more
    /// plausible as milliseconds:
    ///
    /// | `expires_in` | counts as |
    /// |---|---|
    /// | up to 30 days in seconds | seconds |
    /// | 1.5 × 10⁹ to 4.2 × 10⁹, or 10³, 10⁶ or 10⁹ times that | the point in time of the expiry (if it has passed, the lifetime is unknown) |
    /// | more than 400 days in seconds | milliseconds |
    /// | more than 30 days in seconds, and whole minutes in milliseconds (or up to a second less) | milliseconds |
    /// | anything else | seconds, at most [`max_lifetime`](crate::Builder::max_lifetime) |
    ///
    /// If the token is a JWT whose claims give it a shorter lifetime (`exp` − `iat`, or `exp` by
    /// the local clock if that leaves more than 60 s), the shorter one counts.
    #[must_use]
    pub fn expires_in_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.expires_in = name.into();
        self
    }

    /// Sets the meaning of an `expires_in` of zero or less. By default, such a token serves the
    /// callers that wait for it, unless the server issues the same one with zero again: the
    /// lifetime then counts as [`Unknown`](ZeroExpiresIn::Unknown).
    ///
    /// ```
    /// use tower_oauth2_client_credentials::{Dialect, endpoint::ZeroExpiresIn};
    ///
    /// let dialect = Dialect::rfc6749().zero_expires_in(ZeroExpiresIn::Unknown);
    /// # drop(dialect);
    /// ```
    #[must_use]
    pub fn zero_expires_in(mut self, meaning: ZeroExpiresIn) -> Self {
        self.zero = Some(meaning);
        self
    }

    /// Rejects a token whose `token_type` is present and not `Bearer`, in any case.
    ///
    /// RFC 6749 section 7.1 forbids a client to use a type that it does not know. But servers write
    /// `BearerToken`, `Application Access Token` or `JWT` and mean a bearer token, so by default
    /// such a token is used as one, with a warning in the log. Types that are not an access token
    /// or need a proof are never used: `N_A` (RFC 8693 section 2.2.1), and those that contain, in
    /// any case, `pop`, `mac`, `dpop`, `mtls`, `saml`, `id_token` or `refresh_token`.
    #[must_use]
    pub fn strict_token_type(mut self) -> Self {
        self.is_strict = true;
        self
    }

    /// Names the response's field with the granted scope; a name that begins with `/` is a JSON
    /// pointer.
    #[must_use]
    pub fn granted_scope_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.granted_scope = name.into();
        self
    }

    /// Adds a header to every token request, or replaces the one of that name. `Authorization` and
    /// `Content-Type` follow from the other settings. The value is marked sensitive: it may be an
    /// API key.
    #[must_use]
    pub fn header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.headers.0.retain(|(present, _)| *present != name);
        self.headers.0.push((name, value));
        self
    }
}

impl Dialect {
    /// Returns the name of the audience's field, if the provider needs one.
    pub(crate) fn needed_audience(&self) -> Option<&str> {
        self.needs_audience.then_some(&*self.audience)
    }

    /// Returns `true` if id and secret go into HTTP Basic as they are.
    pub(crate) fn sends_raw_basic(&self) -> bool {
        self.client_authentication == ClientAuthentication::ClientSecretBasicRaw
    }

    pub(crate) fn fixed_headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers.0
    }
}

impl Default for Dialect {
    fn default() -> Self {
        Self::rfc6749()
    }
}

impl FromStr for Dialect {
    type Err = ConfigError;

    /// Returns a preset by its name: `rfc6749`, `auth0`, `podero` or `dadi`.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match PRESETS.iter().find(|(preset, _)| *preset == name) {
            Some((_, preset)) => Ok(preset()),
            None => {
                let names = PRESETS.map(|(preset, _)| preset).join(", ");
                Err(ConfigError::new(
                    "dialect",
                    format!("is {}, which does not exist (there are: {names})", shown(name)),
                ))
            }
        }
    }
}

/// Headers of a token request. Their values may be secrets (an API key), so `Debug` shows names.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(HeaderName, HeaderValue)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_known_by_name_and_an_unknown_name_lists_them() {
        for (name, preset) in PRESETS {
            assert_eq!(name.parse::<Dialect>().unwrap(), preset());
        }
        let error = "oauth0".parse::<Dialect>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"dialect is "oauth0", which does not exist (there are: rfc6749, auth0, podero, dadi)"#
        );
    }

    #[test]
    fn values_of_headers_are_not_shown() {
        let name = HeaderName::from_static("x-api-key");
        let dialect = Dialect::rfc6749()
            .header(name.clone(), HeaderValue::from_static("one"))
            .header(name, HeaderValue::from_static("c4n4ry"));
        assert_eq!(dialect.headers.0.len(), 1);
        let debug = format!("{dialect:?}");
        assert!(debug.contains("x-api-key") && !debug.contains("c4n4ry"), "{debug}");
    }
}
