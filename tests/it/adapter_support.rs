//! An authorization server and an API on real sockets, and a layer that is configured for them.

use tower_oauth2_client_credentials::{
    Builder, OAuthClientCredentialsLayer,
    testing::{AuthorizationServer, ProtectedApi, RunningServer},
};

pub(crate) struct World {
    pub(crate) server: AuthorizationServer,
    pub(crate) api: ProtectedApi,
    pub(crate) token_endpoint: RunningServer,
    pub(crate) running: RunningServer,
}

impl World {
    pub(crate) async fn new() -> Self {
        let server = AuthorizationServer::new();
        let api = ProtectedApi::new(&server);
        let token_endpoint = server.serve().await.unwrap();
        let running = api.serve().await.unwrap();
        Self { server, api, token_endpoint, running }
    }

    pub(crate) fn builder(&self) -> Builder {
        OAuthClientCredentialsLayer::builder()
            .token_url(self.token_endpoint.url(self.server.token_path()))
            .client_id("test-client")
            .client_secret("test-secret")
    }

    pub(crate) fn layer(&self) -> OAuthClientCredentialsLayer {
        self.builder().build().unwrap()
    }

    /// Returns the numbers of the tokens that the API has seen, in order.
    pub(crate) fn tokens(&self) -> Vec<Option<u64>> {
        self.api.journal().iter().map(|call| call.token_number()).collect()
    }
}

/// A body that sends some bytes, and then fails.
#[cfg(any(feature = "reqwest", feature = "axum"))]
pub(crate) fn failing_stream()
-> impl http_body::Body<Data = bytes::Bytes, Error = std::io::Error> + Send + Sync + 'static {
    let frames = [
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"first half"))),
        Err(std::io::Error::other("the disk is gone")),
    ];
    http_body_util::StreamBody::new(tokio_stream::iter(frames))
}
