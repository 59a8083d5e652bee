//! The [`TokenSource`] trait, which fetches tokens, and the [`TokenResponse`] that it returns.
//!
//! The renewal decides when a source is asked, and how often; a source makes one attempt.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::trigger::Trigger;
use crate::error::{ErrorClass, TokenError};

/// A boxed future, as returned by the traits of this crate, which are called once in a token's
/// lifetime.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The longest accepted token, in bytes. No common server accepts longer headers.
pub(crate) const MAX_TOKEN_LEN: usize = 16 * 1024;

/// A source of access tokens. One call makes one attempt.
///
/// [`TokenEndpoint`](crate::endpoint::TokenEndpoint) is the source for OAuth2 token endpoints.
/// Implement this trait for anything else that issues tokens, or use [`source_fn`]. The cache
/// handles sharing, expiry, retries, backoff and deadlines; a source makes one request and returns
/// the result.
///
/// ```
/// use std::time::Duration;
/// use tower_oauth2_client_credentials::{TokenCache, TokenResponse, source_fn};
///
/// let cache = TokenCache::new(source_fn(|_attempt| async {
///     // ask a sidecar, a vault, a metadata server ...
///     Ok(TokenResponse::bearer("s3cr3t")?.expires_in(Duration::from_secs(3600)))
/// }));
/// # drop(cache);
/// ```
pub trait TokenSource: Send + Sync + 'static {
    /// Requests a token, once.
    ///
    /// The renewal drops the future at its own deadline, so a source needs no timeout. If a request
    /// waits for the token, the first poll may happen within the poll of that request; later polls
    /// happen on a task. The future must not block in either. The class of the error decides what
    /// happens next: see [`ErrorClass`].
    fn fetch<'a>(&'a self, attempt: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>>;

    /// Returns a number that changes when the credentials change. Must be cheap. It is called only
    /// while a refusal of the credentials is remembered; a change ends that immediately.
    fn credentials_version(&self) -> u64 {
        0
    }
}

impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    fn fetch<'a>(&'a self, attempt: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        (**self).fetch(attempt)
    }

    fn credentials_version(&self) -> u64 {
        (**self).credentials_version()
    }
}

/// The attempt of a renewal that a [`TokenSource`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    number: u32,
    trigger: Trigger,
    refused: Option<u64>,
}

impl Attempt {
    /// Returns the first attempt of a renewal.
    pub(crate) fn new(trigger: Trigger) -> Self {
        Self { number: 1, trigger, refused: None }
    }

    #[cfg(test)]
    pub(crate) fn first() -> Self {
        Self::new(Trigger::Cold)
    }

    /// Returns the attempt that joins this one, which is slow.
    pub(crate) fn beside(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }

    /// Returns the attempt that follows this one, which ended with `error`.
    pub(crate) fn after(self, error: &TokenError) -> Self {
        Self { refused: error.fingerprint(), ..self.beside() }
    }

    /// Returns this attempt under another number.
    pub(crate) fn numbered(self, number: u32) -> Self {
        Self { number, ..self }
    }

    /// Returns the reason for the renewal: `cold`, `soft`, `hard`, `forced` or `warmup`.
    ///
    /// - `cold`: a request had no usable token.
    /// - `soft`: a request's token was in its soft window, and is still used.
    /// - `hard`: a request's token was about to expire.
    /// - `forced`: an API rejected the token.
    /// - `warmup`: a timer renewed the token without a request (`keep_warm`).
    ///
    /// Events use the same words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.trigger.as_str()
    }

    /// Returns the number of the attempt: 1 for the first of a renewal.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns `true` if the credentials with this fingerprint have just been refused, and must not
    /// be sent again.
    pub(crate) fn has_refused(&self, fingerprint: u64) -> bool {
        self.refused == Some(fingerprint)
    }
}

/// A [`TokenSource`] made from a function; see [`source_fn`].
#[derive(Clone, Copy)]
pub struct SourceFn<F> {
    function: F,
}

/// Creates a [`TokenSource`] from an async function, as tower's `service_fn` does for services.
pub fn source_fn<F, Fut>(function: F) -> SourceFn<F>
where
    F: Fn(Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<TokenResponse, TokenError>> + Send + 'static,
{
    SourceFn { function }
}

impl<F, Fut> TokenSource for SourceFn<F>
where
    F: Fn(Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<TokenResponse, TokenError>> + Send + 'static,
{
    fn fetch<'a>(&'a self, attempt: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        Box::pin((self.function)(attempt))
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFn").finish_non_exhaustive()
    }
}

/// A successful access token response (RFC 6749 section 5.1), as a [`TokenSource`] returns it.
#[derive(Clone)]
pub struct TokenResponse {
    header: HeaderValue,
    scheme: Scheme,
    lifetime: Lifetime,
    scope: Option<Box<str>>,
}

/// The scheme of the `Authorization` header. It is always written in this spelling, whatever the
/// server's `token_type` looks like: some servers refuse `bearer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    Basic,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Basic => "Basic",
        }
    }
}

