use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codegen::BoxFuture,
    server::{ClientStreamingService, NamedService},
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceBuilder};
use tower_oauth2_client_credentials::{
    OAuthClientCredentials, OAuthClientCredentialsLayer, TokenError,
    adapter::tonic::{StatusLayer, StatusService, TokenInterceptor},
    testing::{Answer, AuthorizationServer},
};

use crate::adapter_support::World;

type Client = StatusService<OAuthClientCredentials<Channel>>;

/// A gRPC server that checks tokens, with a health service and a service that counts a stream of
/// messages.
#[derive(Clone)]
struct Grpc {
    server: AuthorizationServer,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    revoked: HashSet<String>,
    refuse_with_401: bool,
    admitted: Vec<bool>,
}

impl Grpc {
    async fn start(world: &World) -> (Self, Channel) {
        let grpc = Self { server: world.server.clone(), state: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (_, health) = tonic_health::server::health_reporter();
        let health = Gated { grpc: grpc.clone(), inner: health };
        let count = Gated { grpc: grpc.clone(), inner: Count };
        let server = Server::builder().add_service(health).add_service(count);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (grpc, Endpoint::from_shared(endpoint).unwrap().connect_lazy())
    }

    fn revoke(&self) {
        self.state.lock().unwrap().revoked.extend(self.server.last_token());
    }

    /// Whether the token of each call was accepted.
    fn admitted(&self) -> Vec<bool> {
        self.state.lock().unwrap().admitted.clone()
    }

    fn refusal<B>(&self, request: &http::Request<B>) -> Option<http::Response<Body>> {
        let mut state = self.state.lock().unwrap();
        let line = request.headers().get("authorization").and_then(|line| line.to_str().ok());
        let token = line.and_then(|line| line.strip_prefix("Bearer ")).map(str::to_owned);
        let admitted = token.is_some_and(|token| !state.revoked.contains(&token));
        state.admitted.push(admitted);
        if admitted {
            None
        } else if state.refuse_with_401 {
            Some(http::Response::builder().status(401).body(Body::empty()).unwrap())
        } else {
            Some(Status::unauthenticated("who are you?").into_http())
        }
    }
}

#[derive(Clone)]
struct Gated<S> {
    grpc: Grpc,
    inner: S,
}

impl<S: NamedService> NamedService for Gated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.grpc.refusal(&request) {
            Some(refusal) => Box::pin(std::future::ready(Ok(refusal))),
            None => Box::pin(self.inner.call(request)),
        }
    }
}

#[derive(Clone)]
struct Count;

impl NamedService for Count {
    const NAME: &'static str = "test.Count";
}

impl Service<http::Request<Body>> for Count {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Ok(tonic::server::Grpc::new(codec).client_streaming(Self, request).await)
        })
    }
}

impl ClientStreamingService<HealthCheckRequest> for Count {
    type Response = HealthCheckResponse;
    type Future = BoxFuture<Response<HealthCheckResponse>, Status>;

    fn call(&mut self, request: Request<Streaming<HealthCheckRequest>>) -> Self::Future {
        Box::pin(async move {
            let (mut messages, mut status) = (request.into_inner(), 0);
            while messages.message().await?.is_some() {
                status += 1;
            }
            Ok(Response::new(HealthCheckResponse { status }))
        })
    }
}

fn client(layer: &OAuthClientCredentialsLayer, channel: Channel) -> Client {
    ServiceBuilder::new().layer(StatusLayer::new()).layer(layer).service(channel)
}

async fn check(client: &Client) -> Result<i32, Status> {
    let answer = HealthClient::new(client.clone()).check(HealthCheckRequest::default()).await?;
    Ok(answer.into_inner().status)
}

/// Returns how many messages the server has counted.
async fn count(
    client: &Client,
    messages: impl Stream<Item = HealthCheckRequest> + Send + 'static,
) -> Result<i32, Status> {
    let mut client = tonic::client::Grpc::new(client.clone());
    client.ready().await.map_err(Status::from_error)?;
    let path = PathAndQuery::from_static("/test.Count/Count");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client.client_streaming(Request::new(messages), path, codec).await?;
    Ok(answer.into_inner().status)
}

