//! [`Answer`]: a scripted response of a test server, well-formed or not.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

/// A scripted response of an [`AuthorizationServer`](super::AuthorizationServer) or a
/// [`ProtectedApi`](super::ProtectedApi).
///
/// ```
/// use http::StatusCode;
/// use tower_oauth2_client_credentials::testing::Answer;
///
/// let busy = Answer::status(StatusCode::SERVICE_UNAVAILABLE).with_header("retry-after", "2");
/// let refused = Answer::challenge(r#"Bearer error="invalid_token""#).with_body("expired");
/// ```
#[derive(Clone)]
pub struct Answer {
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// The response that the server would send without a script.
    AsUsual,
    /// The connection is closed without a response.
    Closed,
    /// The connection stays open without a response.
    Never,
    /// Boxed, because answers are also the `Err` of the functions that check requests.
    Response(Box<Scripted>),
}

#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    end: End,
}

/// The way the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    Cut,
    /// The state of `Cut` in which the connection breaks.
    Break,
    Never,
}

impl Answer {
    /// Creates a response with this status, without headers or body.
    #[must_use]
    pub fn status(status: StatusCode) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        let scripted = Scripted { status, headers, body, end: End::Whole };
        Self { kind: Kind::Response(Box::new(scripted)) }
    }

    /// Creates a response with a JSON body. `json` is sent unchanged and need not be valid.
    #[must_use]
    pub fn json(status: StatusCode, json: impl Into<Bytes>) -> Self {
        Self::status(status).with_header("content-type", "application/json").with_body(json)
    }

    /// An answer with a form in its body (`application/x-www-form-urlencoded`), as some token
    /// endpoints answer. `form` is sent as it is.
    #[must_use]
    pub fn form(status: StatusCode, form: impl Into<Bytes>) -> Self {
        Self::status(status)
            .with_header("content-type", "application/x-www-form-urlencoded")
            .with_body(form)
    }

    /// Creates an error response of RFC 6749 section 5.2.
    #[must_use]
    pub fn oauth_error(status: StatusCode, error: &str, description: &str) -> Self {
        let body = serde_json::json!({ "error": error, "error_description": description });
        Self::json(status, body.to_string()).with_header("cache-control", "no-store")
    }

    /// Creates the response to a refused client, 401 `invalid_client`.
    #[must_use]
    pub fn invalid_client() -> Self {
        Self::oauth_error(
            StatusCode::UNAUTHORIZED,
            "invalid_client",
            "client authentication failed",
        )
    }

    /// Creates a response with an HTML page, as sent by proxies and captive portals.
    #[must_use]
    pub fn html(status: StatusCode) -> Self {
        Self::status(status)
            .with_header("content-type", "text/html; charset=utf-8")
            .with_body("<!doctype html><title>Something</title><p>Not what you asked for.")
    }

    /// Creates a 503 Service Unavailable response.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::status(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Creates a 429 Too Many Requests response with a `Retry-After`, in seconds or as an HTTP
    /// date.
    #[must_use]
    pub fn too_many_requests(retry_after: &str) -> Self {
        Self::status(StatusCode::TOO_MANY_REQUESTS).with_header("retry-after", retry_after)
    }

    /// Creates a 401 response with this `WWW-Authenticate`. For one without, use
    /// `Answer::status(StatusCode::UNAUTHORIZED)`.
    #[must_use]
    pub fn challenge(www_authenticate: &str) -> Self {
        Self::status(StatusCode::UNAUTHORIZED).with_header("www-authenticate", www_authenticate)
    }

    /// Returns a placeholder for the response that the server would send without a script, to leave
    /// a gap in a script.
    #[must_use]
    pub fn as_usual() -> Self {
        Self { kind: Kind::AsUsual }
    }

    /// Creates an answer that closes the connection. In memory, the service fails.
    #[must_use]
    pub fn connection_closed() -> Self {
        Self { kind: Kind::Closed }
    }

    /// Creates an answer that never comes: the connection stays open.
    #[must_use]
    pub fn never() -> Self {
        Self { kind: Kind::Never }
    }

    /// Adds a header, and keeps earlier ones of the same name. A name or value that HTTP does not
    /// allow is ignored, which the test will notice.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let Kind::Response(scripted) = &mut self.kind
            && let Ok(name) = HeaderName::try_from(name)
            && let Ok(value) = HeaderValue::try_from(value)
        {
            scripted.headers.append(name, value);
        }
        self
    }

    /// Sets the body to these bytes.
    #[must_use]
    pub fn with_body(mut self, bytes: impl Into<Bytes>) -> Self {
        if let Kind::Response(scripted) = &mut self.kind {
            scripted.body = bytes.into();
        }
        self
    }

    /// Sets the body to `len` bytes.
    #[must_use]
    pub fn with_body_of(self, len: usize) -> Self {
        self.with_body(vec![b'x'; len])
    }

    /// Breaks the connection after the body's bytes, with more announced.
    #[must_use]
    pub fn cut_short(self) -> Self {
        self.ending(End::Cut)
    }

    /// Sends the body's bytes without ever ending the body.
    #[must_use]
    pub fn never_ending(self) -> Self {
        self.ending(End::Never)
    }

    fn ending(mut self, how: End) -> Self {
        if let Kind::Response(scripted) = &mut self.kind {
            scripted.end = how;
        }
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither headers nor body, since a script may contain tokens.
        match &self.kind {
            Kind::AsUsual => f.write_str("Answer::AsUsual"),
            Kind::Closed => f.write_str("Answer::ConnectionClosed"),
            Kind::Never => f.write_str("Answer::Never"),
            Kind::Response(scripted) => f
                .debug_struct("Answer")
                .field("status", &scripted.status.as_u16())
                .field("body_len", &scripted.body.len())
                .field("end", &scripted.end)
                .finish_non_exhaustive(),
        }
    }
}

/// Converts an answer into an HTTP response, or into the error that closes the connection.
pub(crate) async fn send(answer: Answer) -> io::Result<http::Response<ResponseBody>> {
    match answer.kind {
        Kind::Never => std::future::pending().await,
        // The caller has replaced `AsUsual` with the usual response.
        Kind::Closed | Kind::AsUsual => {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "the server closed the connection"))
        }
        Kind::Response(scripted) => {
            let Scripted { status, mut headers, body, end } = *scripted;
            if end == End::Cut {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len() + 1));
            }
            let mut response = http::Response::new(ResponseBody { data: Some(body), end });
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }
}

/// The body of a response: complete, cut short, or never ending.
pub struct ResponseBody {
    data: Option<Bytes>,
    end: End,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.data.take() {
            Some(data) if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(data)))),
            _ => match self.end {
                End::Whole => Poll::Ready(None),
                // hyper would drop bytes that it has not written yet; a pause flushes them.
                End::Cut => {
                    self.end = End::Break;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                End::Break => {
                    self.end = End::Whole;
                    Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
                }
                // Intentionally pending forever, without a waker.
                End::Never => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Whole && self.data.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.data.as_ref().map_or(0, |data| data.len() as u64);
        match self.end {
            End::Whole => SizeHint::with_exact(len),
            End::Cut | End::Break => SizeHint::with_exact(len + 1),
            End::Never => SizeHint::default(),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("end", &self.end).finish_non_exhaustive()
    }
}
