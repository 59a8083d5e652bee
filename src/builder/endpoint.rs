//! The settings of a token endpoint and the [`TokenEndpoint`] built from them: which are required,
//! and which exclude each other.

use std::{path::PathBuf, sync::Arc};

use http::{HeaderName, HeaderValue, header};
use tower_service::Service;
use zeroize::Zeroizing;

use super::{
    base::{Builder, Shared},
    target::{FromEndpoint, sealed},
};
#[cfg(feature = "rustls")]
use crate::endpoint::RustlsTransport;
use crate::{
    credentials::{ClientCredentials, CredentialsProvider, SecretFile, id_problem, secret_problem},
    endpoint::{
        ClientAuthentication, ClientLabel, Dialect, TokenEndpoint, TokenRequest, TowerTransport,
        Transport, TransportRequestBody, connect,
        url::{self, Insecure},
    },
    error::BoxError,
    error::config::{ConfigError, shown},
    policy::origin,
};

/// Headers that are determined by other settings or by the connection.
const RESERVED_HEADERS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::HOST,
    header::TRANSFER_ENCODING,
];

/// # Token endpoint settings
impl<T: sealed::Target> Builder<T, FromEndpoint> {
    /// Sets the URL of the token endpoint (RFC 6749 section 3.2).
    ///
    /// The URL must be `https`, or plain `http` to this machine (`localhost`, `127.0.0.0/8`,
    /// `[::1]`), without user info or a fragment. A trailing slash is significant.
    pub fn token_url(mut self, url: impl Into<String>) -> Self {
        self.source.token_url = Some(url.into());
        self
    }

    /// Sets the client id. It must not be empty or contain control characters.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        let id = id.into();
        if let Some(problem) = id_problem(&id) {
            let text = if id.is_empty() { String::new() } else { format!(": {}", shown(&id)) };
            self.fail("client_id", format!("{problem}{text}"));
        }
        self.source.client_id = Some(id);
        self
    }

    /// Sets a client secret that does not change while the program runs. It must not be empty or
    /// contain control characters; in particular, it must not end with a newline.
    pub fn client_secret(mut self, secret: impl Into<String>) -> Self {
        let secret = Zeroizing::new(secret.into());
        if let Some(problem) = secret_problem(&secret) {
            self.fail("client_secret", problem);
        }
        self.source.client_secret = Some(secret);
        self
    }

    /// Sets the path of a file that holds the client secret. The file is read again for every token
    /// request: see [`SecretFile`](crate::credentials::SecretFile).
    pub fn client_secret_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source.client_secret_file = Some(path.into());
        self
    }

    /// Sets the provider of the client id and secret. Replaces `client_id` and `client_secret`: see
    /// [`credentials`](crate::credentials).
    pub fn credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.source.credentials = Some(Arc::new(provider));
        self
    }

    /// Adds one or more scopes, separated by spaces (RFC 6749 section 3.3).
    pub fn scope(self, scope: impl AsRef<str>) -> Self {
        self.scopes([scope])
    }

    /// Adds several scopes. Each item may itself hold scopes separated by spaces.
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
                if !self.source.scope.iter().any(|present| present == scope) {
                    self.source.scope.push(scope.to_owned());
                }
            }
        }
        self
    }

    /// Sets the `audience` parameter, which Auth0 and others use to name the API that the token is
    /// for.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        let audience = audience.into();
        self.check_text("audience", &audience);
        self.source.audience = Some(audience);
        self
    }

    /// Adds a `resource` parameter, the URI of an API that the token is for (RFC 8707).
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        let resource = resource.into();
        self.check_text("resource", &resource);
        self.source.resources.push(resource);
        self
    }

    /// Adds a parameter to the body of token requests, after the others. Parameters that another
    /// setting produces are rejected. The value is never logged or shown, but unlike the client
    /// secret it is not redacted from the server's error messages.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        if name.is_empty() {
            self.fail("param", "has an empty name");
        }
        self.source.params.push((name, value.into()));
        self
    }

    /// Adds a header to token requests. Its value is marked sensitive. Replaces the default
    /// `Accept` and `User-Agent` (this crate's name and version).
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.as_ref())) {
            (Err(_), _) => self.fail("header", format!("has an invalid name: {}", shown(name))),
            (Ok(name), Err(_)) => {
                self.fail("header", format!("{name} has a value with invalid characters"));
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                self.source.headers.0.push((name, value));
            }
        }
        self
    }

    /// Sets how the client id and secret are sent, overriding the [`dialect`](Self::dialect). The
    /// default dialect uses [`ClientSecretBasic`](ClientAuthentication::ClientSecretBasic).
    pub fn client_authentication(mut self, method: ClientAuthentication) -> Self {
        self.source.client_authentication = Some(method);
        self
    }

    /// Sets the format of token requests and responses. Default: [`Dialect::rfc6749`].
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.source.dialect = dialect;
        self
    }

    /// Sets the tower service that carries token requests.
    ///
    /// The service is cloned for each request. It must not follow redirects, must verify
    /// certificates, and must not be the service that the layer wraps.
    ///
    /// A client with another request body type needs one more line:
    ///
    /// ```
    /// # use tower_oauth2_client_credentials::BoxError;
    /// use bytes::Bytes;
    /// use http::Request;
    /// use http_body_util::Full;
    /// use tower::ServiceBuilder;
    /// use tower_oauth2_client_credentials::{Builder, endpoint::TransportRequestBody};
    ///
    /// # let http_client = tower::service_fn(|_: Request<Full<Bytes>>| async {
    /// #     Ok::<_, BoxError>(http::Response::new(Full::<Bytes>::default()))
    /// # });
    /// let transport = ServiceBuilder::new()
    ///     .map_request(|request: Request<TransportRequestBody>| {
    ///         request.map(|body| Full::new(body.into_bytes()))
    ///     })
    ///     .service(http_client);
    /// let builder = Builder::new().transport(transport);
    /// # drop(builder);
    /// ```
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

    /// Sets the [`Transport`] of token requests. Use this for a transport that several clients
    /// share, or that is not a tower service.
    pub fn shared_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.source.transport = Some(transport);
        self
    }

    /// Allows a token URL with plain `http` to another machine. Every machine on the path can then
    /// read the client secret and the token, and replace the token.
    pub fn dangerously_allow_insecure_token_url(mut self) -> Self {
        self.source.insecure = Insecure::Anywhere;
        self
    }

    /// Adds a PEM file of certificates that the default transport trusts. It is read by the first
    /// token request.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.source.ca_files.push(path.into());
        self
    }

    /// Adds PEM certificates that the default transport trusts. `build` returns an error if the
    /// text contains no certificate or an invalid one.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.source.ca_pem.push(pem.into());
        self
    }
}

