//! The OAuth2 token endpoint (RFC 6749 section 4.4): [`TokenEndpoint`] requests a token from it, in
//! the provider's [`Dialect`], over a [`Transport`].
//!
//! One call makes one attempt. The cache decides when to request a token, how often, and with which
//! deadline.
//!
//! ```
//! use tower_oauth2_client_credentials::{Dialect, endpoint::TokenEndpoint};
//! # use tower_oauth2_client_credentials::BoxError;
//! # use http_body_util::Full;
//! # type Request = http::Request<tower_oauth2_client_credentials::endpoint::TransportRequestBody>;
//! # let http_client = tower::service_fn(|_: Request| async {
//! #     Ok::<_, BoxError>(http::Response::new(Full::<bytes::Bytes>::default()))
//! # });
//!
//! let endpoint = TokenEndpoint::builder()
//!     .token_url("https://example.auth0.com/oauth/token")
//!     .client_id("my-service")
//!     .client_secret("s3cr3t")
//!     .audience("https://api.example.com")
//!     .dialect(Dialect::auth0())
//!     .transport(http_client)
//!     .build()?;
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # Limitations
//!
//! - Redirects are not followed: a redirect is an error that shows its target.
//! - Client authentication by assertion (`private_key_jwt`) or mTLS, DPoP and discovery are not
//!   supported.
//! - Tokens are sent only as bearer tokens: see [`Dialect::strict_token_type`].

mod advice;
mod body;
mod client_authentication;
mod client_label;
mod complaint;
mod compression;
pub(crate) mod connect;
pub(crate) mod dialect;
mod encode;
mod form;
mod json;
mod lifetime;
mod markup;
#[cfg(feature = "rustls")]
mod metered;
mod outcome;
pub mod preset;
mod rate_limit;
mod refusal;
mod request;
mod response;
mod retry_after;
#[cfg(feature = "rustls")]
mod rustls;
mod scrub;
mod token_type;
mod transport;
pub(crate) mod url;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[cfg(feature = "oauth2")]
pub(crate) use self::body::read as read_body;
#[cfg(feature = "rustls")]
pub use self::rustls::RustlsTransport;
use self::transport::Unanswered;
pub use self::{
    client_authentication::ClientAuthentication,
    dialect::{BodyEncoding, ZeroExpiresIn},
    transport::{TowerTransport, Transport, TransportRequestBody, TransportResponseBody},
};
// `Dialect` is public at the crate's root.
pub(crate) use self::{
    client_label::ClientLabel,
    dialect::{Dialect, Headers},
    request::TokenRequest,
};
use crate::{
    clock::Clock,
    credentials::{ClientCredentials, CredentialsProvider, fingerprint},
    error::{ErrorClass, TokenError},
    telemetry,
    token::{Attempt, BoxFuture, TokenResponse, TokenSource},
};

/// A [`TokenSource`] that requests tokens from an OAuth2 token endpoint.
///
/// Created by [`TokenEndpoint::builder`]. Clones are cheap, and share the settings and the
/// transport.
///
/// An attempt fails with a [`TokenError`] whose class depends on the response. If the credentials
/// are unavailable, or no response arrives, it is [`ErrorClass::Transient`].
#[derive(Clone)]
pub struct TokenEndpoint {
    inner: Arc<Inner>,
}

struct Inner {
    request: TokenRequest,
    credentials: Arc<dyn CredentialsProvider>,
    transport: Arc<dyn Transport>,
    clock: Clock,
    client: ClientLabel,
    /// The variable of a proxy that the transport does not use.
    unused_proxy: Option<&'static str>,
    /// Whether an odd token type has been reported.
    has_told_type: AtomicBool,
}

