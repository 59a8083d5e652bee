//! [`TokenError`]: why there is no token, in one opaque, cloneable type.
//!
//! This file holds the error and its classes. What a class means for the next attempt is decided
//! in `token::schedule`; what a server's answer means is decided in `endpoint::response`.

use std::{
    borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration, time::SystemTime,
};

use http::StatusCode;

/// What the layer's service fails with: the inner service's error, or a [`TokenError`].
///
/// The same type as in tower's own layers. To tell the two apart, downcast:
///
/// ```
/// use tower_oauth2_client_credentials::{BoxError, TokenError};
///
/// fn is_about_the_token(error: &BoxError) -> bool {
///     error.downcast_ref::<TokenError>().is_some()
/// }
/// # let error: BoxError = "connection refused".into();
/// # assert!(!is_about_the_token(&error));
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The longest text of a server that an error repeats, in characters.
const MAX_SERVER_TEXT: usize = 256;

/// Why there is no access token.
///
/// One renewal fails for everybody who waits for it, so the error is cheap to clone. It never
/// contains a secret or a token, and what it repeats of a server's answer is capped at 256
/// characters.
///
/// - [`class`](Self::class) says what kind of failure it is, and with it what the crate does next.
/// - [`retry_at`](Self::retry_at) says when a token will be asked for again; until then calls
///   fail at once, without I/O.
#[derive(Clone)]
pub struct TokenError {
    inner: Arc<Inner>,
    retry_at: Option<SystemTime>,
    client: Option<Arc<str>>,
}

#[derive(Clone)]
struct Inner {
    class: ErrorClass,
    message: Cow<'static, str>,
    advice: Option<Cow<'static, str>>,
    status: Option<StatusCode>,
    oauth_error: Option<Box<str>>,
    oauth_error_description: Option<Box<str>>,
    retry_after: Option<Duration>,
    fingerprint: Option<u64>,
    may_have_issued: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of failure, by what can be done about them.
///
/// How often a token is asked for again within one renewal, and for how long a failure is
/// remembered, follows from the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The token endpoint could not be reached or broke: connection, TLS, timeout, 5xx, 408.
    ///
    /// Three attempts in one renewal, then remembered for 1 s, doubling to 60 s.
    Transient,
    /// The token endpoint asks for patience: 429, or 503 with `Retry-After` or the end of a rate
    /// limit (`X-RateLimit-Reset` and its relatives, `RateLimit`).
    ///
    /// Remembered for as long as it asks (at most 15 minutes).
    Throttled,
    /// The client was refused: `invalid_client`, `unauthorized_client`, 401 or 403.
    ///
    /// Asked again only when the secret has changed; remembered for 30 s, doubling to 10 minutes.
    Credentials,
    /// The request was refused: `invalid_scope`, `invalid_request`, `invalid_target`,
    /// `unsupported_grant_type`, another 4xx, a redirect. Remembered for 60 s.
    Request,
    /// The answer could not be understood: not JSON, no token, characters that no header can
    /// carry, a token type that is no bearer token, compressed, too large. Two attempts, then remembered for 5 s, doubling to
    /// 60 s.
    Malformed,
    /// The issuance budget is used up (see `issuance_budget`). One that a source keeps itself is
    /// remembered for 5 s, doubling to 2 minutes.
    Budget,
    /// The request's target may not have the token: another origin, or plain HTTP.
    Origin,
    /// The request has no room for the `Authorization` header: [`http::HeaderMap`] holds 32,768.
    Headers,
    /// The renewal was cut short: its task panicked or was aborted, its runtime was shut down, or
    /// there is none. Not remembered.
    Interrupted,
}

