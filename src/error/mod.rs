//! [`TokenError`]: the reason why there is no token, in one opaque, cloneable type.
//!
//! This file holds the error and its classes. The delays that follow from a class are in
//! `cache::backoff`; the class of a server's response is decided in `endpoint::response`.

pub(crate) mod config;

use std::{
    borrow::Cow,
    error::Error as StdError,
    fmt, io, iter,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;

use crate::cache::NotReplaced;

/// The error of the layer's service: the inner service's error, or a [`TokenError`].
///
/// The same type as in tower's own layers. [`TokenError::find`] finds the latter, also behind the
/// errors of other layers and clients. The box itself does not implement [`Error`](StdError): pass
/// its content.
///
/// ```
/// use tower_oauth2_client_credentials::{BoxError, TokenError};
///
/// fn is_about_the_token(error: &BoxError) -> bool {
///     TokenError::find(&**error).is_some()
/// }
/// # let error: BoxError = "connection refused".into();
/// # assert!(!is_about_the_token(&error));
/// ```
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The most sources of an error that are searched.
const MAX_SOURCES: usize = 64;

/// The first second of the year 10000, counted from 1970.
const END_OF_HTTP_DATES: u64 = 253_402_300_800;

/// The longest server text that an error repeats, in characters.
const MAX_SERVER_TEXT: usize = 256;

/// The reason why there is no access token.
///
/// A renewal fails for all of its waiters, so the error is cheap to clone. It never contains a
/// secret or a token, and the text that it repeats from a server's response is capped at 256
/// characters.
///
/// - [`class`](Self::class) returns the kind of failure, which decides what the crate does next.
/// - [`retry_at`](Self::retry_at) returns the time at which a token is requested again; until then,
///   calls fail immediately and without I/O.
#[derive(Clone)]
pub struct TokenError {
    inner: Arc<Inner>,
    retry_at: Option<SystemTime>,
    /// Whether no attempt was made for this caller.
    is_remembered: bool,
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
    is_unanswered: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kind of a failure, by its remedy.
///
/// The class decides how many attempts one renewal makes, and for how long a failure is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The token endpoint could not be reached or failed: connection, TLS, timeout, 5xx, 408.
    ///
    /// A renewal makes three attempts, or one while an earlier failure is remembered. The failure
    /// is remembered for 1 s, doubling to 60 s, while a token is usable. While none is, it is
    /// remembered for at most 4 s, or 10 s once that has lasted for five minutes.
    Transient,
    /// The token endpoint limits the rate: 429, or 503 with `Retry-After` or the end of a rate
    /// limit (`X-RateLimit-Reset` and its variants, `RateLimit`).
    ///
    /// Remembered for as long as the server asks (at most 15 minutes), or for 5 s, doubling to 2
    /// minutes.
    Throttled,
    /// The client was refused: `invalid_client`, `unauthorized_client`, 401, or 403 without an HTML
    /// page.
    ///
    /// Tried again within the renewal only if the secret has changed. Remembered for 30 s, doubling
    /// to 10 minutes, or until the secret changes.
    Credentials,
    /// The request was refused: `invalid_scope`, `invalid_request`, `invalid_target`,
    /// `unsupported_grant_type`, another 4xx, a redirect. Remembered for 60 s.
    Request,
    /// The response could not be understood: not JSON, no token, characters that no header can
    /// carry, a token type other than bearer, compressed, too large, or an HTML page with 403 (from
    /// a firewall).
    ///
    /// A renewal makes two attempts. Remembered for 5 s, doubling to 60 s.
    Malformed,
    /// The issuance budget is used up (see `issuance_budget`). An error of this class from a source
    /// is remembered for 5 s, doubling to 2 minutes, unless it has a `retry_after`.
    Budget,
    /// The request's target must not receive the token: another origin, or plain HTTP.
    Origin,
    /// The request has no room for the `Authorization` header: [`http::HeaderMap`] holds 32,768.
    Headers,
    /// The renewal was interrupted: its task was aborted, its runtime shut down or there is none,
    /// or the source panicked.
    ///
    /// If the renewal was aborted or lost its runtime, it is launched once more by its waiters, and
    /// the failure is not remembered. A source that panics backs off like a
    /// [`Transient`](Self::Transient) failure.
    Interrupted,
}

impl ErrorClass {
    /// Returns the class as a short lower-case word, as in events and metrics.
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
    /// Creates an error of `class`, for your own [`TokenSource`](crate::TokenSource).
    ///
    /// `message` describes the failure in a sentence without a full stop. It appears in logs, so it
    /// must not contain secrets.
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
                is_unanswered: false,
                source: None,
            }),
            retry_at: None,
            is_remembered: false,
            client: None,
        }
    }

    /// Adds the error that caused this one; it becomes the [`source`](StdError::source).
    #[must_use]
    pub fn with_source(self, source: impl Into<BoxError>) -> Self {
        self.change(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Adds the status of the token endpoint's response.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        self.change(|inner| inner.status = Some(status))
    }

    /// Adds the delay that the server asks for before the next token request (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        self.change(|inner| inner.retry_after = Some(delay))
    }

    /// Adds advice for the reader, in a sentence without a full stop.
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

    /// Adds the `error` and `error_description` of the response (RFC 6749 section 5.2), or the
    /// server's equivalent, capped and cleared of control characters. The caller scrubs them of the
    /// secret.
    pub(crate) fn with_server_words(self, error: Option<&str>, description: Option<&str>) -> Self {
        self.change(|inner| {
            inner.oauth_error = error.map(server_text);
            inner.oauth_error_description = description.map(server_text);
        })
    }

    /// Adds a keyed hash of the credentials that were refused, so that the next attempt can tell
    /// whether they have changed.
    pub(crate) fn with_fingerprint(self, fingerprint: u64) -> Self {
        self.change(|inner| inner.fingerprint = Some(fingerprint))
    }

    /// Marks a failure after which it is unknown whether the server has issued a token: the request
    /// was sent, and no complete response arrived. It counts in the issuance budget
    /// ([`Builder::issuance_budget`](crate::Builder::issuance_budget)).
    #[must_use]
    pub fn with_unknown_outcome(self) -> Self {
        self.change(|inner| inner.may_have_issued = true)
    }

    pub(crate) fn may_have_issued(&self) -> bool {
        self.inner.may_have_issued
    }

    /// Marks a request that was lost with a reused connection. The server has probably not read it,
    /// so it may be sent again immediately.
    pub(crate) fn with_unanswered_request(self) -> Self {
        self.with_unknown_outcome().change(|inner| inner.is_unanswered = true)
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.inner.is_unanswered
    }

    pub(crate) fn with_retry_at(&self, at: SystemTime) -> Self {
        Self { retry_at: Some(at), ..self.clone() }
    }

    /// Returns this error for a call that fails without I/O, because of an earlier failure.
    pub(crate) fn remembered_until(&self, at: SystemTime) -> Self {
        Self { is_remembered: true, ..self.with_retry_at(at) }
    }

    /// Adds the client, unless the error names one already.
    pub(crate) fn or_client(mut self, client: impl FnOnce() -> Arc<str>) -> Self {
        self.client.get_or_insert_with(client);
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.inner));
        self
    }

    /// Finds the token error in `error` or its sources. Also searches inside an [`io::Error`], and
    /// inside [`NotReplaced`](crate::NotReplaced), the reason why a rejected token was not
    /// replaced.
    ///
    /// Clients wrap the errors of their layers. An error that does not return its cause from
    /// [`source`](StdError::source) hides it.
    ///
    /// ```
    /// use std::error::Error;
    /// use tower_oauth2_client_credentials::{BoxError, TokenError};
    ///
    /// fn explain(error: &(dyn Error + 'static)) {
    ///     match TokenError::find(error) {
    ///         Some(error) => println!("no token, {}: {error}", error.class()),
    ///         None => println!("the call failed: {error}"),
    ///     }
    /// }
    ///
    /// let error: BoxError = "connection refused".into();
    /// // A `BoxError` does not implement `Error`; its content does.
    /// explain(&*error);
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        chain(error).find_map(|error| match error.downcast_ref::<NotReplaced>() {
            Some(why) => why.error(),
            None => error.downcast_ref(),
        })
    }

    /// Returns the kind of failure.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.inner.class
    }

    /// Returns `true` if the server refused the client or its request. Retrying does not help; the
    /// configuration must change.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.class(), ErrorClass::Credentials | ErrorClass::Request)
    }

    /// Returns `true` if the token endpoint could not be reached or failed, which is temporary.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.class() == ErrorClass::Transient
    }

    /// Returns `true` if the token endpoint, or the issuance budget, limits the rate.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        matches!(self.class(), ErrorClass::Throttled | ErrorClass::Budget)
    }

    /// Returns the status of the token endpoint's response, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.inner.status
    }

    /// Returns the server's `error` code (RFC 6749 section 5.2), or the provider's equivalent.
    #[must_use]
    pub fn oauth_error(&self) -> Option<&str> {
        self.inner.oauth_error.as_deref()
    }

    /// Returns the server's `error_description`, or an equivalent: the `message` or `detail` of
    /// other JSON, the text of an XML fault, the title of an HTML page, or plain text. It has at
    /// most 256 characters, and is scrubbed of the client's secret.
    #[must_use]
    pub fn oauth_error_description(&self) -> Option<&str> {
        self.inner.oauth_error_description.as_deref()
    }

    /// Returns the delay that the server asked for (`Retry-After`), counted from its response.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns the client that has no token: the name set with
    /// [`Builder::name`](crate::Builder::name), or its id and the host of its token URL, as in
    /// `my-service at auth.example.com`. `None` for an error that belongs to no client, or to an
    /// unnamed one with your own [`TokenSource`](crate::TokenSource).
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// Returns the time at which a token is requested again. Until then, calls without a usable
    /// token fail with this error immediately, without I/O. `None` means that the next call
    /// requests one.
    #[must_use]
    pub fn retry_at(&self) -> Option<SystemTime> {
        self.retry_at
    }

    /// Returns the text of the sources, from the outermost on, as it may appear in a log line.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "for events"))]
    pub(crate) fn cause(&self) -> Option<Box<str>> {
        let causes = iter::successors(self.source(), |&error| error.source()).take(MAX_SOURCES);
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
        match (&inner.oauth_error_description, &inner.oauth_error) {
            (Some(description), Some(_)) => write!(f, ": {description}")?,
            // Without a code, a page's title would read as if it were this crate's text.
            (Some(description), None) => write!(f, ", it says {description:?}")?,
            (None, _) => {}
        }
        if let Some(client) = &self.client {
            write!(f, " [client {client}]")?;
        }
        if let Some(advice) = &inner.advice {
            write!(f, " ({advice})")?;
        }
        match self.retry_at {
            Some(at) if self.is_remembered => {
                write!(f, " (a remembered failure; the next attempt is due {})", ShownTime(at))
            }
            _ => Ok(()),
        }
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
            out.field("retry_at", &ShownTime(*retry_at));
        }
        if self.is_remembered {
            out.field("is_remembered", &true);
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

/// Returns `error` and its sources, from the outermost on. The content of an [`io::Error`] is not
/// among its sources, and is included here.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let inside = |error: &'a (dyn StdError + 'static)| {
        let content = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        content.map(|content| content as &(dyn StdError + 'static)).or_else(|| error.source())
    };
    // No error is nested that deep, but an error may be its own source.
    iter::successors(Some(error), move |&error| inside(error)).take(MAX_SOURCES)
}

/// A point in time as people read it, `Wed, 25 Nov 2026 17:00:00 GMT` (RFC 9110 section 5.6.7).
#[derive(Clone, Copy)]
pub(crate) struct ShownTime(pub(crate) SystemTime);

impl fmt::Display for ShownTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Out of this range, the conversion panics.
        let years = UNIX_EPOCH..UNIX_EPOCH + Duration::from_secs(END_OF_HTTP_DATES);
        if years.contains(&self.0) {
            // The fraction of a second is cut off, and the attempt is not due before it.
            let up = self.0.checked_add(Duration::from_nanos(999_999_999));
            let shown = up.filter(|up| years.contains(up)).unwrap_or(self.0);
            write!(f, "at {}", httpdate::HttpDate::from(shown))
        } else {
            f.write_str("at a time out of range")
        }
    }
}

