//! Interoperability with the oauth2 crate: the layer can take the settings of an `oauth2::Client`,
//! and each crate can use the other's HTTP transports.
//!
//! If your program has an `oauth2::Client`, pass its token request to [`builder`]. This returns a
//! [`Builder`] with the same settings: token URL, id, secret, client authentication, scopes and
//! further parameters. Your own call to `request_async`, the storage of the token and the renewal
//! timer become unnecessary.
//!
//! ```
//! # use tower_oauth2_client_credentials::BoxError;
//! use oauth2::{ClientId, ClientSecret, Scope, TokenUrl, basic::BasicClient};
//! use tower_oauth2_client_credentials::adapter::oauth2::builder;
//!
//! let client = BasicClient::new(ClientId::new("my-service".into()))
//!     .set_client_secret(ClientSecret::new("s3cr3t".into()))
//!     .set_token_uri(TokenUrl::new("https://auth.example.com/oauth/token".into())?);
//!
//! let request = client
//!     .exchange_client_credentials()
//!     .add_scope(Scope::new("read:reports".into()))
//!     .add_extra_param("audience", "https://api.example.com");
//! let auth = builder(request).build()?;
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # The same on the wire
//!
//! The layer then sends the same token request as the oauth2 crate, with one exception: in HTTP
//! Basic, that crate encodes a space as `+`, and the layer as `%20`. Servers decode both to a
//! space, whether they decode percent-encoding or forms. `*` and `~` are also encoded differently,
//! and decoded alike. (`client_secret_basic_raw` is another encoding.)
//!
//! A repeated parameter, which the oauth2 crate sends twice, is an error when the layer is built:
//! RFC 6749 section 3.2 forbids it. `resource` may be repeated (RFC 8707).
//!
//! # Not supported
//!
//! Clients without a secret, for which RFC 6749 section 4.4 does not allow the client credentials
//! grant.

use std::{collections::HashSet, fmt, io, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use oauth2::{
    AsyncHttpClient, ClientCredentialsTokenRequest, ErrorResponse, HttpRequest, HttpResponse,
    TokenResponse,
};
use zeroize::Zeroizing;

use crate::{
    Builder,
    endpoint::{
        ClientAuthentication, Dialect, Transport, TransportRequestBody, TransportResponseBody,
        read_body,
    },
    error::{BoxError, ErrorClass, TokenError},
    token::BoxFuture,
};

/// Returns a builder with the settings of `request`, which is not sent.
///
/// Settings made on the builder afterwards add to these settings or replace them, as usual. Invalid
/// settings are reported by `build`, including some that the oauth2 crate accepts, such as plain
/// http to another machine or a repeated parameter.
pub fn builder<TE, TR>(request: ClientCredentialsTokenRequest<'_, TE, TR>) -> Builder
where
    TE: ErrorResponse + 'static,
    TR: TokenResponse,
{
    // The settings are private, but the request passes them to an HTTP client. This one records
    // them and sends nothing.
    let mut made = None;
    let client = std::cell::RefCell::new(&mut made);
    let _ = request.request(&|request: HttpRequest| -> Result<HttpResponse, io::Error> {
        **client.borrow_mut() = Some(request);
        Err(io::Error::other("only looked at"))
    });
    match made {
        Some(request) => settings(request),
        None => Builder::new(),
    }
}

fn settings(request: HttpRequest) -> Builder {
    let (parts, body) = request.into_parts();
    let body = Zeroizing::new(body);
    let mut builder = Builder::new().token_url(parts.uri.to_string());
    let basic = parts.headers.get(header::AUTHORIZATION).and_then(basic_credentials);
    let authentication = match basic {
        Some((id, secret)) => {
            builder = builder.client_id(id).client_secret(secret.as_str());
            ClientAuthentication::ClientSecretBasic
        }
        None => ClientAuthentication::ClientSecretPost,
    };
    let mut names = HashSet::new();
    for (name, value) in form_pairs(&body) {
        // A second header of a name would replace the first. As a parameter, it makes `build` fail.
        let is_first = names.insert(name.to_string());
        let is_client = is_first && authentication == ClientAuthentication::ClientSecretPost;
        builder = match name.as_str() {
            "resource" => builder.resource(value.as_str()),
            "grant_type" if is_first => builder,
            "client_id" if is_client => builder.client_id(value.as_str()),
            "client_secret" if is_client => builder.client_secret(value.as_str()),
            "scope" if is_first => builder.scope(value.as_str()),
            "audience" if is_first => builder.audience(value.as_str()),
            _ => builder.param(name.as_str(), value.as_str()),
        };
    }
    builder.dialect(Dialect::rfc6749().client_authentication(authentication))
}

type Text = Zeroizing<String>;

/// Returns the id and secret of HTTP Basic, which are form-encoded (RFC 6749 section 2.3.1).
fn basic_credentials(line: &http::HeaderValue) -> Option<(String, Zeroizing<String>)> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let encoded = line.as_bytes().strip_prefix(b"Basic ")?;
    let pair = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let (id, secret) = pair.split_at(colon);
    let secret = form_decoded(secret.get(1..)?);
    Some((form_decoded(id).to_string(), secret))
}

fn form_pairs(body: &[u8]) -> impl Iterator<Item = (Text, Text)> {
    body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let (name, value) = pair.split_at(equals);
        (form_decoded(name), form_decoded(value.get(1..).unwrap_or_default()))
    })
}