impl TokenEndpoint {
    pub(crate) fn new(
        request: TokenRequest,
        credentials: Arc<dyn CredentialsProvider>,
        transport: Arc<dyn Transport>,
        clock: Clock,
        client: ClientLabel,
        unused_proxy: Option<&'static str>,
    ) -> Self {
        let inner = Inner {
            request,
            credentials,
            transport,
            clock,
            client,
            unused_proxy,
            has_told_type: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl TokenEndpoint {
    /// Returns the client's label, as far as it is known before the credentials are.
    pub(crate) fn client(&self) -> Arc<str> {
        self.inner.client.text(None)
    }
}

impl TokenSource for TokenEndpoint {
    fn fetch<'a>(&'a self, attempt: Attempt) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
        Box::pin(self.inner.fetch(attempt))
    }

    fn credentials_version(&self) -> u64 {
        self.inner.credentials.version()
    }
}

impl Inner {
    async fn fetch(&self, attempt: Attempt) -> Result<TokenResponse, TokenError> {
        let transient = |message: &'static str| TokenError::new(ErrorClass::Transient, message);

        let credentials = self.credentials.credentials().await.map_err(|error| {
            transient("the client's credentials could not be had")
                .with_source(error)
                .or_client(|| self.client.text(None))
        })?;
        let answer = self.ask(attempt, &credentials).await;
        answer.map_err(|error| error.or_client(|| self.client.text(Some(credentials.id()))))
    }

    async fn ask(
        &self,
        attempt: Attempt,
        credentials: &ClientCredentials,
    ) -> Result<TokenResponse, TokenError> {
        let transient = |message: &'static str| TokenError::new(ErrorClass::Transient, message);

        telemetry::asks(attempt, &self.request.url, credentials.id());
        let fingerprint = fingerprint(credentials);
        let told_apart = |error: TokenError| match error.class() {
            ErrorClass::Credentials => error.with_fingerprint(fingerprint),
            _ => error,
        };

        let request = self.request.with(credentials).map_err(told_apart)?;
        if attempt.has_refused(fingerprint) {
            // Checked after the request was built, whose errors are more precise. Sending it would
            // only count towards a lockout.
            let message = "the client was refused a moment ago, and its credentials are the same";
            return Err(
                TokenError::new(ErrorClass::Credentials, message).with_fingerprint(fingerprint)
            );
        }
        let response = self.transport.send(request).await.map_err(|error| {
            let mut failed = transient("no answer came from the token endpoint");
            if error.is::<Unanswered>() {
                failed = failed.with_unanswered_request();
            } else if !outcome::was_never_sent(&*error) {
                failed = failed.with_unknown_outcome();
            }
            match connect::advice(&error, self.unused_proxy) {
                Some(advice) => failed.with_advice(advice).with_source(error),
                None => failed.with_source(error),
            }
        })?;
        let (parts, body) = response.into_parts();
        let asked = response::Asked { request: &self.request, credentials };
        let now = || self.clock.now().system_time();
        match body::read(body).await {
            Ok(body) => {
                let read = response::read(&parts, &body, &asked, now()).map_err(told_apart)?;
                if let Some(odd) = read.odd_type
                    && !self.has_told_type.swap(true, Ordering::Relaxed)
                {
                    telemetry::odd_token_type(&self.request.url, &odd);
                }
                Ok(read.token)
            }
            // An error while reading the body of a refusal does not matter: the status is enough.
            Err(_) if !parts.status.is_success() => {
                Err(told_apart(refusal::refused(&parts, &[], &asked, now())))
            }
            Err(error) => Err(error.with_status(parts.status)),
        }
    }
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("request", &self.inner.request)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        error::Error as StdError,
        fmt::Write as _,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full, channel::Channel};
    use tower::{Service, ServiceExt, service_fn};

    use super::*;
    use crate::{
        Builder,
        builder::ForEndpoint,
        credentials::{ClientCredentials, RotatingSecret},
        error::BoxError,
        token::Lifetime,
    };

    const CANARY: &str = "c4n4ry/+ \"ö\"";

    type Sent = Request<TransportRequestBody>;

