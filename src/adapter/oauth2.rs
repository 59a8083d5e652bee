//! The oauth2 crate: its client's settings for the layer, its HTTP clients as
//! transports of ours, ours as one of its.
//!
//! A program that has an `oauth2::Client` hands over the token request that it would make, and gets
//! a [`Builder`] with the same settings: token URL, id, secret and where they go, scopes, further
//! parameters. Its own call of `request_async`, its store for the token and its timer go.
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
//! A token request of ours then is the one that the oauth2 crate makes, with the same parameters.
//! With one exception: in HTTP Basic, that crate writes a blank as `+`, we as `%20`, which servers
//! read as a blank whether they decode percent-encoding or forms; `*` and `~` differ as well, and are
//! decoded alike by both. (`client_secret_basic_raw` is another way.)
//!
//! A parameter that is there twice, which that crate sends twice, is an error when the layer is built:
//! RFC 6749 section 3.2 forbids it. `resource` may be repeated (RFC 8707).
//!
//! # Not supported
//!
//! A client without a secret, which no client credentials grant is for (RFC 6749 section 4.4).

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

/// A builder with the settings of `request`, which is not sent.
///
/// What is set on the builder afterwards adds to it or replaces it, as always. What is wrong with
/// the settings is reported when the client is built: plain http to another machine, for one, or a
/// parameter that is there twice, which the oauth2 crate has nothing against.
pub fn builder<TE, TR>(request: ClientCredentialsTokenRequest<'_, TE, TR>) -> Builder
where
    TE: ErrorResponse + 'static,
    TR: TokenResponse,
{
    // Its settings are private, but it says them all to an HTTP client. This one sends nothing.
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
        // A second one of a name would replace the first. As a parameter, `build` refuses it.
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

/// Id and secret of HTTP Basic, which are encoded as in a form (RFC 6749 section 2.3.1).
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

/// An [`AsyncHttpClient`] as [`Transport`] of token requests.
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
/// As the oauth2 crate says itself, the client must not follow redirects. It reads the whole answer
/// before it gives it away, so that its size is the client's to limit.
#[derive(Clone)]
pub struct OAuth2Transport<C> {
    client: C,
}

impl<C> OAuth2Transport<C> {
    /// Token requests by way of `client`.
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

/// A [`Transport`] as [`AsyncHttpClient`], so that an `oauth2::Client` can do
/// its other grants with what carries our token requests.
///
/// Answers are read up to 256 KiB. There is no timeout.
#[derive(Clone, Debug)]
pub struct HttpClient {
    transport: Arc<dyn Transport>,
}

impl HttpClient {
    /// A client that sends requests with `transport`.
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
