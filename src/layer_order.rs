//! Where timeouts, retries, tracing, rate limits, redirects and compression go, relative to the
//! layer. (A page of the docs; there is nothing in it to use.)
//!
//! `ServiceBuilder` reads from the outside in. From the caller to the wire:
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
//!     .layer(TraceLayer::new_for_http())              // one span for each call of the caller's
//!     .layer(TimeoutLayer::new(Duration::from_secs(30)))  // all the time the caller has
//!     .layer(FollowRedirectLayer::new())
//!     .layer(DecompressionLayer::new())
//!     .retry(RetryPolicy)
//!     .layer(auth)                                    // <- this crate
//!     .concurrency_limit(64)                          // and rate limits
//!     .layer(TimeoutLayer::new(Duration::from_secs(10)))  // the time that one request has
//!     .service(Client::builder(TokioExecutor::new()).build_http());
//! # is_a_client(client);
//! ```
//!
//! `examples/full_stack.rs` is this stack at work, against an upstream that redirects, fails and
//! forgets a token. The layer works in other places as well; this is what is lost there:
//!
//! | layer | where | why | the other way round |
//! |---|---|---|---|
//! | retry | outside | Every try asks for the token anew: one that was renewed between two tries goes with the second. The 401 is none of the retry's business: it has been cured below, or stands for a reason. | All tries carry the token that the first one had, and a 401 is only seen by the layer after the last of them. A policy that retries a 401 itself sends the same token again. |
//! | timeout for the call | outside | It covers waiting for a token, the replay, and all tries. A caller that gives up cancels no renewal: it goes on for the others. | |
//! | timeout for a request | inside | It covers one request on the wire, and the replay has one of its own. Token requests have their own (`attempt_timeout`, `renewal_timeout`). | With this timeout alone, a slow authorization server is bounded by the renewal's deadline only, 30 s. |
//! | concurrency limit, rate limit, `buffer`, load shedding | inside | A replay is one more request to the API, and counts. Whoever waits for a token holds no permit: what was reserved is given up first, and asked for again afterwards. | Outside, a permit is held while a token is waited for, so that a slow authorization server uses up the permits of calls to a fast API; and a replay passes the limit uncounted. |
//! | tracing | outside | One span for what the caller has asked for, waiting included. The header is not there yet. | Inside, one span for each request on the wire, replays included. The header is there, and marked sensitive: it shows as `Sensitive`. Both at once are fine. |
//! | redirects | outside | Each hop is a request of its own, which its own origin is asked about: the token goes with those that may have it, and is an error, or left out, for others (see [`allowed_origin`](crate::Builder::allowed_origin)). | Inside, the layer has admitted the first URL only, and it is up to the redirecting layer to take the token off (tower-http's does for another origin; reqwest's client always follows inside, see its adapter). A 401 from the last hop is taken for one of the first. |
//! | decompression | outside | The body of a rejected response is read to its end to keep its connection, and need not be decompressed for that. | Works. |
//! | compression of request bodies | outside | What is kept for the replay is the compressed body, and it is compressed once. | Works; the body counts uncompressed towards the limit, and is compressed twice. |
//! | another `Authorization` (`SetRequestHeader`, `AddAuthorization`) | not at all | The layer leaves a request alone that has one already. | Inside, it takes the token's place. |
//! | caches of responses | outside | A response from the cache needs no token. | |
//!
//! Two of these layers are not always `Clone`, which the layer asks of what it wraps: put a `buffer`
//! around a `rate_limit`, or any service that is not.
//!
//! The token requests go their own way, by their own transport, and never through this stack.