impl FromEndpoint {
    /// Builds the endpoint. Performs no I/O: files are first opened by a token request.
    pub(super) fn into_endpoint(mut self, shared: &Shared) -> Result<TokenEndpoint, ConfigError> {
        if self.scope.is_empty() {
            shared.near_miss("scope")?;
        }
        if self.audience.is_none() {
            shared.near_miss("audience")?;
        }
        if self.client_authentication.is_none() {
            shared.near_miss("client_authentication")?;
        }
        if self.ca_files.is_empty() && self.ca_pem.is_empty() {
            shared.near_miss("ca_file")?;
        }
        let request = self.token_request(shared)?;
        let is_raw = request.dialect.sends_raw_basic();
        if is_raw && self.client_id.as_ref().is_some_and(|id| id.contains(':')) {
            let problem = "has a colon, which raw HTTP Basic cannot carry (RFC 7617 section 2): set \
                           the client authentication `client_secret_basic` or `client_secret_post`";
            return Err(shared.error_in("client_id", problem));
        }
        let client = ClientLabel::new(shared.name.clone(), self.client_id.clone(), &request.url);
        let credentials = self.credentials_provider(shared)?;
        let host = request.url.host().unwrap_or_default();
        let unused_proxy = (self.transport.is_none() && !origin::is_loopback(host))
            .then(|| connect::unused_proxy(request.url.scheme_str(), |name| std::env::var_os(name)))
            .flatten();
        let transport = self.token_transport(shared)?;
        let clock = shared.settings.clock.clone();
        Ok(TokenEndpoint::new(request, credentials, transport, clock, client, unused_proxy))
    }