/// The lifetime of a token, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Announced, counted from just before the request was sent.
    Of(Duration),
    /// Not announced.
    Unknown,
    /// Serves only its waiters.
    OneUse,
    /// Never expires: a static credential.
    Never,
}

impl TokenResponse {
    /// Creates a response with a bearer token (RFC 6750) of unknown lifetime.
    ///
    /// # Errors
    ///
    /// [`ErrorClass::Malformed`] if `token` is empty, longer than 16 KiB, or has characters that
    /// no `Authorization` header can carry (anything but visible ASCII).
    pub fn bearer(token: impl AsRef<str>) -> Result<Self, TokenError> {
        let token = token.as_ref();
        if token.is_empty() {
            return Err(malformed("the access token is empty"));
        }
        if token.len() > MAX_TOKEN_LEN {
            return Err(malformed("the access token is longer than 16 KiB"));
        }
        if let Some(position) = token.bytes().position(|b| !b.is_ascii_graphic()) {
            return Err(malformed(format!(
                "the access token has a character at position {position} that no header can carry{}",
                if token.contains(' ') {
                    ": is it a token, or a header with its scheme?"
                } else {
                    ""
                }
            )));
        }
        Self::present(Scheme::Bearer, token)
    }

    /// Creates a response with a static id and secret for HTTP Basic (RFC 7617), which never
    /// expires, for APIs that accept them instead of a token.
    ///
    /// # Errors
    ///
    /// [`ErrorClass::Malformed`] if both are empty or either consists of white space, if `id`
    /// contains a colon or either has control characters (RFC 7617 section 2), or if both are
    /// longer than 12 KiB together.
    pub fn basic(id: &str, secret: &str) -> Result<Self, TokenError> {
        Self::checked_basic(id, secret)
            .map_err(|problem| malformed(format!("HTTP Basic {problem}")))
    }

    /// Creates the response of [`basic`](Self::basic). The error is a bare predicate (`has ...`),
    /// to which the caller adds a subject.
    pub(crate) fn checked_basic(id: &str, secret: &str) -> Result<Self, &'static str> {
        // Some APIs have an id alone (Stripe) or a secret alone (Azure DevOps); RFC 7617 has nothing
        // against that.
        if id.is_empty() && secret.is_empty() {
            return Err("has neither an id nor a secret");
        }
        let is_blank = |text: &str| !text.is_empty() && text.trim().is_empty();
        if is_blank(id) || is_blank(secret) {
            return Err("has an id or a secret of nothing but blanks");
        }
        if id.contains(':') {
            return Err("has an id with a colon, which RFC 7617 forbids");
        }
        if id.chars().chain(secret.chars()).any(char::is_control) {
            return Err("has a control character in the id or the secret (a newline at its end?)");
        }
        if id.len() + secret.len() > MAX_TOKEN_LEN / 4 * 3 {
            return Err("has an id and a secret of more than 12 KiB together");
        }
        let plain = Zeroizing::new(format!("{id}:{secret}"));
        let encoded = Zeroizing::new(STANDARD.encode(plain.as_bytes()));
        let mut response = Self::present(Scheme::Basic, &encoded)
            .map_err(|_| "has characters that no header can carry")?;
        response.lifetime = Lifetime::Never;
        Ok(response)
    }

    fn present(scheme: Scheme, token: &str) -> Result<Self, TokenError> {
        let mut line = Zeroizing::new(Vec::with_capacity(scheme.as_str().len() + 1 + token.len()));
        line.extend_from_slice(scheme.as_str().as_bytes());
        line.push(b' ');
        line.extend_from_slice(token.as_bytes());
        Ok(Self {
            header: sensitive_header(line)?,
            scheme,
            lifetime: Lifetime::Unknown,
            scope: None,
        })
    }

    /// Sets the lifetime that the server announced (`expires_in`), counted from the moment before
    /// it was asked. The cache caps it at
    /// [`max_lifetime`](crate::Builder::max_lifetime), 30 days by default.
    ///
    /// With zero, the token serves the callers that wait for it and is not kept. If the same token
    /// comes again with zero, the zero cannot be true: it then counts as a token of unknown lifetime.
    #[must_use]
    pub fn expires_in(mut self, lifetime: Duration) -> Self {
        self.lifetime = Lifetime::Of(lifetime);
        self
    }

    /// Makes the token serve only the callers that wait for it.
    pub(crate) fn for_one_use(mut self) -> Self {
        self.lifetime = Lifetime::OneUse;
        self
    }

    /// Sets the granted scope, if the server named one.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scope = Some(scope.into().into_boxed_str());
        self
    }

    /// Returns `true` if `header` carries the token.
    pub(crate) fn has_header(&self, header: &HeaderValue) -> bool {
        self.header == header
    }

    /// Returns the token without its scheme, for sources that store a token or log in with one that
    /// another source fetched. Keep it out of logs and errors.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_oauth2_client_credentials::TokenResponse;
    ///
    /// let response = TokenResponse::bearer("t0k3n")?.expires_in(Duration::from_secs(60)).scope("read");
    /// assert_eq!(response.expose_secret(), "t0k3n");
    /// assert_eq!(response.token_type(), "Bearer");
    /// assert_eq!(response.announced_lifetime(), Some(Duration::from_secs(60)));
    /// assert_eq!(response.granted_scope(), Some("read"));
    /// # Ok::<(), tower_oauth2_client_credentials::TokenError>(())
    /// ```
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        secret_text(&self.header, self.scheme)
    }

    /// Returns the scheme: `Bearer`, or `Basic` for a static id and secret.
    #[must_use]
    pub fn token_type(&self) -> &'static str {
        self.scheme.as_str()
    }

    /// Returns the lifetime that the server announced, counted from just before the request: zero
    /// if the token is for one use. `None` if the server announced none, or the token never
    /// expires.
    #[must_use]
    pub fn announced_lifetime(&self) -> Option<Duration> {
        match self.lifetime {
            Lifetime::Of(lifetime) => Some(lifetime),
            Lifetime::OneUse => Some(Duration::ZERO),
            Lifetime::Unknown | Lifetime::Never => None,
        }
    }

    /// Returns the granted scope, if the server named one (RFC 6749 section 5.1). Several scopes
    /// are separated by spaces.
    #[must_use]
    pub fn granted_scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// Returns the lifetime, as far as it is known.
    pub(crate) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub(crate) fn into_parts(self) -> (HeaderValue, Scheme, Option<Box<str>>) {
        (self.header, self.scheme, self.scope)
    }
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("token_type", &self.scheme.as_str())
            .field("lifetime", &self.lifetime)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Returns the token in an `Authorization` header that this crate made.