#[tokio::test]
async fn a_unary_call_is_replayed_on_unauthenticated_in_either_form() {
    let world = World::new().await;
    let (grpc, channel) = Grpc::start(&world).await;
    let client = client(&world.layer(), channel);
    assert_eq!(check(&client).await.unwrap(), 1);
    for refuse_with_401 in [false, true] {
        grpc.state.lock().unwrap().refuse_with_401 = refuse_with_401;
        grpc.revoke();
        assert_eq!(check(&client).await.unwrap(), 1);
    }
    assert_eq!(grpc.admitted(), [true, false, true, false, true]);
    assert_eq!(world.server.issued(), 3);
    // Server streaming: a stream of responses to one message.
    grpc.revoke();
    let watch = HealthClient::new(client).watch(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(watch.into_inner().message().await.unwrap().unwrap().status, 1);
    assert_eq!((grpc.admitted().len(), world.server.issued()), (7, 4));
}

#[tokio::test]
async fn a_stream_of_requests_is_not_replayed_and_the_next_call_works() {
    let world = World::new().await;
    let (grpc, channel) = Grpc::start(&world).await;
    let layer = world.layer();
    let client = client(&layer, channel);
    let three = || tokio_stream::iter(vec![HealthCheckRequest { service: "x".into() }; 3]);
    assert_eq!(count(&client, three()).await.unwrap(), 3);

    grpc.revoke();
    assert_eq!(count(&client, three()).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(grpc.admitted(), [true, false]);
    // The server has rejected the token: the renewal is in flight or complete.
    while layer.cache().issued() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&client, three()).await.unwrap(), 3);

    // A stream that is open when the rejection arrives.
    grpc.revoke();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(HealthCheckRequest::default()).await.unwrap();
    let open = tokio_stream::wrappers::ReceiverStream::new(receiver);
    assert_eq!(count(&client, open).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(grpc.admitted(), [true, false, true, false]);
    drop(sender);
}

#[tokio::test]
async fn a_failure_to_get_a_token_arrives_as_a_status() {
    let world = World::new().await;
    let (grpc, channel) = Grpc::start(&world).await;
    let new = || client(&world.layer(), channel.clone());
    world.server.respond_once(Answer::too_many_requests("60"));
    let throttled = check(&new()).await.unwrap_err();
    world.server.change_secret("test-client", "another");
    let refused = check(&new()).await.unwrap_err();
    assert_eq!(throttled.code(), Code::Unavailable);
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.message(), "no access token (credentials)");
    let source = std::error::Error::source(&refused).unwrap();
    assert_eq!(source.downcast_ref::<TokenError>().unwrap().oauth_error(), Some("invalid_client"));

    let mut elsewhere =
        HealthClient::with_origin(new(), http::Uri::from_static("http://example.com"));
    let forbidden = elsewhere.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(forbidden.code(), Code::FailedPrecondition);
    assert!(grpc.admitted().is_empty());
}

/// tonic converts the channel's own errors.
#[tokio::test]
async fn an_error_of_the_channel_is_passed_on() {
    let world = World::new().await;
    let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let error = check(&client(&world.layer(), nowhere)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("onnect") || error.message().contains("transport"), "{error}");
}

#[tokio::test]
async fn an_interceptor_reads_the_cache_that_the_layer_shares() {
    let world = World::new().await;
    let (grpc, channel) = Grpc::start(&world).await;
    let cache = world.layer().cache();
    let interceptor = TokenInterceptor::new(cache.clone());
    let mut client = HealthClient::with_interceptor(channel, interceptor);
    let empty = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!((empty.code(), grpc.admitted().len()), (Code::Unavailable, 0));
    // This call has started the renewal.
    while cache.issued() < 1 {
        tokio::task::yield_now().await;
    }
    client.check(HealthCheckRequest::default()).await.unwrap();
    let mut own = Request::new(HealthCheckRequest::default());
    own.metadata_mut().insert("authorization", "Bearer mine".parse().unwrap());
    client.check(own).await.unwrap();
    assert_eq!((grpc.admitted(), world.server.requests()), (vec![true, true], 1));
}
