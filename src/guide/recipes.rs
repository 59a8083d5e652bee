//! A cookbook: solutions for specific tasks, using the existing settings.
//!
//! This page is documentation only.
//!
//! # A client that owns a `reqwest::Client`
//!
//! Generated clients contain an HTTP client, and a layer cannot be placed below it. Use what the
//! generator offers:
//!
//! | generator | solution |
//! |---|---|
//! | openapi-generator (Rust, `reqwest`) | Set `supportMiddleware=true`, which makes `Configuration::client` a `ClientWithMiddleware`. Add the layer with the adapter `reqwest_middleware`. |
//! | progenitor | Add [`AccessToken::header`] to the request in `pre_hook_async`, and call [`TokenCache::rejected_header`] on a 401 in `post_hook_async`. |
//! | graphql_client | It only creates bodies: send them with any client that has the layer. |
//! | any client with default headers | Do not put the token there: it expires. |
//!
//! The adapters support reqwest 0.13 (0.13.4 or newer) and reqwest-middleware 0.5. For a client
//! with an older reqwest, use a hook: [`AccessToken::header`] is an [`http::HeaderValue`], a type
//! that all versions of reqwest since 0.12 share.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use http::{StatusCode, header::AUTHORIZATION};
//! use tower_oauth2_client_credentials::{TokenCache, TokenError, TokenResponse, source_fn};
//!
//! async fn before(cache: &TokenCache, headers: &mut http::HeaderMap) -> Result<(), TokenError> {
//!     headers.insert(AUTHORIZATION, cache.token().await?.header().clone());
//!     Ok(())
//! }
//!
//! // The next request uses a newer token; this one is not sent again.
//! fn after(cache: &TokenCache, sent: &http::HeaderMap, status: StatusCode) {
//!     if let (StatusCode::UNAUTHORIZED, Some(header)) = (status, sent.get(AUTHORIZATION)) {
//!         cache.rejected_header(header);
//!     }
//! }
//! #
//! # let issued = std::sync::atomic::AtomicU32::new(0);
//! # let cache = TokenCache::new(source_fn(move |_| {
//! #     let number = 1 + issued.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
//! #     async move { TokenResponse::bearer(format!("t{number}")) }
//! # }));
//! # let mut headers = http::HeaderMap::new();
//! # before(&cache, &mut headers).await?;
//! # assert_eq!(headers[AUTHORIZATION], "Bearer t1");
//! # after(&cache, &headers, StatusCode::UNAUTHORIZED);
//! # tokio::task::yield_now().await;
//! # before(&cache, &mut headers).await?;
//! # assert_eq!(headers[AUTHORIZATION], "Bearer t2");
//! # Ok::<(), TokenError>(()) }).unwrap();
//! ```
//!
//! # A federated token instead of a secret
//!
//! Kubernetes and other platforms write a short-lived JWT to a file, which some authorization
//! servers accept as a client assertion (RFC 7523 section 2.2; Entra ID calls this workload
//! identity federation). The file is read again for each token request:
//!
//! ```
//! use tower_oauth2_client_credentials::{Builder, Dialect, endpoint::ClientAuthentication};
//!
//! let dialect = Dialect::rfc6749()
//!     .client_authentication(ClientAuthentication::ClientSecretPost)
//!     .client_secret_field("client_assertion");
//! let builder = Builder::new()
//!     .token_url("https://login.example.com/tenant/oauth2/v2.0/token")
//!     .client_id("my-service")
//!     .client_secret_file("/var/run/secrets/azure/tokens/azure-identity-token")
//!     .param(
//!         "client_assertion_type",
//!         "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
//!     )
//!     .scope("https://graph.example.com/.default")
//!     .dialect(dialect);
//! # drop(builder);
//! ```
//!
//! # The token in another header
//!
//! A service below the layer moves the token. The layer still renews it and handles a 401:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use tower_oauth2_client_credentials::{BoxError, OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn};
//! use http::{Request, header::AUTHORIZATION};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # let source = source_fn(|_| async { TokenResponse::bearer("t0k3n") });
//! # let auth = OAuthClientCredentialsLayer::from_cache(TokenCache::new(source));
//! # let http_client = tower::service_fn(|request: Request<String>| async move {
//! #     assert_eq!(request.headers()["x-access-token"], "Bearer t0k3n");
//! #     assert!(!request.headers().contains_key(AUTHORIZATION));
//! #     Ok::<_, BoxError>(http::Response::new(String::new()))
//! # });
//! let client = ServiceBuilder::new()
//!     .layer(auth)
//!     .map_request(|mut request: Request<String>| {
//!         if let Some(token) = request.headers_mut().remove(AUTHORIZATION) {
//!             request.headers_mut().insert("x-access-token", token);
//!         }
//!         request
//!     })
//!     .service(http_client);
//! # let request = Request::get("https://api.example.com/").body(String::new())?;
//! # client.oneshot(request).await?;
//! # Ok::<(), BoxError>(()) }).unwrap();
//! ```
//!
//! # A response with unusual fields
//!
//! The name of each response field can be set. A name that never occurs disables the field:
//!
//! | response | setting |
//! |---|---|
//! | a `token_type` that needs a proof, but means Bearer | [`Dialect::token_type_field`]`("none")` |
//! | an incorrect `expires_in` | [`Dialect::expires_in_field`]`("none")` and [`Builder::default_lifetime`]; the `exp` of a JWT still counts |
//! | a nested token: `{"data": {"accessToken": ..}}` | [`Dialect::access_token_field`]`("/data/accessToken")` |
//! | `expires_in: 0`, meaning "until revoked" | [`Dialect::zero_expires_in`]`(ZeroExpiresIn::Unknown)` and [`Builder::default_lifetime`] |
//! | `expires_in: 0`, meaning one use | [`Dialect::zero_expires_in`]`(ZeroExpiresIn::OneUse)` |
//! | more than 30 days, meaning it | [`Builder::max_lifetime`] |
//!
//! # An API that does not use 401
//!
//! [`Builder::forbidden_means_rejected`] treats 403 as a rejected token. For any other response,
//! use [`Builder::rejected_when`]:
//!
//! ```
//! use tower_oauth2_client_credentials::Builder;
//!
//! let builder = Builder::new().rejected_when(|response| {
//!     // 419 is Laravel's "Page Expired".
//!     matches!(response.status.as_u16(), 401 | 419)
//! });
//! # drop(builder);
//! ```
//!
//! # A job that runs every minute
//!
//! A short-lived process requests a new token on every run. If the provider bills or limits tokens,
//! store the token for the next run in a file that only the job's user can read. This source reads
//! the file once; later requests of the same run, such as after a 401, go to the endpoint:
//!
//! ```
//! # use tower_oauth2_client_credentials::{BoxError, TokenCache, endpoint::TransportRequestBody};
//! use std::{
//!     fs,
//!     path::PathBuf,
//!     sync::atomic::{AtomicBool, Ordering},
//!     time::{Duration, SystemTime},
//! };
//! use tower_oauth2_client_credentials::{
//!     TokenError, TokenResponse, TokenSource,
//!     endpoint::TokenEndpoint,
//!     token::{Attempt, BoxFuture},
//! };
//!
//! struct Kept {
//!     endpoint: TokenEndpoint,
//!     path: PathBuf,
//!     looked: AtomicBool,
//! }
//!
//! impl Kept {
//!     /// Returns the token of the last run, if it is valid for another minute.
//!     fn read(&self) -> Option<TokenResponse> {
//!         let text = fs::read_to_string(&self.path).ok()?;
//!         let (end, token) = text.split_once(' ')?;
//!         let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end.parse().ok()?);
//!         let left = end.duration_since(SystemTime::now()).ok()?;
//!         let is_enough = left > Duration::from_secs(60);
//!         Some(TokenResponse::bearer(token).ok()?.expires_in(left)).filter(|_| is_enough)
//!     }
//! }
//!
//! impl TokenSource for Kept {
//!     fn fetch<'a>(
//!         &'a self,
//!         attempt: Attempt,
//!     ) -> BoxFuture<'a, Result<TokenResponse, TokenError>> {
//!         Box::pin(async move {
//!             if !self.looked.swap(true, Ordering::Relaxed) && let Some(kept) = self.read() {
//!                 return Ok(kept);
//!             }
//!             let asked = SystemTime::now();
//!             let response = self.endpoint.fetch(attempt).await?;
//!             let lifetime = response.announced_lifetime().unwrap_or_default();
//!             if let Ok(end) = (asked + lifetime).duration_since(SystemTime::UNIX_EPOCH) {
//!                 // If this fails, the next run requests a new token.
//!                 let text = format!("{} {}", end.as_secs(), response.expose_secret());
//!                 let _ = write_for_owner(&self.path, &text);
//!             }
//!             Ok(response)
//!         })
//!     }
//! }
//!
//! /// Writes a new file and renames it, so that no run reads half a token.
//! fn write_for_owner(path: &PathBuf, text: &str) -> std::io::Result<()> {
//!     use std::io::Write as _;
//!
//!     let beside = path.with_extension(std::process::id().to_string());
//!     let mut options = fs::OpenOptions::new();
//!     options.write(true).create_new(true);
//!     #[cfg(unix)]
//!     std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
//!     options.open(&beside)?.write_all(text.as_bytes())?;
//!     fs::rename(&beside, path)
//! }
//! #
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let path = std::env::temp_dir().join(format!("kept-token-{}", std::process::id()));
//! # let issued = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
//! # for run in 0..3 {
//! #     let issued = issued.clone();
//! #     let service = tower::service_fn(move |_: http::Request<TransportRequestBody>| {
//! #         let number = 1 + issued.fetch_add(1, Ordering::Relaxed);
//! #         let answer = format!(r#"{{"access_token":"t{number}","expires_in":3600}}"#);
//! #         async { Ok::<_, BoxError>(http::Response::new(answer)) }
//! #     });
//! #     let endpoint = TokenEndpoint::builder().token_url("https://auth.example.com/token");
//! #     let endpoint = endpoint.client_id("job").client_secret("s3cr3t").transport(service).build()?;
//! #     let kept = Kept { endpoint, path: path.clone(), looked: AtomicBool::new(false) };
//! #     let cache = TokenCache::new(kept);
//! #     let token = cache.token().await?;
//! #     assert_eq!(token.expose_secret(), "t1", "run {run}");
//! #     if run == 2 {
//! #         assert_eq!(cache.rejected(&token).await?.expose_secret(), "t2");
//! #     }
//! # }
//! # fs::remove_file(&path)?;
//! # Ok::<(), BoxError>(()) }).unwrap();
//! ```
//!
//! # Replicas and servers that keep one token per client
//!
//! Some servers invalidate a client's previous token when they issue a new one. Two processes with
//! the same client id then invalidate each other's tokens: each renewal after a 401 causes a 401 in
//! the other process. The layer's limit on forced renewals bounds the rate, but the renewals still
//! cost requests. Register one client per replica, or let one process request tokens and pass them
//! to the others, whose [`TokenSource`] fetches them from there.
//!
//! [`AccessToken::header`]: crate::AccessToken::header
//! [`Builder::default_lifetime`]: crate::Builder::default_lifetime
//! [`Builder::forbidden_means_rejected`]: crate::Builder::forbidden_means_rejected
//! [`Builder::rejected_when`]: crate::Builder::rejected_when
//! [`Dialect::access_token_field`]: crate::Dialect::access_token_field
//! [`Dialect::expires_in_field`]: crate::Dialect::expires_in_field
//! [`Builder::max_lifetime`]: crate::Builder::max_lifetime
//! [`Dialect::token_type_field`]: crate::Dialect::token_type_field
//! [`Dialect::zero_expires_in`]: crate::Dialect::zero_expires_in
//! [`TokenCache::rejected_header`]: crate::TokenCache::rejected_header
//! [`TokenSource`]: crate::TokenSource
