//! [`TokenError`]: why there is no token, in one opaque, cloneable type.
//!
//! This file holds the error and its classes. What a class means for the next attempt is decided
//! in `token::schedule`; what a server's answer means is decided in `endpoint::response`.

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

/// What the layer's service fails with: the inner service's error, or a [`TokenError`].
///
/// The same type as in tower's own layers. [`TokenError::find`] tells the two apart, also behind the
/// errors of other layers and clients. The box is no [`Error`](StdError) by itself: pass its content.
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

/// The most errors that are looked at behind one.
const MAX_SOURCES: usize = 64;

/// The first second of the year 10000, after 1970.
const END_OF_HTTP_DATES: u64 = 253_402_300_800;

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
    /// No attempt was made for this caller.
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
    /// The client was refused: `invalid_client`, `unauthorized_client`, 401, or 403 without a page
    /// of HTML.
    ///
    /// Asked again only when the secret has changed; remembered for 30 s, doubling to 10 minutes.
    Credentials,
    /// The request was refused: `invalid_scope`, `invalid_request`, `invalid_target`,
    /// `unsupported_grant_type`, another 4xx, a redirect. Remembered for 60 s.
    Request,
    /// The answer could not be understood: not JSON, no token, characters that no header can
    /// carry, a token type that is no bearer token, compressed, too large, a page of HTML with 403 (a
    /// firewall's). Two attempts, then remembered for 5 s, doubling to
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

    /// Adds the `error` and `error_description` of the answer (RFC 6749 section 5.2) or what the
    /// server has in their place, capped and cleared of control characters. Scrubbing them of the
    /// secret is the caller's part.
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

    /// Marks a request that was lost with a connection from before: it is likely that the server has
    /// not read it, and another one at once is in order.
    pub(crate) fn with_unanswered_request(self) -> Self {
        self.with_unknown_outcome().change(|inner| inner.is_unanswered = true)
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.inner.is_unanswered
    }

    pub(crate) fn with_retry_at(&self, at: SystemTime) -> Self {
        Self { retry_at: Some(at), ..self.clone() }
    }

    /// Makes the error of a call that fails without I/O, because of a failure before it.
    pub(crate) fn remembered_until(&self, at: SystemTime) -> Self {
        Self { is_remembered: true, ..self.with_retry_at(at) }
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

    /// Finds the error behind another: `error` itself or one of its sources, also inside an
    /// [`io::Error`], and why a rejected token was not replaced
    /// ([`NotReplaced`](crate::NotReplaced)).
    ///
    /// Clients wrap the errors of their layers. An error that does not give its cause as
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
    /// // A `BoxError` is not an `Error` by itself; what is in it is one.
    /// explain(&*error);
    /// ```
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        chain(error).find_map(|error| match error.downcast_ref::<NotReplaced>() {
            Some(why) => why.error(),
            None => error.downcast_ref(),
        })
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

    /// The server's `error_description`, or other words of its own: the `message` or `detail` of
    /// other JSON, an XML fault's, a page's title, a plain text. At most 256 characters, scrubbed of
    /// the client's secret.
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
            // Without a code, a page's title would read as if it were ours.
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

/// Returns `error` and its sources, from the outermost on. The content of an [`io::Error`] is none of
/// its sources, but what it is made of.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let inside = |error: &'a (dyn StdError + 'static)| {
        let content = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        content.map(|content| content as &(dyn StdError + 'static)).or_else(|| error.source())
    };
    // Nobody nests errors that deep, but a source may be its own.
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
