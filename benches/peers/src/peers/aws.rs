//! The identity cache of aws' SDKs (`LazyCache`), and a header made as its bearer signer makes it.
//! The signer itself takes only the SDK's own requests, which is why it is not called.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_smithy_async::{rt::sleep::TokioSleep, time::SystemTimeSource};
use aws_smithy_runtime::client::{
    auth::http::BearerAuthScheme, identity::IdentityCache,
    orchestrator::endpoints::StaticUriEndpointResolver, retries::strategy::NeverRetryStrategy,
};
use aws_smithy_runtime_api::client::{
    auth::{http::HTTP_BEARER_AUTH_SCHEME_ID, static_resolver::StaticAuthSchemeOptionResolver},
    identity::{ResolveCachedIdentity, SharedIdentityResolver, http::Token},
    runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
};
use aws_smithy_types::config_bag::ConfigBag;
use http::{HeaderValue, header};
use tower::Service;

use super::{DAY, runtime, serve};
use crate::{
    Contestant, Entry,
    common::{Inner, TOKEN_LENGTH, request, token},
};

pub(super) const ENTRIES: &[Entry] = &[("aws, LazyCache + format!", || {
    let runtime = runtime();
    let expiry = SystemTime::now() + Duration::from_secs(DAY);
    let resolver = SharedIdentityResolver::new(Token::new(token(TOKEN_LENGTH), Some(expiry)));
    let components = components(resolver.clone());
    runtime.block_on(async {
        components
            .identity_cache()
            .resolve_cached_identity(resolver.clone(), &components, &ConfigBag::base())
            .await
            .expect("a token");
    });
    Contestant::new("aws, LazyCache + format!", "bare", move || {
        let (runtime, components) = (Arc::clone(&runtime), components.clone());
        let (resolver, config) = (resolver.clone(), ConfigBag::base());
        Box::new(move |rounds| {
            // It makes a sleep for its time limit, whether or not it has a token.
            let _context = runtime.enter();
            for _ in 0..rounds {
                let mut request = request();
                let response = serve(async {
                    let identity = components
                        .identity_cache()
                        .resolve_cached_identity(resolver.clone(), &components, &config)
                        .await
                        .expect("an identity");
                    let token = identity.data::<Token>().expect("a token");
                    let header = HeaderValue::from_str(&format!("Bearer {}", token.token()))
                        .expect("a header");
                    request.headers_mut().insert(header::AUTHORIZATION, header);
                    Inner.call(request).await
                });
                drop(black_box(response));
            }
        })
    })
})];

/// More than the cache needs: the SDK has no way to make less.
fn components(resolver: SharedIdentityResolver) -> RuntimeComponents {
    RuntimeComponentsBuilder::new("peers")
        .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![
            HTTP_BEARER_AUTH_SCHEME_ID,
        ])))
        .with_endpoint_resolver(Some(StaticUriEndpointResolver::http_localhost(80)))
        .with_auth_scheme(BearerAuthScheme::new())
        .with_identity_cache(Some(IdentityCache::lazy().build()))
        .with_identity_resolver(HTTP_BEARER_AUTH_SCHEME_ID, resolver)
        .with_retry_strategy(Some(NeverRetryStrategy::new()))
        .with_time_source(Some(SystemTimeSource::new()))
        .with_sleep_impl(Some(TokioSleep::new()))
        .build()
        .expect("components")
}
