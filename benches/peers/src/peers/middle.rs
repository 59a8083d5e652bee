//! `middle`'s authorizer. Its wrapper of a client is for a `reqwest::Client` alone, which opens
//! sockets and takes no service below it. What is measured is what that wrapper does to a request
//! before it hands it to reqwest: the body of `HttpClient::execute`.

use std::sync::Arc;

use http::header;
use middle::{Authorizer, BasicClientCredentialAuthorizer};
use tower::Service;

use super::{authorization_server, install_cryptography, runtime};
use crate::{
    Contestant, Entry,
    common::{Inner, finish, request},
};

pub(super) const ENTRIES: &[Entry] = &[("middle", || {
    install_cryptography();
    let runtime = runtime();
    let authorizer = runtime.block_on(async {
        let url = authorization_server::start().parse().expect("a URL");
        BasicClientCredentialAuthorizer::basic_builder("client", "secret", url)
            .build()
            .await
            .expect("a token")
    });
    Contestant::new("middle", "bare", move || {
        let (runtime, authorizer) = (Arc::clone(&runtime), authorizer.clone());
        Box::new(move |rounds| {
            // Its task of renewal is the runtime's.
            let _context = runtime.enter();
            for _ in 0..rounds {
                let mut request = request();
                let header = authorizer.authorization_header().expect("a token");
                if !request.headers().contains_key(header::AUTHORIZATION) {
                    let header = Arc::unwrap_or_clone(header);
                    request.headers_mut().insert(header::AUTHORIZATION, header);
                }
                finish(Inner.call(request));
            }
        })
    })
})];
