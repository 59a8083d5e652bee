//! The order of layers: where timeouts, retries, tracing, rate limits, redirects and compression
//! belong relative to this crate's layer.
//!
//! This page is documentation only.
//!
//! `ServiceBuilder` lists layers from the outside in, that is, from the caller to the wire:
//!
//! ```
//! # use std::time::Duration;
//! # use tower_oauth2_client_credentials::{OAuthClientCredentialsLayer, TokenCache, TokenResponse, source_fn};
//! # use http_body_util::Empty;
//! # use bytes::Bytes;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # let cache = TokenCache::new(source_fn(|_| async { TokenResponse::bearer("t0k3n") }));
//! # let auth = OAuthClientCredentialsLayer::from_cache(cache);
//! # #[derive(Clone)] struct RetryPolicy;
//! # impl<R, E> tower::retry::Policy<http::Request<Empty<Bytes>>, R, E> for RetryPolicy {
//! #     type Future = std::future::Ready<()>;
//! #     fn retry(&mut self, _: &mut http::Request<Empty<Bytes>>, _: &mut Result<R, E>) -> Option<Self::Future> { None }
//! #     fn clone_request(&mut self, request: &http::Request<Empty<Bytes>>) -> Option<http::Request<Empty<Bytes>>> { Some(request.clone()) }
//! # }
//! # fn is_a_client<S: tower::Service<http::Request<Empty<Bytes>>> + Clone>(_: S) {}
//! use tower::{ServiceBuilder, timeout::TimeoutLayer};
//! use tower_http::{
//!     decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer, trace::TraceLayer,
//! };
//!
//! let client = ServiceBuilder::new()
//!     .layer(TraceLayer::new_for_http())              // one span per call
//!     .layer(TimeoutLayer::new(Duration::from_secs(30)))  // timeout of the call
//!     .layer(FollowRedirectLayer::new())
//!     .layer(DecompressionLayer::new())
//!     .retry(RetryPolicy)
//!     .layer(auth)                                    // <- this crate
//!     .concurrency_limit(64)                          // and rate limits
//!     .layer(TimeoutLayer::new(Duration::from_secs(10)))  // timeout of one request
//!     .service(Client::builder(TokioExecutor::new()).build_http());
//! # is_a_client(client);
//! ```
//!
//! `examples/full_stack.rs` runs this stack against an upstream that redirects, fails and forgets a
//! token. The layer works in other places as well; the last column shows what you lose there:
//!
//! | layer | position | reason | in the reverse order |
//! |---|---|---|---|
//! | retry | outside | Every attempt fetches the token from the cache, so a token that is renewed between two attempts is used by the second. A retry policy need not handle a 401: either the layer has resolved it, or there is a reason not to retry. | All attempts carry the token of the first, and the layer sees only the result of the last. A policy that retries a 401 sends the same token again. |
//! | timeout of the call | outside | It covers the wait for a token, the replay and all attempts. A caller that gives up does not cancel the renewal, which continues for the others. | |
//! | timeout of a request | inside | It covers one request on the wire, and applies to the replay separately. Token requests have their own timeouts (`attempt_timeout`, `renewal_timeout`). | With this timeout alone, only the deadline of a renewal, 30 s, limits the wait for a slow authorization server. |
//! | concurrency limit, rate limit, `buffer`, load shedding | inside | A replay counts as another request to the API. A request that waits for a token holds no permit: the layer gives up its reservation and reserves again afterwards. | Outside, requests hold a permit while they wait for a token, so a slow authorization server uses up the permits of a fast API. A replay is not counted. |
//! | tracing | outside | One span covers the whole call, including the wait for a token. The header has not been added yet. | Inside, there is one span per request on the wire, including replays. The header is present and marked sensitive: it prints as `Sensitive`. You can use both. |
//! | redirects | outside | Each hop is a separate request, and its origin is checked: the token is sent only to allowed origins, and other hops fail or are sent without it (see [`allowed_origin`](crate::Builder::allowed_origin)). | Inside, the layer checks only the first URL, and the redirecting layer has to remove the token (tower-http's does so for another origin; reqwest's client always follows redirects inside, see its adapter). A 401 from the last hop is attributed to the first. |
//! | decompression | outside | The layer reads the body of a rejected response to its end to keep the connection alive, and does not need it decompressed. | Works. |
//! | compression of request bodies | outside | The replay keeps the compressed body, which is compressed only once. | Works; the uncompressed body counts towards the limit, and is compressed twice. |
//! | another `Authorization` (`SetRequestHeader`, `AddAuthorization`) | none | Outside, the layer leaves a request that already has the header unchanged. | Inside, it replaces the token. |
//! | response caches | outside | A cached response needs no token. | |
//!
//! The layer requires that the inner service is `Clone`. A `rate_limit`, for example, is not: wrap
//! it in a `buffer`.
//!
//! Token requests use a transport of their own, and never pass through this stack.
