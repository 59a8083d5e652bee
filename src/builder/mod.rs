//! [`Builder`]: every setting of a client, checked before anything is sent.
//!
//! A setting is checked where it is given if it can be judged alone; how settings go together, and
//! what is missing, is checked in `build`. Settings from the environment are read in `env`.

mod build;
mod client;
mod env;

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use http::{HeaderName, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use tower_service::Service;

use self::client::Origin;
use crate::{
    config_error::{ConfigError, shown},
    credentials::{CredentialsProvider, id_problem, secret_problem},
    endpoint::{Dialect, Headers, TowerTransport, Transport, TransportRequestBody, url::Insecure},
    error::BoxError,
    rules::Rules,
    token::Settings,
};

/// Headers that follow from other settings or from the connection.
const RESERVED_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];

/// Configures where tokens come from.
///
/// Needed are [`token_url`](Self::token_url) and credentials:
/// [`client_id`](Self::client_id) with [`client_secret`](Self::client_secret) or
/// [`client_secret_file`](Self::client_secret_file), or a provider of
/// [`credentials`](Self::credentials). A setting that is given twice has its last value, unless it
/// says that it adds. A bad setting is reported when the client is built, the first one first.
///
/// ```
/// # use tower_oauth2_client_credentials::BoxError;
/// # use http_body_util::Full;
/// # type Request = http::Request<Full<bytes::Bytes>>;
/// # let http_client = tower::service_fn(|_: Request| async {
/// #     Ok::<_, BoxError>(http::Response::new(Full::<bytes::Bytes>::default()))
/// # });
/// use tower_oauth2_client_credentials::Builder;
///
/// let endpoint = Builder::new()
///     .token_url("https://auth.example.com/oauth/token")
///     .client_id("my-service")
///     .client_secret("s3cr3t")
///     .scope("read:reports")
///     .transport(http_client)
///     .build_source()?;
///
/// let error = Builder::new().token_url("http://auth.example.com/").build_source().unwrap_err();
/// assert_eq!(error.setting(), "token_url");
/// # Ok::<(), BoxError>(())
/// ```
#[must_use]
#[derive(Default)]
pub struct Builder {
    token_url: Option<String>,
    insecure: Insecure,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    client_secret_file: Option<PathBuf>,
    credentials: Option<Arc<dyn CredentialsProvider>>,
    scope: Vec<String>,
    audience: Option<String>,
    resources: Vec<String>,
    params: Vec<(String, String)>,
    headers: Headers,
    dialect: Option<Dialect>,
    transport: Option<Arc<dyn Transport>>,
    ca_files: Vec<PathBuf>,
    ca_pem: Vec<Vec<u8>>,
    origin: Option<Origin>,
    settings: Settings,
    /// The settings of the cache that were given.
    cache_settings: Vec<&'static str>,
    rules: Rules,
    /// The first of the rules that was given.
    rule: Option<&'static str>,
    env_prefix: Option<String>,
    error: Option<ConfigError>,
}

impl Builder {
    /// No settings yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The URL of the token endpoint (RFC 6749 section 3.2).
    ///
    /// It must be `https`, or plain `http` to this machine (`localhost`, `127.0.0.0/8`, `[::1]`),
    /// without user, password or fragment. A slash at its end counts.
    pub fn token_url(mut self, url: impl Into<String>) -> Self {
        self.token_url = Some(url.into());
        self
    }

    /// Lets the token URL be plain `http` to another machine. Whoever is on the way reads the
    /// client's secret and the token, and can put in a token of their own.
    pub fn dangerously_allow_insecure_token_url(mut self) -> Self {
        self.insecure = Insecure::Anywhere;
        self
    }