fn form_decoded(text: &[u8]) -> Text {
    let blanks: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect());
    let decoded: Zeroizing<Vec<u8>> =
        Zeroizing::new(percent_encoding::percent_decode(&blanks).collect());
    Zeroizing::new(String::from_utf8_lossy(&decoded).into_owned())
}

/// A [`Transport`] that sends token requests with an [`AsyncHttpClient`].
///
/// ```
/// # use tower_oauth2_client_credentials::BoxError;
/// use std::sync::Arc;
///
/// use tower_oauth2_client_credentials::{Builder, adapter::oauth2::OAuth2Transport};
///
/// # async fn send(request: oauth2::HttpRequest) -> Result<oauth2::HttpResponse, std::io::Error> {
/// #     unreachable!()
/// # }
/// // Any client of the oauth2 crate's, or a function.
/// let http_client = |request: oauth2::HttpRequest| send(request);
///
/// let auth = Builder::new()
///     .token_url("https://auth.example.com/oauth/token")
///     .client_id("my-service")
///     .client_secret("s3cr3t")
///     .shared_transport(Arc::new(OAuth2Transport::new(http_client)))
///     .build()?;
/// # Ok::<(), BoxError>(())
/// ```
///
/// As the documentation of the oauth2 crate demands, the client must not follow redirects. The
/// client reads the whole response before it returns, so only the client can limit its size.
#[derive(Clone)]
pub struct OAuth2Transport<C> {
    client: C,
}

impl<C> OAuth2Transport<C> {
    /// Creates a transport that sends token requests with `client`.
    pub fn new(client: C) -> Self
    where
        C: for<'c> AsyncHttpClient<'c>,
    {
        Self { client }
    }
}

impl<C, E> Transport for OAuth2Transport<C>
where
    C: for<'c> AsyncHttpClient<'c, Error = E, Future: Send> + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    fn send<'a>(
        &'a self,
        request: Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<Response<TransportResponseBody>, BoxError>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.into_bytes().to_vec();
            let response = self.client.call(Request::from_parts(parts, body)).await?;
            Ok(response.map(|body| TransportResponseBody::new(Full::<Bytes>::from(body))))
        })
    }
}

impl<C> fmt::Debug for OAuth2Transport<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2Transport").finish_non_exhaustive()
    }
}

/// An [`AsyncHttpClient`] that sends requests with a [`Transport`], so that an `oauth2::Client` can
/// use the layer's transport for its other grants.
///
/// Responses are limited to 256 KiB. There is no timeout.
#[derive(Clone, Debug)]
pub struct HttpClient {
    transport: Arc<dyn Transport>,
}

impl HttpClient {
    /// Creates a client that sends requests with `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = TokenError;
    type Future = BoxFuture<'c, Result<HttpResponse, TokenError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let request = request
                .map(|body| TransportRequestBody::new(Bytes::from_owner(Zeroizing::new(body))));
            let response = self.transport.send(request).await.map_err(|error| {
                TokenError::new(ErrorClass::Transient, "the server could not be reached")
                    .with_source(error)
            })?;
            let (parts, body) = response.into_parts();
            let body = read_body(body).await?;
            Ok(Response::from_parts(parts, body.to_vec()))
        })
    }
}