impl ErrorClass {
    /// The class as a short lower-case word, as in events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Credentials => "credentials",
            Self::Request => "request",
            Self::Malformed => "malformed",
            Self::Budget => "budget",
            Self::Origin => "origin",
            Self::Headers => "headers",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TokenError {
    /// An error of `class`, for a [`TokenSource`](crate::TokenSource) of your own.
    ///
    /// `message` says what happened, in a sentence without a full stop. It is shown to whoever
    /// reads the logs: keep secrets out of it.
    pub fn new(class: ErrorClass, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                class,
                message: message.into(),
                advice: None,
                status: None,
                oauth_error: None,
                oauth_error_description: None,
                retry_after: None,
                fingerprint: None,
                may_have_issued: false,
                source: None,
            }),
            retry_at: None,
            client: None,
        }
    }

    /// Adds the error that caused this one; it becomes the [`source`](StdError::source).
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.change(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Adds the status of the token endpoint's answer.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        self.change(|inner| inner.status = Some(status))
    }

    /// Adds how long the server asks to wait before the next token request (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        self.change(|inner| inner.retry_after = Some(delay))
    }

    /// Adds what the reader can do about it, in a sentence without a full stop.
    #[must_use]
    pub fn with_advice(self, advice: impl Into<Cow<'static, str>>) -> Self {
        let advice = advice.into();
        self.change(|inner| inner.advice = Some(advice))
    }

    /// Adds advice, if there is none yet.
    pub(crate) fn or_advice(self, advice: impl FnOnce() -> String) -> Self {
        match self.inner.advice {
            Some(_) => self,
            None => self.with_advice(advice()),
        }
    }

    /// Adds the `error` and `error_description` of the answer (RFC 6749 section 5.2), capped and
    /// cleared of control characters. Scrubbing them of the secret is the caller's part.
    pub(crate) fn with_oauth_error(self, error: &str, description: Option<&str>) -> Self {
        self.change(|inner| {
            inner.oauth_error = Some(server_text(error));
            inner.oauth_error_description = description.map(server_text);
        })
    }

    /// Adds a keyed hash of the credentials that were refused, so that the next attempt can tell
    /// whether they have changed.
    pub(crate) fn with_fingerprint(self, fingerprint: u64) -> Self {
        self.change(|inner| inner.fingerprint = Some(fingerprint))
    }

    /// Marks a failure after which nobody knows whether the server has issued a token: the request
    /// was sent, and no whole answer came. It counts in the issuance budget
    /// ([`Builder::issuance_budget`](crate::Builder::issuance_budget)).
    #[must_use]
    pub fn with_unknown_outcome(self) -> Self {
        self.change(|inner| inner.may_have_issued = true)
    }

    pub(crate) fn may_have_issued(&self) -> bool {
        self.inner.may_have_issued
    }

    pub(crate) fn with_retry_at(&self, at: SystemTime) -> Self {
        Self { retry_at: Some(at), ..self.clone() }
    }

    /// Says which client the error is of, unless it says so already.
    pub(crate) fn or_client(mut self, client: impl FnOnce() -> Arc<str>) -> Self {
        self.client.get_or_insert_with(client);
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.inner.class
    }

    /// The client or its request was refused: a person must change something.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.class(), ErrorClass::Credentials | ErrorClass::Request)
    }

    /// The token endpoint could not be reached or broke: it will pass.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.class() == ErrorClass::Transient
    }

    /// The token endpoint, or the issuance budget, asks for patience.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        matches!(self.class(), ErrorClass::Throttled | ErrorClass::Budget)
    }

    /// The status of the token endpoint's answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.inner.status
    }

    /// The server's `error` code (RFC 6749 section 5.2), or what the provider has in its place.
    #[must_use]
    pub fn oauth_error(&self) -> Option<&str> {
        self.inner.oauth_error.as_deref()
    }

    /// The server's `error_description`, at most 256 characters, scrubbed of the client's secret.
    #[must_use]
    pub fn oauth_error_description(&self) -> Option<&str> {
        self.inner.oauth_error_description.as_deref()
    }

    /// How long the server asked to wait (`Retry-After`), counted from its answer.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns which client has no token: the name that
    /// [`Builder::name`](crate::Builder::name) gives it, or its id and the host of its token URL, as
    /// in `my-service at auth.example.com`. `None` for an error that is of no client, or of one with
    /// a [`TokenSource`](crate::TokenSource) of your own and no name.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// When a token will be asked for again. Until then calls without a usable token fail with
    /// this error at once, without I/O. `None`: the next call asks.
    #[must_use]
    pub fn retry_at(&self) -> Option<SystemTime> {
        self.retry_at
    }

    /// What caused it, from the outside in, as it may stand in a log line.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "for events"))]
    pub(crate) fn cause(&self) -> Option<Box<str>> {
        let causes = std::iter::successors(self.source(), |&error| error.source());
        let texts: Vec<_> = causes.map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| server_text(&texts.join(": ")))
    }

    pub(crate) fn fingerprint(&self) -> Option<u64> {
        self.inner.fingerprint
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        f.write_str(&inner.message)?;
        if let Some(status) = inner.status {
            write!(f, ": {}", status.as_u16())?;
        }
        if let Some(error) = &inner.oauth_error {
            write!(f, " {error}")?;
        }
        if let Some(description) = &inner.oauth_error_description {
            write!(f, ": {description}")?;
        }
        if let Some(client) = &self.client {
            write!(f, " [client {client}]")?;
        }
        if let Some(advice) = &inner.advice {
            write!(f, " ({advice})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        let mut out = f.debug_struct("TokenError");
        out.field("class", &inner.class).field("message", &inner.message);
        if let Some(client) = &self.client {
            out.field("client", client);
        }
        if let Some(advice) = &inner.advice {
            out.field("advice", advice);
        }
        if let Some(status) = &inner.status {
            out.field("status", &status.as_u16());
        }
        if let Some(error) = &inner.oauth_error {
            out.field("oauth_error", error);
        }
        if let Some(description) = &inner.oauth_error_description {
            out.field("oauth_error_description", description);
        }
        if let Some(retry_at) = &self.retry_at {
            out.field("retry_at", retry_at);
        }
        if let Some(source) = &inner.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for TokenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// A server's text as it may stand in a log line: printable, on one line, capped.
pub(crate) fn server_text(text: &str) -> Box<str> {
    // Line separators; and what turns the direction of the text around it.
    let turns = |c| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .take(MAX_SERVER_TEXT)
        .collect::<String>()
        .into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_capped_and_kept_on_one_line() {
        let error = TokenError::new(ErrorClass::Request, "the token endpoint refused the request")
            .with_oauth_error("invalid\nscope", Some(&"x".repeat(300)));
        assert_eq!(*server_text("a\u{2028}b\u{202e}c\u{2066}d"), *"a b c d");
        assert_eq!(error.oauth_error(), Some("invalid scope"));
        assert_eq!(error.oauth_error_description().map(str::len), Some(256));
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_cause_is_told_to_its_end() {
        let error = TokenError::new(ErrorClass::Transient, "the outermost");
        assert_eq!(error.cause(), None);
        let inner = error.clone().with_source(std::io::Error::other("the\nlast"));
        let error = error.with_source(inner);
        assert_eq!(error.cause().as_deref(), Some("the outermost: the last"));
    }

    #[test]
    fn predicates_follow_the_class() {
        for (class, rejected, unreachable, throttled) in [
            (ErrorClass::Transient, false, true, false),
            (ErrorClass::Throttled, false, false, true),
            (ErrorClass::Credentials, true, false, false),
            (ErrorClass::Request, true, false, false),
            (ErrorClass::Malformed, false, false, false),
            (ErrorClass::Budget, false, false, true),
            (ErrorClass::Origin, false, false, false),
            (ErrorClass::Headers, false, false, false),
            (ErrorClass::Interrupted, false, false, false),
        ] {
            let error = TokenError::new(class, "x");
            assert_eq!(error.is_rejected(), rejected, "{class}");
            assert_eq!(error.is_unreachable(), unreachable, "{class}");
            assert_eq!(error.is_throttled(), throttled, "{class}");
        }
    }
}