    /// The client's id. Not empty, no control characters.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        if let Some(problem) = id_problem(&id) {
            let text = if id.is_empty() { String::new() } else { format!(": {}", shown(&id)) };
            self.fail("client_id", format!("{problem}{text}"));
        }
        self.client_id = Some(id);
        self
    }

    /// The client's secret, if it does not change while the program runs. Not empty, no control
    /// characters, in particular no newline at its end.
    pub fn client_secret(mut self, secret: impl Into<SecretString>) -> Self {
        let secret = secret.into();
        if let Some(problem) = secret_problem(secret.expose_secret()) {
            self.fail("client_secret", problem);
        }
        self.client_secret = Some(secret);
        self
    }

    /// A file with the client's secret, which is read again for every token request: see
    /// [`SecretFile`](crate::credentials::SecretFile).
    pub fn client_secret_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_secret_file = Some(path.into());
        self
    }

    /// Whoever gives the client's id and secret, in place of `client_id` and `client_secret`: see
    /// [`credentials`](crate::credentials).
    pub fn credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.credentials = Some(Arc::new(provider));
        self
    }

    /// Adds a scope, or several with blanks between them (RFC 6749 section 3.3).
    pub fn scope(self, scope: impl AsRef<str>) -> Self {
        self.scopes([scope])
    }

    /// Adds scopes; each may be several with blanks between them.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        for text in scopes {
            for scope in text.as_ref().split(' ').filter(|scope| !scope.is_empty()) {
                // %x21 / %x23-5B / %x5D-7E
                let bad = |c: &char| !c.is_ascii_graphic() || matches!(c, '"' | '\\');
                if let Some(c) = scope.chars().find(bad) {
                    self.fail(
                        "scope",
                        format!("has {c:?}, which RFC 6749 section 3.3 forbids: {}", shown(scope)),
                    );
                }
                if !self.scope.iter().any(|present| present == scope) {
                    self.scope.push(scope.to_owned());
                }
            }
        }
        self
    }

    /// The API that the token is for, as Auth0 wants it (`audience`).
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        let audience = audience.into();
        self.check_text("audience", &audience);
        self.audience = Some(audience);
        self
    }

    /// Adds a resource that the token is for (RFC 8707).
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        let resource = resource.into();
        self.check_text("resource", &resource);
        self.resources.push(resource);
        self
    }

    /// Adds a parameter to the body of token requests, behind the others. It must not be one that
    /// another setting makes. Its value is not shown, but unlike the client's secret it is not
    /// taken out of what the server says.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        if name.is_empty() {
            self.fail("param", "has an empty name");
        }
        self.params.push((name, value.into()));
        self
    }

    /// Adds a header to token requests. Its value is marked sensitive. `Accept` and `User-Agent`
    /// (this crate's name and version) are there already, and are replaced.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.as_ref())) {
            (Err(_), _) => self.fail("header", format!("has an invalid name: {}", shown(name))),
            (Ok(name), Err(_)) => {
                self.fail("header", format!("{name} has a value with invalid characters"));
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                self.headers.0.push((name, value));
            }
        }
        self
    }

    /// The provider's ways; [`Dialect::rfc6749`] unless set.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// The tower service that carries token requests.
    ///
    /// It is cloned for each request. It must not follow redirects, must check certificates, and
    /// must not be the service that the layer wraps.
    pub fn transport<S, B>(self, service: S) -> Self
    where
        S: Service<http::Request<TransportRequestBody>, Response = http::Response<B>>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.shared_transport(Arc::new(TowerTransport::new(service)))
    }

    /// The same, for a [`Transport`] that is shared among clients or is no tower service.
    pub fn shared_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Adds a file of certificates in PEM form that the default transport trusts.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_files.push(path.into());
        self
    }

    /// Adds certificates in PEM form that the default transport trusts. A text with none in it, or
    /// with one that cannot be used, is reported when the client is built.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem.push(pem.into());
        self
    }

    /// Keeps the first thing that is wrong, for what is built to report.
    fn fail(&mut self, setting: &'static str, problem: impl Into<Cow<'static, str>>) {
        let error = self.error_in(setting, problem);
        self.error.get_or_insert(error);
    }

    /// An error in `setting`, which is also called by its variable if the environment was read.
    fn error_in(
        &self,
        setting: &'static str,
        problem: impl Into<Cow<'static, str>>,
    ) -> ConfigError {
        let variable = self.env_prefix.as_deref().and_then(|prefix| env::variable(prefix, setting));
        match variable {
            Some(variable) => ConfigError::new(format!("{setting} ({variable})"), problem),
            None => ConfigError::new(setting, problem),
        }
    }

    fn check_text(&mut self, setting: &'static str, text: &str) {
        if text.is_empty() {
            self.fail(setting, "is empty");
        } else if text.chars().any(char::is_control) {
            self.fail(setting, format!("has a control character: {}", shown(text)));
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of parameters may be secrets, and so may parts of a bad URL be.
        let params: Vec<_> = self.params.iter().map(|(name, _)| name).collect();
        f.debug_struct("Builder")
            .field("token_url", &self.token_url.as_deref().map(crate::endpoint::url::presentable))
            .field("client_id", &self.client_id)
            .field("client_secret_file", &self.client_secret_file)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("resources", &self.resources)
            .field("params", &params)
            .field("headers", &self.headers)
            .field("dialect", &self.dialect)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;

    use super::*;
    use crate::{
        credentials::{ClientCredentials, RotatingSecret},
        token::BoxFuture,
    };

    /// A transport that nothing gets through.
    pub(super) fn unreachable() -> Arc<dyn Transport> {
        struct Unreachable;

        impl Transport for Unreachable {
            fn send<'a>(
                &'a self,
                _: http::Request<TransportRequestBody>,
            ) -> BoxFuture<
                'a,
                Result<http::Response<crate::endpoint::TransportResponseBody>, BoxError>,
            > {
                Box::pin(std::future::ready(Err("unreachable".into())))
            }
        }

        Arc::new(Unreachable)
    }

    fn bare() -> Builder {
        Builder::new().token_url("https://a.example/t").shared_transport(unreachable())
    }

    fn good() -> Builder {
        bare().client_id("me").client_secret("c4n4ry")
    }

    #[test]
    fn good_settings_make_a_source() {
        let file = || bare().client_id("me").client_secret_file("/nonexistent");
        let provider = || bare().credentials(RotatingSecret::new("me", "c4n4ry"));
        for builder in [good(), file(), provider(), good().client_id("other")] {
            assert!(builder.build_source().is_ok());
        }
        let many = good()
            .scope("a b")
            .scopes(["b", "c"])
            .audience("x")
            .resource("urn:a")
            .resource("urn:b")
            .param("tenant", "c4n4ry")
            .param("empty", "")
            .header("X-Api-Key", "c4n4ry")
            .dangerously_allow_insecure_token_url()
            .token_url("http://a.internal/t?key=c4n4ry");
        let debug = format!("{many:?}") + &format!("{:?}", many.build_source().unwrap());
        assert!(debug.contains("\"a b c\""), "{debug}");
        assert!(!debug.contains("c4n4ry"), "{debug}");
    }

    const CREDENTIALS_TWICE: &str = "credentials cannot be set together with client_id, \
                                     client_secret or client_secret_file: leave out";

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_shown() {
        let headers = |name, value| good().header(name, value);
        for (builder, said) in [
            (Builder::new().client_id("me").client_secret("x"), "token_url is not set"),
            (good().token_url("http://a.example/t"), "token_url would send the secret over plain"),
            (good().token_url("https://u:c4n4ry@a.example"), "token_url has credentials in it"),
            (good().client_id(""), "client_id is empty"),
            (good().client_id("a\u{7}b"), r#"client_id has a control character: "a\u{7}b""#),
            (bare().client_secret("c4n4ry"), "client_id is not set"),
            (bare().client_id("me"), "client_secret is not set"),
            (good().client_secret(""), "client_secret is empty"),
            (good().client_secret("c4n4ry\n"), "client_secret has a newline at its end"),
            (good().client_secret("c4n4ry\0c4n4ry"), "client_secret has a control character"),
            (good().client_secret_file("/x"), "client_secret and client_secret_file are both set"),
            (bare().client_id("me").client_secret_file(""), "client_secret_file is empty"),
            (good().credentials(ClientCredentials::new("a", "b")), CREDENTIALS_TWICE),
            (good().scope("a\"b"), r#"scope has '"', which RFC 6749 section 3.3 forbids: "a\"b""#),
            (good().scopes(["ok", "a\\b"]), r"scope has '\\'"),
            (good().scope("é"), "scope has 'é'"),
            (good().scope("a\nb"), "scope has '\\n'"),
            (good().audience(""), "audience is empty"),
            (good().resource("a\nb"), "resource has a control character"),
            (good().param("", "x"), "param has an empty name"),
            (good().param("grant_type", "x"), r#"param puts "grant_type" into the token request"#),
            (good().param("a", "x").param("a", "y"), r#"param puts "a" into"#),
            (
                good().dialect(Dialect::dadi().client_id_field("secret")),
                r#"dialect puts "secret" into"#,
            ),
            (good().dialect(Dialect::dadi().client_id_field("")), "dialect has a field with an"),
            (headers("a b", "x"), r#"header has an invalid name: "a b""#),
            (headers("x-a", "c4n4ry\n"), "header x-a has a value with invalid characters"),
            (headers("Authorization", "c4n4ry"), "header authorization must not be set"),
            (
                good().dialect(Dialect::dadi().header(header::HOST, HeaderValue::from_static("a"))),
                "header host must not be set",
            ),
            (good().ca_file("/ca.pem"), "ca_file is for the default transport"),
            (good().ca_pem("x"), "ca_pem is for the default transport"),
            (good().scope("\"first\"").client_id(""), "scope has"),
        ] {
            let error = builder.build_source().unwrap_err();
            let text = format!("{error}");
            assert!(text.starts_with(said), "{said}: {text}");
            assert!(!format!("{text} {error:?}").contains("c4n4ry"), "{text}");
        }
    }

    type Set = fn(Builder) -> Builder;

    const RULES: [(&str, Set); 7] = [
        ("allowed_origin", |builder| builder.allowed_origin("https://a.example")),
        ("pass_other_origins_without_token", Builder::pass_other_origins_without_token),
        ("dangerously_allow_plain_http", Builder::dangerously_allow_plain_http),
        ("replace_authorization", Builder::replace_authorization),
        ("forbidden_means_rejected", Builder::forbidden_means_rejected),
        ("rejected_when", |builder| builder.rejected_when(|_| false)),
        // Even the default: whoever sets it counts on it.
        ("replay_limit", |builder| builder.replay_limit(crate::rules::REPLAY_LIMIT)),
    ];

    const KEEPING: [(&str, Set); 5] = [
        ("attempt_timeout", |builder| builder.attempt_timeout(Duration::from_secs(1))),
        ("renewal_timeout", |builder| builder.renewal_timeout(Duration::from_secs(60))),
        ("default_lifetime", |builder| builder.default_lifetime(Duration::from_secs(60))),
        ("issuance_budget", |builder| builder.issuance_budget(1, Duration::from_secs(60))),
        ("keep_warm", Builder::keep_warm),
    ];

    // A cache was built with allowed origins, and the layer over it sent the token everywhere.
    #[test]
    fn a_rule_of_the_layer_is_not_dropped_by_what_has_no_rules() {
        for (name, set) in RULES {
            assert!(set(good()).build().is_ok(), "{name}");
            let cache = good().build_cache().unwrap();
            assert!(set(Builder::from_cache(&cache)).build().is_ok(), "{name}");

            for (error, remedy) in [
                (set(good()).build_cache().unwrap_err(), "`Builder::from_cache(&cache)`"),
                (
                    set(Builder::from_cache(&cache)).build_cache().unwrap_err(),
                    "`Builder::from_cache(&cache)`",
                ),
                (set(good()).build_source().unwrap_err(), "`Builder::from_source(source)`"),
            ] {
                assert_eq!(error.setting(), name);
                let text = error.to_string();
                let said = format!("{name} is a rule of the layer");
                assert!(text.starts_with(&said) && text.contains(remedy), "{text}");
            }
        }
    }

    #[test]
    fn what_the_cache_is_told_is_not_dropped_by_a_source() {
        for (name, set) in KEEPING {
            assert!(set(good()).build_cache().is_ok(), "{name}");
            let error = set(good()).build_source().unwrap_err();
            assert_eq!(error.setting(), name);
            let text = error.to_string();
            let said = format!("{name} is for the cache");
            assert!(text.starts_with(&said) && text.contains("from_source(source)"), "{text}");
        }
    }

    // An attempt that may take longer than its renewal was cut off by the renewal's own deadline.
    #[test]
    fn an_attempt_may_not_take_longer_than_its_renewal() {
        let secs = Duration::from_secs;
        for builder in [
            good().attempt_timeout(secs(31)),
            good().attempt_timeout(secs(2)).renewal_timeout(secs(1)),
            good().renewal_timeout(secs(1)).attempt_timeout(secs(2)),
            Builder::basic("id", "secret").attempt_timeout(secs(31)),
        ] {
            let error = builder.build_cache().unwrap_err();
            assert_eq!(error.setting(), "attempt_timeout");
            assert!(error.to_string().contains("renewal_timeout"), "{error}");
        }
        for builder in [
            good().attempt_timeout(secs(30)),
            good().renewal_timeout(secs(1)),
            good().attempt_timeout(secs(60)).renewal_timeout(secs(60)),
        ] {
            assert!(builder.build_cache().is_ok());
        }
    }

    #[test]
    fn what_a_cache_cannot_do_is_named() {
        let zero = Duration::ZERO;
        for (builder, said) in [
            (good().attempt_timeout(zero), "attempt_timeout must be longer than zero"),
            (good().issuance_budget(1, zero), "issuance_budget has a period of zero"),
            (
                good().issuance_budget(0, Duration::from_secs(1)),
                "issuance_budget must allow at least one token",
            ),
        ] {
            assert_eq!(builder.build_cache().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn a_static_id_and_secret_that_basic_cannot_carry_are_named() {
        for (id, secret, said) in [
            ("", "", "basic has neither an id nor a secret"),
            (" \t", "c4n4ry", "basic has an id or a secret of nothing but blanks"),
            ("me", "  ", "basic has an id or a secret of nothing but blanks"),
            ("c4n:4ry", "x", "basic has an id with a colon, which RFC 7617 forbids"),
            ("me", "c4n4ry\n", "basic has a control character in the id or the secret"),
            ("me", &"c4n4ry".repeat(2100), "basic has an id and a secret of more than 12 KiB"),
        ] {
            let error = Builder::basic(id, secret).build().unwrap_err();
            assert_eq!(error.setting(), "basic");
            let text = error.to_string();
            assert!(text.starts_with(said), "{text}");
            assert!(!text.contains("c4n"), "{text}");
        }
        assert!(Builder::basic("a id", "b é ").build().is_ok());
    }

    /// The endpoint reads a clock itself.
    #[cfg(feature = "testing")]
    #[test]
    fn a_clock_is_for_the_source_too_and_does_not_hide_what_is_not() {
        let clock = crate::testing::ManualClock::new();
        assert!(good().clock(&clock).build_source().is_ok());
        for builder in [good().clock(&clock).keep_warm(), good().keep_warm().clock(&clock)] {
            assert_eq!(builder.build_source().unwrap_err().setting(), "keep_warm");
        }
        let error = good().clock(&clock).jitter_seed(7).build_source().unwrap_err();
        assert_eq!(error.setting(), "jitter_seed");
        let cache = good().build_cache().unwrap();
        let error = Builder::from_cache(&cache).clock(&clock).build().unwrap_err();
        assert_eq!(error.setting(), "clock");
    }

    #[test]
    fn what_is_for_a_token_endpoint_is_not_dropped_where_there_is_none() {
        let cache = good().build_cache().unwrap();
        let settings: [(&str, Set); 3] = [
            ("scope", |builder| builder.scope("read")),
            ("dialect", |builder| builder.dialect(Dialect::rfc6749())),
            ("dangerously_allow_insecure_token_url", Builder::dangerously_allow_insecure_token_url),
        ];
        for (name, set) in settings {
            for builder in [Builder::from_cache(&cache), Builder::basic("id", "secret")] {
                assert_eq!(set(builder).build().unwrap_err().setting(), name);
            }
        }
    }

    #[test]
    fn without_a_transport_the_feature_is_named() {
        let builder = Builder { transport: None, ..good() };
        if cfg!(not(feature = "rustls")) {
            let text = builder.build_source().unwrap_err().to_string();
            assert!(text.contains("feature `rustls`") && text.contains("Builder::transport"));
        }
    }

    #[test]
    fn a_service_that_is_not_sync_is_a_transport() {
        #[derive(Clone)]
        struct NotSync(std::cell::Cell<u8>);

        impl Service<http::Request<TransportRequestBody>> for NotSync {
            type Response = http::Response<Full<std::io::Cursor<Vec<u8>>>>;
            type Error = std::io::Error;
            type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

            fn poll_ready(
                &mut self,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), Self::Error>> {
                self.0.set(1);
                std::task::Poll::Ready(Ok(()))
            }

            fn call(&mut self, _: http::Request<TransportRequestBody>) -> Self::Future {
                std::future::ready(Err(std::io::Error::other("no")))
            }
        }

        assert!(good().transport(NotSync(0.into())).build_source().is_ok());
    }
}
