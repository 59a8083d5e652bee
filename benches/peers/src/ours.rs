//! This crate, the bare service, and what tower has.

use tower::Layer;
use tower_http::auth::AddAuthorizationLayer;

use crate::{
    Contestant, Entry,
    common::{Inner, TOKEN_LENGTH, drive, drive_clones, layer, retry, token, warm},
};

pub const ENTRIES: &[Entry] = &[
    ("bare", || Contestant::new("bare", "bare", || Box::new(|rounds| drive(&mut Inner, rounds)))),
    ("bare, a clone per request", || {
        const NAME: &str = "bare, a clone per request";
        Contestant::new(NAME, NAME, || Box::new(|rounds| drive_clones(&Inner, rounds)))
    }),
    ("AddAuthorization", || {
        let layer = AddAuthorizationLayer::bearer(&token(TOKEN_LENGTH));
        Contestant::new("AddAuthorization", "bare", move || {
            let mut service = layer.layer(Inner);
            Box::new(move |rounds| drive(&mut service, rounds))
        })
    }),
    ("never_replay", || {
        let layer = layer().never_replay();
        Contestant::new("never_replay", "bare", move || {
            let mut service = warm(layer.layer(Inner));
            Box::new(move |rounds| drive(&mut service, rounds))
        })
    }),
    ("Retry", || {
        let service = retry();
        Contestant::new("Retry", "bare", move || {
            let mut service = service.clone();
            Box::new(move |rounds| drive(&mut service, rounds))
        })
    }),
    ("replay", || {
        let layer = layer();
        Contestant::new("replay", "bare", move || {
            let mut service = warm(layer.layer(Inner));
            Box::new(move |rounds| drive(&mut service, rounds))
        })
    }),
    ("replay, a clone per request", || {
        let layer = layer();
        Contestant::new("replay, a clone per request", "bare, a clone per request", move || {
            let service = warm(layer.layer(Inner));
            Box::new(move |rounds| drive_clones(&service, rounds))
        })
    }),
];
