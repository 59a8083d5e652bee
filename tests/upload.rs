//! What a streaming upload costs in memory when it gets a 401. A binary of its own: it counts every
//! allocation of the process.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::System,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicIsize, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{Builder, NotReplaced, TokenCache, TokenResponse, source_fn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAME: usize = 16 * 1024;
const FRAMES: usize = 640;
const LIMIT: usize = 64 * 1024;

fn in_use() -> isize {
    let stats = ALLOCATOR.stats();
    let bytes = |count: usize| isize::try_from(count).unwrap();
    bytes(stats.bytes_allocated) - bytes(stats.bytes_deallocated)
}

/// 10 MiB, made frame by frame.
fn upload() -> UnsyncBoxBody<Bytes, Infallible> {
    let frames = (0..FRAMES).map(|_| Ok(Frame::data(Bytes::from(vec![7; FRAME]))));
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

// An upload was kept whole, in case the API should answer 401.
#[tokio::test]
async fn ten_mebibytes_that_get_a_401_hold_no_more_than_the_limit() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let cache = TokenCache::new(source_fn(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok(TokenResponse::bearer(format!("t{number}"))?.expires_in(Duration::from_secs(3600)))
        }
    }));
    cache.token().await.unwrap();
    let (most, passed) = (Arc::new(AtomicIsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, read) = (Arc::clone(&most), Arc::clone(&passed));
    let before = Arc::new(AtomicIsize::new(0));
    let start = Arc::clone(&before);
    let client = ServiceBuilder::new()
        .layer(Builder::from_cache(cache.clone()).replay_limit(LIMIT).build().unwrap())
        .service_fn(move |request: Request<UnsyncBoxBody<Bytes, Infallible>>| {
            let (seen, read, start) = (Arc::clone(&seen), Arc::clone(&read), Arc::clone(&start));
            async move {
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    let data = frame?.into_data().unwrap_or_default();
                    read.fetch_add(data.len(), Ordering::SeqCst);
                    let held = in_use() - start.load(Ordering::SeqCst);
                    seen.fetch_max(held, Ordering::SeqCst);
                }
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                Ok::<_, Infallible>(response)
            }
        });
    before.store(in_use(), Ordering::SeqCst);
    let request = Request::post("https://api.example.com/").body(upload()).unwrap();
    let response = client.oneshot(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
    assert_eq!(passed.load(Ordering::SeqCst), FRAMES * FRAME, "sent once, and whole");
    // The frame that is being read, what is kept, and some change for futures and boxes.
    let limit = isize::try_from(LIMIT + FRAME + 8 * 1024).unwrap();
    let most = most.load(Ordering::SeqCst);
    assert!(most <= limit, "{most} bytes held, at most {limit}");
    // It is not sent again, and yet the next call has a newer token.
    while asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
}