    fn answering(
        answer: impl Fn() -> Response<Full<Bytes>> + Clone + Send + 'static,
    ) -> (Builder<ForEndpoint>, Arc<AtomicUsize>) {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let service = service_fn(move |_: Sent| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, Infallible>(answer()))
        });
        let builder = TokenEndpoint::builder().token_url("https://a.example/t").transport(service);
        (builder, sent)
    }

    fn status(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    }

    /// Everything that an error shows, itself and its sources.
    fn all_of(error: &TokenError) -> String {
        let mut text = String::new();
        let mut next: Option<&dyn StdError> = Some(error);
        while let Some(error) = next {
            write!(text, "{error} {error:?} {error:#?} ").unwrap();
            next = error.source();
        }
        text
    }

    #[tokio::test]
    async fn a_request_goes_out_and_a_token_comes_back() {
        let service = service_fn(|request: Sent| async move {
            assert_eq!(request.uri(), "https://a.example/t");
            let body = request.into_body().collect().await?.to_bytes();
            assert_eq!(body, "grant_type=client_credentials&scope=read");
            Ok::<_, Infallible>(status(200, r#"{"access_token":"x","expires_in":60}"#))
        });
        let endpoint = TokenEndpoint::builder()
            .token_url("https://a.example/t")
            .client_id("me")
            .client_secret("s")
            .scope("read")
            .transport(service)
            .build()
            .unwrap();
        let response = endpoint.clone().fetch(Attempt::first()).await.unwrap();
        assert_eq!(response.expose_secret(), "x");
        assert_eq!(response.lifetime(), Lifetime::Of(std::time::Duration::from_secs(60)));
    }

    #[tokio::test]
    async fn refused_credentials_are_sent_again_only_when_they_have_changed() {
        let (builder, sent) = answering(|| status(401, r#"{"error":"invalid_client"}"#));
        let secret = RotatingSecret::new("me", "one");
        let endpoint = builder.credentials(secret.clone()).build().unwrap();

        let first = endpoint.fetch(Attempt::first()).await.unwrap_err();
        assert_eq!(first.class(), ErrorClass::Credentials);
        let second = Attempt::first().after(&first);
        let error = endpoint.fetch(second).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Credentials);
        assert_eq!(error.fingerprint(), first.fingerprint());
        assert_eq!(sent.load(Ordering::Relaxed), 1, "the same credentials were not sent again");

        let version = endpoint.credentials_version();
        secret.set("two");
        assert_ne!(endpoint.credentials_version(), version);
        let error = endpoint.fetch(second).await.unwrap_err();
        assert_ne!(error.fingerprint(), first.fingerprint());
        assert_eq!(sent.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn other_refusals_say_nothing_about_the_credentials() {
        let (builder, _) = answering(|| status(400, r#"{"error":"invalid_scope"}"#));
        let endpoint = builder.client_id("me").client_secret("s").build().unwrap();
        let error = endpoint.fetch(Attempt::first()).await.unwrap_err();
        assert_eq!((error.class(), error.fingerprint()), (ErrorClass::Request, None));
    }

    #[tokio::test]
    async fn what_keeps_an_answer_from_coming_is_transient_and_its_cause_is_kept() {
        struct Sealed;

        impl CredentialsProvider for Sealed {
            fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
                Box::pin(std::future::ready(Err("the vault is sealed".into())))
            }
        }

        let (builder, sent) = answering(|| status(200, ""));
        let endpoint = builder.credentials(Sealed).build().unwrap();
        let error = endpoint.fetch(Attempt::first()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert_eq!(error.source().unwrap().to_string(), "the vault is sealed");
        assert_eq!(sent.load(Ordering::Relaxed), 0);

        let down = service_fn(|_: Sent| async {
            Err::<Response<Full<Bytes>>, BoxError>("connection refused".into())
        });
        let endpoint = answering(|| status(200, "")).0.client_id("me").client_secret("s");
        let error = endpoint.transport(down).build().unwrap();
        let error = error.fetch(Attempt::first()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert_eq!(error.source().unwrap().to_string(), "connection refused");
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_read_does_not_hide_the_status() {
        let ten_megabytes = Bytes::from(vec![b'c'; 10 * 1024 * 1024]);
        for (code, class) in [
            (200, ErrorClass::Malformed),
            (401, ErrorClass::Credentials),
            (503, ErrorClass::Transient),
        ] {
            let body = ten_megabytes.clone();
            let (builder, _) = answering(move || status(code, body.clone()));
            let endpoint = builder.client_id("me").client_secret("s").build().unwrap();
            let error = endpoint.fetch(Attempt::first()).await.unwrap_err();
            assert_eq!(error.class(), class);
            assert_eq!(error.status().unwrap().as_u16(), code);
            assert_eq!(error.fingerprint().is_some(), class == ErrorClass::Credentials);
        }

        let broken = service_fn(|_: Sent| async {
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            sender.send_data("{\"access_token\":".into()).await?;
            sender.abort("reset".into());
            Ok::<_, BoxError>(Response::new(body))
        });
        let endpoint = answering(|| status(200, "")).0.client_id("me").client_secret("s");
        let endpoint = endpoint.transport(broken).build().unwrap();
        let error = endpoint.fetch(Attempt::first()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Transient);
    }

    #[tokio::test]
    async fn a_transport_is_made_ready_before_it_is_called() {
        // `concurrency_limit` panics if it is called without having been ready.
        let service = service_fn(|_: Sent| async {
            Ok::<_, Infallible>(status(200, r#"{"access_token":"x"}"#))
        });
        let mut limited = tower::limit::ConcurrencyLimit::new(service, 1);
        let endpoint = answering(|| status(200, "")).0.client_id("me").client_secret("s");
        let endpoint = endpoint.transport(limited.clone()).build().unwrap();
        for _ in 0..3 {
            assert!(endpoint.fetch(Attempt::first()).await.is_ok());
        }
        // While the only permit is taken, the request waits.
        let held = limited.ready().await.unwrap().call(Sent::default());
        let mut waiting = endpoint.fetch(Attempt::first());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        drop(held);
        assert!(waiting.await.is_ok());
    }

    /// Pins a leak of any kind: the secret, in any form, or the token in what can be logged.
    #[tokio::test]
    async fn no_secret_is_shown_anywhere() {
        let pair = STANDARD.encode(format!("me:{CANARY}"));
        let encoded = STANDARD.encode("me:c4n4ry%2F%2B%20%22%C3%B6%22");
        let echo = serde_json::json!({"clientId": "me", "secret": CANARY}).to_string();
        let texts = [CANARY.to_owned(), pair.clone(), encoded.clone(), echo.clone()];
        let mut answers: Vec<Response<Full<Bytes>>> = Vec::new();
        for code in [200, 302, 400, 401, 403, 404, 429, 500, 503] {
            for text in &texts {
                for body in [
                    text.clone(),
                    serde_json::json!({"error": text, "error_description": text}).to_string(),
                    serde_json::json!({"error": "invalid_client", "message": text}).to_string(),
                    serde_json::json!({"access_token": "x", "token_type": text}).to_string(),
                    serde_json::json!({"access_token": format!("{text}\n")}).to_string(),
                ] {
                    let mut response = status(code, body);
                    let path = text.replace(['"', ' ', 'ö', '{', '}'], "");
                    for (name, value) in [
                        ("location", format!("https://me:{path}@b.example/?{path}")),
                        ("www-authenticate", format!("Bearer error=\"{path}\"")),
                    ] {
                        let value = if path == *text { value } else { "x".into() };
                        response.headers_mut().insert(name, value.parse().unwrap());
                    }
                    answers.push(response);
                }
            }
        }
        for answer in answers {
            for dialect in [Dialect::rfc6749(), preset::dadi()] {
                let answer = answer.clone();
                let (builder, _) = answering(move || answer.clone());
                let builder = builder
                    .token_url("https://a.example/t?key=c4n4ry")
                    .client_id("me")
                    .client_secret(CANARY)
                    .param("password", CANARY)
                    .header("x-api-key", "c4n4ry")
                    .dialect(dialect);
                let mut shown = format!("{builder:?} {builder:#?}");
                let endpoint = builder.build().unwrap();
                write!(shown, "{endpoint:?} {endpoint:#?}").unwrap();
                match endpoint.fetch(Attempt::first()).await {
                    Ok(response) => write!(shown, "{response:?} {response:#?}").unwrap(),
                    Err(error) => shown += &all_of(&error),
                }
                for secret in ["c4n4ry", &pair, &encoded, &STANDARD.encode(CANARY)] {
                    assert!(!shown.contains(secret), "{shown}");
                }
            }
        }
    }
}
