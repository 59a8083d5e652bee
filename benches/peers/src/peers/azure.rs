//! azure's `BearerTokenAuthorizationPolicy`. It takes only azure's own requests and transports: the
//! same request is built as one of those, and the base is the transport alone.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    http::{
        AsyncRawResponse, Context, Method, Request, StatusCode, Url,
        headers::{HeaderName, Headers},
        policies::{Policy, PolicyResult, auth::BearerTokenAuthorizationPolicy},
    },
};
use bytes::Bytes;

use super::{DAY, serve};
use crate::{
    Contestant, Entry, Worker,
    common::{TOKEN_LENGTH, token},
};

const BARE: &str = "bare, azure's transport";

pub(super) const ENTRIES: &[Entry] = &[
    (BARE, || Contestant::new(BARE, BARE, || worker(Arc::new(Transport), Vec::new()))),
    ("azure, bearer policy", || {
        let policy: Arc<dyn Policy> = Arc::new(BearerTokenAuthorizationPolicy::new(
            Arc::new(Credential),
            ["https://api.example.com/.default"],
        ));
        // So that all workers find the token.
        worker(Arc::clone(&policy), vec![Arc::new(Transport)])(1);
        Contestant::new("azure, bearer policy", BARE, move || {
            worker(Arc::clone(&policy), vec![Arc::new(Transport)])
        })
    }),
];

fn worker(first: Arc<dyn Policy>, next: Vec<Arc<dyn Policy>>) -> Worker {
    let context = Context::new();
    let url: Url = "https://api.example.com/v1/reports".parse().expect("a URL");
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let mut request = request(url.clone());
            let response = serve(first.send(&context, &mut request, &next));
            drop(black_box(response.expect("a response")));
            drop(black_box(request));
        }
    })
}

/// `common::request`, as one of azure's.
fn request(url: Url) -> Request {
    let mut request = Request::new(url, Method::Post);
    request.set_body(Bytes::from_static(b"{\"report\":1}"));
    for (name, value) in [
        ("host", "api.example.com"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json"),
        ("user-agent", "reports/1.0"),
    ] {
        request.insert_header(HeaderName::from_static(name), value);
    }
    for (name, value) in
        [("x-request-id", "7f3c1a"), ("traceparent", "00-4bf92f3577b34da6"), ("x-tenant", "acme")]
    {
        request.insert_header(HeaderName::from_static(name), value.to_owned());
    }
    black_box(request)
}

/// Answers at once.
#[derive(Debug)]
struct Transport;

#[async_trait]
impl Policy for Transport {
    async fn send(
        &self,
        _: &Context,
        request: &mut Request,
        _: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        black_box(request);
        Ok(AsyncRawResponse::from_bytes(StatusCode::Ok, Headers::new(), Bytes::new()))
    }
}

/// The policy keeps what it gets: this is asked once.
#[derive(Debug)]
struct Credential;

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let expiry = SystemTime::now() + Duration::from_secs(DAY);
        Ok(AccessToken::new(token(TOKEN_LENGTH), expiry.into()))
    }
}
