//! Uploads that are answered before they are read completely.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    BoxError, NotReplaced, OAuthClientCredentialsLayer, testing::AuthorizationServer,
};

use super::{http1, http2, layer, limited};

type Upload = UnsyncBoxBody<Bytes, BoxError>;

/// Starts an API that answers 401 to `stale` after it has read `reads` bytes of the body, continues
/// to read, and records the total.
#[derive(Clone)]
struct HastyApi {
    stale: String,
    reads: usize,
    uploads: Arc<Mutex<Vec<usize>>>,
}

impl HastyApi {
    async fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let api = self.clone();
                let service = service_fn(move |request| api.clone().answer(request));
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        addr
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let stale = request.headers()["authorization"] == self.stale;
        let mut body = request.into_body();
        let mut read = 0;
        while read < self.reads {
            let Some(Ok(frame)) = body.frame().await else { break };
            read += frame.data_ref().map_or(0, Bytes::len);
        }
        let rest = async move {
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return };
                read += frame.data_ref().map_or(0, Bytes::len);
            }
            self.uploads.lock().unwrap().push(read);
        };
        let mut response = Response::new(Full::default());
        if stale {
            tokio::spawn(rest);
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        } else {
            rest.await;
        }
        Ok(response)
    }
}

struct Uploading {
    layer: OAuthClientCredentialsLayer,
    server: AuthorizationServer,
    uploads: Arc<Mutex<Vec<usize>>>,
    url: String,
}

impl Uploading {
    /// Uploads to an API that rejects the cached token after it has read this many bytes.
    async fn rejected_after(reads: usize) -> Self {
        let server = AuthorizationServer::new();
        let layer = layer(&server);
        let stale = layer.cache().token().await.unwrap();
        let stale = stale.header().to_str().unwrap().to_owned();
        let uploads = Arc::<Mutex<Vec<usize>>>::default();
        let api = HastyApi { stale, reads, uploads: Arc::clone(&uploads) };
        let url = format!("http://{}/", api.serve().await);
        Self { layer, server, uploads, url }
    }

    fn request(&self, body: Upload) -> Request<Upload> {
        Request::put(&self.url).body(body).unwrap()
    }

    /// Waits until the API has read `count` bodies to their end, and returns their lengths.
    async fn uploaded(&self, count: usize) -> Vec<usize> {
        loop {
            let uploads = self.uploads.lock().unwrap().clone();
            if uploads.len() >= count {
                return uploads;
            }
            tokio::task::yield_now().await;
        }
    }
}

const CHUNK: usize = 16 * 1024;

/// Guards against an upload that is cut short, or replayed without its beginning, because the
/// response came first.
#[tokio::test]
async fn an_upload_past_the_limit_streams_on_after_its_401_and_the_next_call_works() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(256 * 1024).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            let call = client.clone().oneshot(uploading.request(body.boxed_unsync()));
            let upload = tokio::spawn(async move {
                for _ in 0..256 {
                    sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
                }
            });
            let response = call.await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let why = response.extensions().get::<NotReplaced>().unwrap();
            assert!(why.is_not_replayable(), "{why}");
            upload.await.unwrap();
            assert_eq!(uploading.uploaded(1).await, [256 * CHUNK]);

            let short = Full::from("short").map_err(|never| match never {}).boxed_unsync();
            let response = client.oneshot(uploading.request(short)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(uploading.uploaded(2).await, [256 * CHUNK, 5]);
            assert_eq!(uploading.server.issued(), 2);
        }
    })
    .await;
}

/// Guards against a call that hangs, and against a replay of only the part that has been sent.
#[tokio::test]
async fn an_upload_that_is_still_open_at_its_401_is_not_sent_again() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(CHUNK).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            let call = client.clone().oneshot(uploading.request(body.boxed_unsync()));
            let call = tokio::spawn(call);
            sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
            let response = call.await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let why = response.extensions().get::<NotReplaced>().unwrap();
            assert!(why.is_not_replayable(), "{why}");
            sender.send_data("rest".into()).await.unwrap();
            drop(sender);
            assert_eq!(uploading.uploaded(1).await, [CHUNK + 4]);
        }
    })
    .await;
}

/// Guards against a streamed upload that is replayed empty or in part.
#[tokio::test]
async fn an_upload_that_has_ended_below_the_limit_is_sent_again_whole() {
    limited(async {
        for client in [http1(), http2()] {
            let uploading = Uploading::rejected_after(usize::MAX).await;
            let client = uploading.layer.layer(client);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(4);
            for _ in 0..3 {
                sender.send_data(vec![b'u'; CHUNK].into()).await.unwrap();
            }
            drop(sender);
            let response = client.oneshot(uploading.request(body.boxed_unsync())).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(uploading.uploaded(2).await, [3 * CHUNK; 2]);
        }
    })
    .await;
}
