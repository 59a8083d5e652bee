//! The requests that the test servers have received: [`TokenRequest`] and [`ApiCall`].
//!
//! Tests can read secrets and tokens here; `Debug` shows none.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts};

use super::parameters::{Format, basic_credentials, body_parameters};

/// A request that reached the authorization server.
#[derive(Clone)]
pub struct TokenRequest {
    parts: Head,
    body: Bytes,
    format: Format,
    parameters: Vec<(String, String)>,
    basic: Option<(String, String)>,
}

#[derive(Clone)]
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl TokenRequest {
    pub(crate) fn read(parts: Parts, body: Bytes) -> Self {
        let (format, parameters) = body_parameters(&parts.headers, &body);
        let basic = basic_credentials(&parts.headers);
        Self { parts: Head::from(parts), body, format, parameters, basic }
    }

    /// Returns the method. Methods other than POST are refused.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Returns the URI as it was sent: absolute in memory and over HTTP/2, a path over HTTP/1.1.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// Returns the headers, including `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the parameters of the body: those of a form in their order, those of JSON sorted by
    /// name. A JSON array counts as a repeated parameter.
    #[must_use]
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Returns the first parameter of this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the id and secret of HTTP Basic. Base64 is decoded, percent-encoding is not.
    #[must_use]
    pub fn basic(&self) -> Option<(&str, &str)> {
        self.basic.as_ref().map(|(id, secret)| (id.as_str(), secret.as_str()))
    }

    /// Returns the `grant_type`.
    #[must_use]
    pub fn grant_type(&self) -> Option<&str> {
        self.parameter("grant_type")
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        self.parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()
    }

    /// Returns `true` if a parameter is repeated (RFC 6749 section 3.2 forbids it, RFC 8707 allows
    /// it for `resource`).
    pub(crate) fn repeats_a_parameter(&self) -> bool {
        let names = |n: usize| self.parameters.iter().take(n).map(|(name, _)| name);
        self.parameters
            .iter()
            .enumerate()
            .any(|(n, (name, _))| name != "resource" && names(n).any(|earlier| earlier == name))
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No parameter names either: if JSON was sent as a form, one of them contains the secret.
        self.parts
            .debug(f, "TokenRequest")
            .field("format", &self.format)
            .field("parameters", &self.parameters.len())
            .field("grant_type", &self.grant_type())
            .field("basic", &self.basic.is_some())
            .finish_non_exhaustive()
    }
}

/// A request that reached the protected API, and its outcome.
#[derive(Clone)]
pub struct ApiCall {
    parts: Head,
    body: Bytes,
    token_number: Option<u64>,
    pub(crate) authorized: bool,
    pub(crate) status: Option<StatusCode>,
}

impl ApiCall {
    pub(crate) fn new(parts: Parts, body: Bytes, token_number: Option<u64>) -> Self {
        Self { parts: Head::from(parts), body, token_number, authorized: false, status: None }
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Returns the URI as it was sent: absolute in memory and over HTTP/2, a path over HTTP/1.1.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.parts.uri
    }

    /// Returns the path of the URI.
    #[must_use]
    pub fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// Returns the headers, including `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the number of the authorization server's token that the request carried, valid or
    /// not; 1 is the first one issued. Returns `None` if it carried no token, or one that the
    /// server never issued.
    #[must_use]
    pub fn token_number(&self) -> Option<u64> {
        self.token_number
    }

    /// Returns `true` if the token was valid when the response was created, whatever the response
    /// was.
    #[must_use]
    pub fn is_authorized(&self) -> bool {
        self.authorized
    }

    /// Returns the status of the response, or `None` if there is none yet.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }
}

impl fmt::Debug for ApiCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts
            .debug(f, "ApiCall")
            .field("body_len", &self.body.len())
            .field("token_number", &self.token_number)
            .field("authorized", &self.authorized)
            .field("status", &self.status.map(|status| status.as_u16()))
            .finish_non_exhaustive()
    }
}

impl Head {
    fn debug<'a, 'b: 'a>(
        &self,
        f: &'a mut fmt::Formatter<'b>,
        name: &str,
    ) -> fmt::DebugStruct<'a, 'b> {
        let mut out = f.debug_struct(name);
        // No query and no header values, since clients put secrets into both.
        out.field("method", &self.method).field("path", &self.uri.path());
        out
    }
}

impl From<Parts> for Head {
    fn from(parts: Parts) -> Self {
        Self { method: parts.method, uri: parts.uri, headers: parts.headers }
    }
}
