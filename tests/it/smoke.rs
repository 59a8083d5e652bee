use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    OAuthClientCredentialsLayer,
    testing::{AuthorizationServer, ManualClock, ProtectedApi},
};

#[tokio::test(start_paused = true)]
async fn a_request_gets_a_token_and_a_revoked_one_is_replaced() {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let layer = OAuthClientCredentialsLayer::builder()
        .token_url(server.token_url())
        .client_id("test-client")
        .client_secret("test-secret")
        .transport(server.service())
        .clock(ManualClock::new())
        .build()
        .unwrap();
    let client = ServiceBuilder::new().layer(layer).service(api.service());
    let request =
        || Request::get("https://api.example.com/").body(Full::<Bytes>::default()).unwrap();
    let response = client.clone().oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    server.revoke_all();
    let response = client.clone().oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.issued(), 2);
    assert_eq!(api.calls(), 3);
}
