//! `cf-gears-toolkit-auth`: its plain layer, and the one that renews and replays after a 401.
//!
//! Its services take only inner ones that fail with its `HttpError`, so it has a base of its own.

use std::sync::Arc;

use http::{Request, Response};
use tokio::runtime::Runtime;
use toolkit_auth::oauth2::{
    BearerAuthAutoRefreshLayer, BearerAuthLayer, OAuthClientConfig, SecretString, TokenProvider,
};
use toolkit_http::{HttpClientConfig, HttpError};
use tower::{Layer, Service};

use super::{WithError, authorization_server, install_cryptography, runtime};
use crate::{
    Contestant, Entry,
    common::{Body, drive},
};

type Bare = WithError<HttpError>;

const BARE: &str = "bare, with cf-gears' error";

pub(super) const ENTRIES: &[Entry] = &[
    (BARE, || Contestant::new(BARE, BARE, || Box::new(|rounds| drive(&mut Bare::new(), rounds)))),
    ("cf-gears", || {
        let (runtime, provider) = provider();
        let layer = BearerAuthLayer::new(provider);
        Contestant::new("cf-gears", BARE, move || worker(&runtime, layer.layer(Bare::new())))
    }),
    ("cf-gears, auto refresh", || {
        let (runtime, provider) = provider();
        let layer = BearerAuthAutoRefreshLayer::new(provider);
        Contestant::new("cf-gears, auto refresh", BARE, move || {
            worker(&runtime, layer.layer(Bare::new()))
        })
    }),
];

fn worker<S>(runtime: &Arc<Runtime>, mut service: S) -> crate::Worker
where
    S: Service<Request<Body>, Response = Response<Body>, Error = HttpError> + Send + 'static,
{
    let runtime = Arc::clone(runtime);
    Box::new(move |rounds| {
        let _context = runtime.enter();
        drive(&mut service, rounds);
    })
}

fn provider() -> (Arc<Runtime>, TokenProvider) {
    install_cryptography();
    let runtime = runtime();
    let provider = runtime.block_on(async {
        let provider = TokenProvider::new(OAuthClientConfig {
            token_endpoint: Some(authorization_server::start().parse().expect("a URL")),
            client_id: "client".into(),
            client_secret: SecretString::new("secret"),
            http_config: Some(HttpClientConfig::for_testing()),
            ..OAuthClientConfig::default()
        })
        .expect("a provider");
        provider.get().await.expect("a token");
        provider
    });
    (runtime, provider)
}
