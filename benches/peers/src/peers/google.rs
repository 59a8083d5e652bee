//! `google-cloud-auth`: `Credentials::headers`, and what its clients do with it, which is to put
//! the headers on the request. It has no grant of client credentials; a refresh token's serves as
//! well, since a hit does not ask for one.

use std::{hint::black_box, sync::Arc};

use google_cloud_auth::credentials::{CacheableResource, user_account};
use http::Extensions;
use serde_json::json;
use tower::Service;

use super::{authorization_server, install_cryptography, runtime, serve};
use crate::{
    Contestant, Entry,
    common::{Inner, request},
};

pub(super) const ENTRIES: &[Entry] = &[("google, headers() + extend", || {
    install_cryptography();
    let runtime = runtime();
    let credentials = runtime.block_on(async {
        let user = json!({
            "type": "authorized_user",
            "client_id": "client",
            "client_secret": "secret",
            "refresh_token": "refresh",
        });
        let credentials = user_account::Builder::new(user)
            .with_token_uri(authorization_server::start())
            .build()
            .expect("credentials");
        credentials.headers(Extensions::new()).await.expect("a token");
        credentials
    });
    Contestant::new("google, headers() + extend", "bare", move || {
        let (runtime, credentials) = (Arc::clone(&runtime), credentials.clone());
        Box::new(move |rounds| {
            let _context = runtime.enter();
            for _ in 0..rounds {
                let mut request = request();
                let response = serve(async {
                    match credentials.headers(Extensions::new()).await.expect("headers") {
                        CacheableResource::New { data, .. } => request.headers_mut().extend(data),
                        CacheableResource::NotModified => panic!("there was no tag to compare"),
                    }
                    Inner.call(request).await
                });
                drop(black_box(response));
            }
        })
    })
})];
