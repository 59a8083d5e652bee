//! kube's `AuthLayer`, with a token that it knows how to renew: one of the `gcp` plug-in, which it
//! keeps in a mutex, and one of a file, which it keeps in a lock for readers and reads again once
//! a minute.
//!
//! Its services take only inner ones that fail with a boxed error, so it has a base of its own.

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    task::{Context, Waker},
};

use http::Uri;
use kube_client::{
    Config,
    client::{ConfigExt, middleware::AuthLayer},
    config::{AuthInfo, AuthProviderConfig},
};
use tower::{BoxError, Layer, Service};

use super::{WithError, serve};
use crate::{
    Contestant, Entry,
    common::{TOKEN_LENGTH, drive, request, token},
};

type Bare = WithError<BoxError>;

const BARE: &str = "bare, with a boxed error";

pub(super) const ENTRIES: &[Entry] = &[
    (BARE, || Contestant::new(BARE, BARE, || Box::new(|rounds| drive(&mut Bare::new(), rounds)))),
    ("kube, plug-in", || {
        let mut provider = AuthProviderConfig { name: "gcp".into(), ..Default::default() };
        provider.config.insert("access-token".into(), token(TOKEN_LENGTH));
        // It is compared with the clock, so any time to come will do.
        provider.config.insert("expiry".into(), "2999-01-01T00:00:00Z".into());
        contestant(
            "kube, plug-in",
            layer(AuthInfo { auth_provider: Some(provider), ..AuthInfo::default() }),
        )
    }),
    ("kube, token file", || {
        let path = std::env::temp_dir().join(format!("peers-token-{}", std::process::id()));
        fs::write(&path, token(TOKEN_LENGTH)).expect("a file");
        let file = Some(path.to_string_lossy().into_owned());
        let layer = layer(AuthInfo { token_file: file, ..AuthInfo::default() });
        // It keeps the token that it has when the file is gone.
        fs::remove_file(path).expect("the file");
        contestant("kube, token file", layer)
    }),
];

fn layer(auth_info: AuthInfo) -> AuthLayer {
    let mut config = Config::new(Uri::from_static("https://api.example.com"));
    config.auth_info = auth_info;
    config.auth_layer().expect("a layer").expect("a token")
}

fn contestant(name: &'static str, layer: AuthLayer) -> Contestant {
    let layer = Arc::new(layer);
    Contestant::new(name, BARE, move || {
        let mut service = layer.layer(Bare::new());
        Box::new(move |rounds| {
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..rounds {
                assert!(service.poll_ready(&mut cx).is_ready());
                let response = serve(service.call(request()));
                drop(black_box(response.expect("a response")));
            }
        })
    })
}
