//! Connections after a 401 that is replayed, and after one that is returned to the caller.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{Layer, ServiceBuilder, ServiceExt, util::MapResponseLayer};
use tower_oauth2_client_credentials::{
    NotReplaced,
    testing::{Answer, AuthorizationServer, ProtectedApi},
};

use super::{get, http1, layer, limited};

/// The bytes read from the bodies of rejected responses.
#[derive(Clone, Default)]
struct Drained {
    bodies: Arc<AtomicUsize>,
    /// The most bytes read from one body, without the last frame.
    most: Arc<AtomicUsize>,
}

/// A response body that counts the bytes read from it.
struct Counted<B> {
    body: B,
    read: usize,
    last_frame: usize,
    drained: Option<Drained>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.last_frame = frame.data_ref().map_or(0, Buf::remaining);
            self.read += self.last_frame;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if let Some(drained) = &self.drained {
            drained.bodies.fetch_add(1, Ordering::Relaxed);
            drained.most.fetch_max(self.read - self.last_frame, Ordering::Relaxed);
        }
    }
}

impl Drained {
    fn counted<B>(&self, response: Response<B>) -> Response<Counted<B>> {
        let rejected = response.status() == StatusCode::UNAUTHORIZED;
        let drained = rejected.then(|| self.clone());
        response.map(|body| Counted { body, read: 0, last_frame: 0, drained })
    }
}

/// Makes a thousand sequential calls over HTTP/1.1, each first answered by a 401 with `len` bytes
/// and then replayed. Returns how many connections were opened, the maximum number of open ones,
/// and the bytes drained.
async fn a_thousand_cures(len: usize) -> (usize, usize, Drained) {
    let server = AuthorizationServer::new();
    let api = ProtectedApi::new(&server);
    let running = api.serve().await.unwrap();
    let drained = Drained::default();
    let counting = drained.clone();
    let client = ServiceBuilder::new()
        .layer(MapResponseLayer::new(move |response| counting.counted(response)))
        .service(http1::<Full<Bytes>>());
    let mut most_open = 0;
    for _ in 0..1_000 {
        // A new cache each time: a single one would not allow a thousand forced renewals in a row.
        api.respond_once(Answer::status(StatusCode::UNAUTHORIZED).with_body_of(len));
        let response = layer(&server).layer(client.clone()).oneshot(get(&running.url("/"))).await;
        let response = response.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
        most_open = most_open.max(running.open_connections());
    }
    assert_eq!((server.issued(), api.calls()), (2_000, 2_000));
    assert_eq!(drained.bodies.load(Ordering::Relaxed), 1_000);
    (running.connections(), most_open, drained)
}

/// Guards against connections that pile up because a rejected response is dropped unread or kept,
/// and against reading a megabyte for nothing.
#[tokio::test]
async fn after_a_401_with_a_megabyte_it_is_not_read_to_its_end_and_no_connection_is_left_open() {
    limited(async {
        let (_, most_open, drained) = a_thousand_cures(1 << 20).await;
        assert!(most_open <= 16, "{most_open} connections at a time");
        // The client has already read the frame that exceeds the limit.
        let most = drained.most.load(Ordering::Relaxed);
        assert!(most < 64 * 1024, "{most} bytes of a rejected response were read, and one frame");
    })
    .await;
}

/// Guards against losing a connection with each replay because the rejected response is dropped
/// unread.
#[tokio::test]
async fn after_a_401_with_a_body_of_moderate_length_the_connection_is_used_again() {
    limited(async {
        let (connections, _, _) = a_thousand_cures(256 * 1024).await;
        assert!(connections <= 16, "{connections} connections for 2,000 requests in a row");
    })
    .await;
}

/// Guards against an API that answers every request with 401 and costs a connection per call.
#[tokio::test]
async fn a_401_that_stands_keeps_its_body_and_its_connection() {
    limited(async {
        let server = AuthorizationServer::new();
        let api = ProtectedApi::new(&server);
        api.reject_everything();
        api.reject_with(Answer::status(StatusCode::UNAUTHORIZED).with_body_of(1 << 20));
        let running = api.serve().await.unwrap();
        let client = layer(&server).layer(http1());
        for _ in 0..1_000 {
            let response = client.clone().oneshot(get(&running.url("/"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert!(response.extensions().get::<NotReplaced>().is_some());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), 1 << 20, "the 401 is whole");
        }
        assert!(running.connections() <= 16, "{} connections", running.connections());
        assert!(api.calls() <= 1_010 && server.issued() <= 10, "{api:?} {server:?}");
    })
    .await;
}

/// Accepts one connection after another, reads the head of one request from each, sends the
/// response of `answer`, and closes the connection.
async fn closing_api(answer: impl Fn(&str) -> &'static str + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = answer(&String::from_utf8(head).unwrap());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    addr
}

/// Guards against a replay on the connection that the 401 has closed, and against a body that
/// breaks off and counts as a failure of the call.
#[tokio::test]
async fn an_api_that_closes_the_connection_with_its_401_is_called_on_another_one() {
    limited(async {
        for rejection in [
            "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbye!",
            "HTTP/1.1 401 Unauthorized\r\n\r\nuntil the connection is closed",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 4000\r\n\r\nbye!",
            "HTTP/1.1 401 Unauthorized\r\ntransfer-encoding: chunked\r\n\r\n400\r\nbye!",
            "HTTP/1.0 401 Unauthorized\r\n\r\n",
        ] {
            let server = AuthorizationServer::new();
            let layer = layer(&server);
            let first = layer.cache().token().await.unwrap();
            let first = first.header().to_str().unwrap().to_owned();
            let addr = closing_api(move |head| {
                if head.contains(&first) {
                    rejection
                } else {
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
                }
            })
            .await;
            let client = layer.layer(http1());
            let response = client.oneshot(get(&format!("http://{addr}/"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{rejection:?}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
            assert_eq!(server.issued(), 2, "{rejection:?}");
        }
    })
    .await;
}
