//! A gRPC client through the layer, against a gRPC server that lets in whom the real API lets in.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use tokio::net::TcpListener;
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::adapter::tonic::StatusLayer;

use crate::harness::{
    client::Http,
    stand::{Plan, Provider},
};

pub(super) async fn through_a_channel() {
    let stand = Plan::new(Provider::DjangoJson).behind_nginx().start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (_, health) = tonic_health::server::health_reporter();
    let gate = Gate { inner: health, http: stand.http(), api: stand.api_url() };
    tokio::spawn(
        Server::builder().add_service(gate).serve_with_incoming(TcpIncoming::from(listener)),
    );

    let channel = Endpoint::from_shared(endpoint).unwrap().connect_lazy();
    let stack = ServiceBuilder::new()
        .layer(StatusLayer::new())
        .layer(stand.builder().build().unwrap())
        .service(channel);
    let mut client = HealthClient::new(stack);
    for _ in 0..2 {
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    stand.server.revoke().await;
    client.check(HealthCheckRequest::default()).await.unwrap();
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status["401"]), (2, 1), "{stats:?}");
}

/// Shows the caller's token to the API before it lets the call in.
#[derive(Clone)]
struct Gate<S> {
    inner: S,
    http: Http,
    api: String,
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { inner, http, api } = self.clone();
        Box::pin(async move {
            let mut question = Request::get(api).body(Full::<Bytes>::default()).unwrap();
            if let Some(token) = request.headers().get(AUTHORIZATION) {
                question.headers_mut().insert(AUTHORIZATION, token.clone());
            }
            let answer = http.request(question).await.unwrap();
            if answer.status().is_success() {
                inner.oneshot(request).await
            } else {
                Ok(Status::unauthenticated("the API does not know this token").into_http())
            }
        })
    }
}