impl fmt::Debug for ShownTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns a server's text as it may appear in a log line: printable, on one line, capped.
pub(crate) fn server_text(text: &str) -> Box<str> {
    // Line separators, and characters that change the direction of the text.
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
            .with_server_words(Some("invalid\nscope"), Some(&"x".repeat(300)));
        assert_eq!(*server_text("a\u{2028}b\u{202e}c\u{2066}d"), *"a b c d");
        assert_eq!(error.oauth_error(), Some("invalid scope"));
        assert_eq!(error.oauth_error_description().map(str::len), Some(256));
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn a_time_is_shown_as_one_and_none_panics() {
        let at = |secs, nanos| UNIX_EPOCH + Duration::new(secs, nanos);
        let shown = |at| ShownTime(at).to_string();
        assert_eq!(shown(at(1_795_626_000, 0)), "at Wed, 25 Nov 2026 17:00:00 GMT");
        assert_eq!(shown(at(1_795_626_000, 1)), "at Wed, 25 Nov 2026 17:00:01 GMT", "not before");
        assert_eq!(shown(at(END_OF_HTTP_DATES - 1, 1)), "at Fri, 31 Dec 9999 23:59:59 GMT");
        for out_of_range in [
            at(END_OF_HTTP_DATES, 0),
            UNIX_EPOCH - Duration::from_nanos(1),
            UNIX_EPOCH - Duration::from_secs(1 << 40),
            UNIX_EPOCH + Duration::from_secs(1 << 50),
        ] {
            assert_eq!(shown(out_of_range), "at a time out of range");
            let error = TokenError::new(ErrorClass::Transient, "x").remembered_until(out_of_range);
            assert!(format!("{error} {error:?}").contains("out of range"));
        }
    }

    #[test]
    fn a_remembered_failure_says_so_and_when_the_next_attempt_is_due() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_626_000);
        let error = TokenError::new(ErrorClass::Transient, "no answer came").with_retry_at(at);
        assert_eq!(error.to_string(), "no answer came", "the attempt was made for this caller");
        let due = "at Wed, 25 Nov 2026 17:00:00 GMT";
        assert!(format!("{error:?}").contains(&format!("retry_at: {due}")), "{error:?}");
        let remembered = error.remembered_until(at);
        assert_eq!(
            remembered.to_string(),
            format!("no answer came (a remembered failure; the next attempt is due {due})")
        );
    }

    /// A chain that is its own source, as a broken wrapper has it.
    #[derive(Debug)]
    struct Circle;

    impl fmt::Display for Circle {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("circle")
        }
    }

    impl StdError for Circle {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(self)
        }
    }

    #[test]
    fn an_error_is_found_behind_others() {
        let error = TokenError::new(ErrorClass::Budget, "x");
        let wrapped = TokenError::new(ErrorClass::Transient, "outer").with_source(error.clone());
        let class = |error: BoxError| TokenError::find(&*error).map(TokenError::class);
        assert_eq!(class(error.clone().into()), Some(ErrorClass::Budget));
        assert_eq!(class(wrapped.into()), Some(ErrorClass::Transient), "the outermost");
        let hidden = io::Error::other(io::Error::other(error.clone()));
        assert_eq!(class(hidden.into()), Some(ErrorClass::Budget), "inside two io errors");
        let rejected = NotReplaced::new(crate::cache::Reason::Failed(error));
        assert_eq!(class(rejected.into()), Some(ErrorClass::Budget), "why it was not replaced");
        assert_eq!(class("other".into()), None);
        assert_eq!(class(NotReplaced::not_replayable().into()), None);
        assert_eq!(class(Circle.into()), None, "and comes to an end");
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