    fn token_request(&mut self, shared: &Shared) -> Result<TokenRequest, ConfigError> {
        let Some(text) = &self.token_url else {
            return Err(shared.missing("token_url"));
        };
        // No URL starts or ends with a space or a newline, but values in environment files do.
        let url = url::parse(text.trim_ascii(), self.insecure)
            .map_err(|problem| shared.error_in("token_url", problem))?;

        let mut dialect = std::mem::take(&mut self.dialect);
        if let Some(method) = self.client_authentication {
            dialect = dialect.client_authentication(method);
        }
        let mut request = TokenRequest::new(url, dialect);
        request.scope = (!self.scope.is_empty()).then(|| self.scope.join(" "));
        request.audience = self.audience.take();
        request.resources = std::mem::take(&mut self.resources);
        request.params = std::mem::take(&mut self.params);
        request.headers = std::mem::take(&mut self.headers);

        let names = request.field_names();
        for (at, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(shared.error_in("dialect", "has a field with an empty name"));
            }
            if names.iter().take(at).any(|earlier| earlier == name) {
                let setting = if request.params.iter().any(|(param, _)| param == name) {
                    "param"
                } else {
                    "dialect"
                };
                let problem = format!("puts {} into the token request twice", shown(name));
                return Err(shared.error_in(setting, problem));
            }
        }
        if let Some(audience) = request.dialect.needed_audience()
            && !names.contains(&audience)
        {
            let problem = "is not set, and the provider's dialect needs one: the API's identifier, \
                           in Auth0's words";
            return Err(shared.error_in("audience", problem));
        }
        let headers = request.headers.0.iter().chain(request.dialect.fixed_headers());
        if let Some((name, _)) =
            headers.into_iter().find(|(name, _)| RESERVED_HEADERS.contains(name))
        {
            return Err(shared.error_in(
                "header",
                format!("{name} must not be set: it follows from other settings"),
            ));
        }
        Ok(request)
    }

    fn credentials_provider(
        &mut self,
        shared: &Shared,
    ) -> Result<Arc<dyn CredentialsProvider>, ConfigError> {
        let id = self.client_id.take();
        match (self.credentials.take(), self.client_secret.take(), self.client_secret_file.take()) {
            (Some(provider), None, None) if id.is_none() => Ok(provider),
            (Some(_), ..) => Err(shared.error_in(
                "credentials",
                "cannot be set together with client_id, client_secret or client_secret_file: leave \
                 out one or the other",
            )),
            (None, Some(_), Some(_)) => Err(shared.error_in(
                "client_secret",
                "and client_secret_file are both set: which one is right?",
            )),
            (None, secret, file) => {
                let Some(id) = id else {
                    return Err(shared.missing("client_id"));
                };
                match (secret, file) {
                    (Some(mut secret), _) => {
                        Ok(Arc::new(ClientCredentials::new(id, std::mem::take(&mut *secret))))
                    }
                    (None, Some(path)) if path.as_os_str().is_empty() => {
                        Err(shared.error_in("client_secret_file", "is empty"))
                    }
                    (None, Some(path)) => Ok(Arc::new(SecretFile::new(id, path))),
                    (None, None) => Err(shared.missing("client_secret")),
                }
            }
        }
    }

    fn token_transport(&mut self, shared: &Shared) -> Result<Arc<dyn Transport>, ConfigError> {
        let files = std::mem::take(&mut self.ca_files);
        let pem = std::mem::take(&mut self.ca_pem);
        match self.transport.take() {
            None => default_transport(files, pem),
            Some(transport) if files.is_empty() && pem.is_empty() => Ok(transport),
            Some(_) => {
                let setting = if files.is_empty() { "ca_pem" } else { "ca_file" };
                let problem = "is for the default transport, but another transport is set";
                Err(shared.error_in(setting, problem))
            }
        }
    }
}

/// Creates the default transport: `endpoint::rustls`, with feature `rustls`. It is selected only
/// here.
///
/// PEM text in memory is checked now; a file is read by the first token request.
#[cfg(feature = "rustls")]
fn default_transport(
    ca_files: Vec<PathBuf>,
    ca_pem: Vec<Vec<u8>>,
) -> Result<Arc<dyn Transport>, ConfigError> {
    for (index, pem) in ca_pem.iter().enumerate() {
        if let Some(problem) = RustlsTransport::pem_problem(pem) {
            let which =
                if ca_pem.len() > 1 { format!(" (number {})", index + 1) } else { String::new() };
            return Err(ConfigError::new("ca_pem", problem + &which));
        }
    }
    let transport = ca_files.into_iter().fold(RustlsTransport::new(), RustlsTransport::ca_file);
    Ok(Arc::new(ca_pem.into_iter().fold(transport, RustlsTransport::ca_pem)))
}

#[cfg(not(feature = "rustls"))]
fn default_transport(_: Vec<PathBuf>, _: Vec<Vec<u8>>) -> Result<Arc<dyn Transport>, ConfigError> {
    Err(ConfigError::new(
        "transport",
        "is not set: turn on the feature `rustls` of this crate for the default one, or give a \
         tower service with `Builder::transport`",
    ))
}