pub(crate) fn secret_text(header: &HeaderValue, scheme: Scheme) -> &str {
    header.to_str().ok().and_then(|line| line.get(scheme.as_str().len() + 1..)).unwrap_or_default()
}

/// Creates a header value that is marked sensitive, and whose bytes are zeroized when its last
/// clone is dropped.
pub(crate) fn sensitive_header(line: Zeroizing<Vec<u8>>) -> Result<HeaderValue, TokenError> {
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(line))
        .map_err(|_| malformed("the token has characters that no header can carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Returns the same value in memory that is not shared.
pub(crate) fn unshared(header: &HeaderValue) -> HeaderValue {
    sensitive_header(Zeroizing::new(header.as_bytes().to_vec())).unwrap_or_else(|_| header.clone())
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> TokenError {
    TokenError::new(ErrorClass::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_becomes_a_sensitive_header() {
        let response = TokenResponse::bearer("abc.def-_~+/=").unwrap();
        assert_eq!(response.expose_secret(), "abc.def-_~+/=");
        let (header, ..) = response.into_parts();
        assert_eq!(header.as_bytes(), b"Bearer abc.def-_~+/=");
        assert!(header.is_sensitive());
    }

    #[test]
    fn what_no_header_can_carry_is_refused_without_showing_it() {
        for token in ["", "a b", "a\nb", "tokén", &"x".repeat(MAX_TOKEN_LEN + 1)] {
            let error = TokenResponse::bearer(token).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Malformed);
            assert!(token.is_empty() || !format!("{error:?}").contains(token));
        }
    }

    #[test]
    fn basic_is_encoded_as_rfc_7617_has_it_and_never_expires() {
        let response = TokenResponse::basic("Aladdin", "open sesame").unwrap();
        assert_eq!(response.lifetime(), Lifetime::Never);
        assert_eq!(response.into_parts().0.as_bytes(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn an_id_or_a_secret_alone_will_do() {
        for (id, secret, line) in [("sk", "", &b"Basic c2s6"[..]), ("", "pat", b"Basic OnBhdA==")] {
            let response = TokenResponse::basic(id, secret).unwrap();
            assert_eq!(response.into_parts().0.as_bytes(), line);
        }
    }

    #[test]
    fn a_whole_header_is_no_token() {
        let error = TokenResponse::bearer("Bearer c4n4ry").unwrap_err().to_string();
        assert!(error.contains("with its scheme") && !error.contains("c4n4ry"), "{error}");
    }

    #[test]
    fn basic_has_an_id_and_a_secret_or_an_error_that_reads_well() {
        for (id, secret, said) in [
            ("", "", "HTTP Basic has neither an id nor a secret"),
            ("a", " ", "HTTP Basic has an id or a secret of nothing but blanks"),
            ("a:b", "c", "HTTP Basic has an id with a colon, which RFC 7617 forbids"),
            ("a", "c\n", "HTTP Basic has a control character in the id or the secret"),
        ] {
            let error = TokenResponse::basic(id, secret).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Malformed);
            assert!(error.to_string().starts_with(said), "{error}");
        }
    }
}
