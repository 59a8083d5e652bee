//! `aliri_tokens`' watcher. It hands out tokens and knows no requests: the header is made as its
//! users make it, from the borrowed token.

use std::sync::Arc;

use aliri_clock::DurationSecs;
use aliri_tokens::{
    AccessToken, TokenWatcher, backoff::ErrorBackoffConfig, jitter::NullJitter,
    sources::ConstTokenSource,
};
use http::{HeaderValue, header};
use tower::Service;

use super::{DAY, runtime};
use crate::{
    Contestant, Entry,
    common::{Inner, TOKEN_LENGTH, finish, request, token},
};

pub(super) const ENTRIES: &[Entry] = &[("aliri_tokens + format!", || {
    let runtime = runtime();
    let watcher = runtime.block_on(async {
        let source = ConstTokenSource::new(AccessToken::from(token(TOKEN_LENGTH)))
            .with_token_valid_for(DurationSecs(DAY));
        TokenWatcher::spawn_from_token_source(source, NullJitter, ErrorBackoffConfig::default())
            .await
            .expect("a token")
    });
    Contestant::new("aliri_tokens + format!", "bare", move || {
        let (runtime, watcher) = (Arc::clone(&runtime), watcher.clone());
        Box::new(move |rounds| {
            // Its task of renewal is the runtime's.
            let _context = runtime.enter();
            for _ in 0..rounds {
                let mut request = request();
                let header = format!("Bearer {}", watcher.token().access_token().as_str());
                let header = HeaderValue::try_from(header).expect("a header");
                request.headers_mut().insert(header::AUTHORIZATION, header);
                finish(Inner.call(request));
            }
        })
    })
})];
