//! The layer inside and outside tower's other layers.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode, header::LOCATION};
use tokio::sync::Semaphore;
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt, load_shed::error::Overloaded, retry::Policy,
    service_fn, timeout::error::Elapsed,
};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_oauth2_client_credentials::{ErrorClass, TokenError};

use crate::tap::{API, Body, Tap, get, ok, rejected, settle, token_of};

/// An API that accepts only `Bearer t2`, responds slowly if it is held, and records the requests.
#[derive(Clone)]
struct Api {
    seen: Arc<Mutex<Vec<String>>>,
    held: Arc<Semaphore>,
    takes: &'static str,
    breaks: Arc<AtomicU32>,
}

impl Api {
    fn taking(token: &'static str) -> Self {
        let held = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { seen: Arc::default(), held, takes: token, breaks: Arc::default() }
    }

    fn held() -> Self {
        Self { held: Arc::new(Semaphore::new(0)), ..Self::taking("t1") }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = std::io::Error, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let api = self.clone();
        service_fn(move |request: Request<Body>| {
            let api = api.clone();
            let token = token_of(request.headers()).unwrap_or("none").to_owned();
            let status = if token == api.takes { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            api.seen.lock().unwrap().push(token);
            async move {
                api.held.acquire().await.unwrap().forget();
                if api.breaks.load(Ordering::SeqCst) > 0 {
                    api.breaks.fetch_sub(1, Ordering::SeqCst);
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                }
                Ok(rejected(status, Body::default()))
            }
        })
    }
}

async fn call<S>(client: &S) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
    S::Error: Into<BoxError>,
{
    client.clone().oneshot(get()).await.map(|r| r.status()).map_err(Into::into)
}

/// A caller that gives up must not cancel the renewal, or the next one would start over.
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_ends_the_wait_for_a_token_and_not_the_renewal() {
    let (tap, api) = (Tap::closed(), Api::taking("t1"));
    let client = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .layer(tap.layer())
        .service(api.service());
    let error = call(&client).await.unwrap_err();
    assert!(error.downcast_ref::<Elapsed>().is_some(), "{error}");
    tap.release();
    settle().await;
    assert_eq!(call(&client).await.unwrap(), StatusCode::OK);
    assert_eq!((tap.asked(), api.seen().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_for_each_call_and_not_for_the_token() {
    let (tap, api) = (Tap::closed(), Api::taking("t2"));
    let client = ServiceBuilder::new()
        .layer(tap.layer())
        .timeout(Duration::from_secs(1))
        .service(api.service());
    let call = tokio::spawn(async move { call(&client).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    tap.release();
    assert_eq!(call.await.unwrap().unwrap(), StatusCode::OK);
    assert_eq!(api.seen(), ["t1", "t2"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_timeout_inside_keeps_its_type() {
    let api = Api::held();
    let client = ServiceBuilder::new()
        .layer(Tap::open().layer())
        .timeout(Duration::from_secs(1))
        .service(api.service());
    assert!(call(&client).await.unwrap_err().downcast_ref::<Elapsed>().is_some());
}

/// Retries once after any failure.
#[derive(Clone)]
struct Once(bool);

impl<E> Policy<Request<Body>, Response<Body>, E> for Once {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<Body>, E>,
    ) -> Option<Self::Future> {
        (result.is_err() && std::mem::take(&mut self.0)).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn a_retry_goes_inside_and_outside() {
    for outside in [false, true] {
        let (tap, api) = (Tap::open(), Api::taking("t2"));
        api.breaks.store(1, Ordering::SeqCst);
        let status = if outside {
            let stack = ServiceBuilder::new().retry(Once(true)).layer(tap.layer());
            call(&stack.service(api.service())).await
        } else {
            let stack = ServiceBuilder::new().layer(tap.layer()).retry(Once(true));
            call(&stack.service(api.service())).await
        };
        assert_eq!(status.unwrap(), StatusCode::OK);
        // Failed, rejected, replayed.
        assert_eq!(api.seen(), ["t1", "t1", "t2"], "{outside}");
        assert_eq!(tap.asked(), 2);
    }
}

#[tokio::test]
async fn a_buffer_goes_inside_and_outside() {
    for outside in [false, true] {
        let (tap, api) = (Tap::closed(), Api::taking("t2"));
        let stack = ServiceBuilder::new();
        let run = async {
            let calls = if outside {
                let client = stack.buffer(4).layer(tap.layer()).service(api.service());
                (0..3).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect::<Vec<_>>()
            } else {
                let client = stack.layer(tap.layer()).buffer(4).service(api.service());
                (0..3).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect()
            };
            settle().await;
            tap.release();
            for call in calls {
                assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
            }
        };
        run.await;
        assert_eq!(api.seen(), ["t1", "t1", "t1", "t2", "t2", "t2"], "{outside}");
        assert_eq!(tap.asked(), 2);
    }
}

#[tokio::test]
async fn a_limit_of_one_goes_inside_and_outside() {
    for outside in [false, true] {
        let (tap, api) = (Tap::open(), Api::taking("t2"));
        let stack = ServiceBuilder::new();
        let calls = if outside {
            let client = stack.concurrency_limit(1).layer(tap.layer()).service(api.service());
            (0..5).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect::<Vec<_>>()
        } else {
            let client = stack.layer(tap.layer()).concurrency_limit(1).service(api.service());
            (0..5).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect()
        };
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert_eq!(tap.asked(), 2, "{outside}");
    }
}

/// A permit that is held while waiting for a token causes a false overload.
#[tokio::test]
async fn calls_that_wait_for_a_token_are_no_load_to_be_shed() {
    for outside in [false, true] {
        let (tap, api) = (Tap::closed(), Api::taking("t1"));
        let stack = ServiceBuilder::new();
        let calls = if outside {
            let client =
                stack.load_shed().layer(tap.layer()).concurrency_limit(1).service(api.service());
            (0..2).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect::<Vec<_>>()
        } else {
            let client =
                stack.layer(tap.layer()).load_shed().concurrency_limit(1).service(api.service());
            (0..2).map(|_| tokio::spawn(client.clone().oneshot(get()))).collect()
        };
        settle().await;
        tap.release();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK, "{outside}");
        }
    }
}

#[tokio::test]
async fn an_overload_inside_keeps_its_type() {
    let (tap, api) = (Tap::open(), Api::held());
    let layer = tap.layer();
    layer.cache().token().await.unwrap();
    let client =
        ServiceBuilder::new().layer(layer).load_shed().concurrency_limit(1).service(api.service());
    let first = tokio::spawn(client.clone().oneshot(get()));
    settle().await;
    let error = call(&client).await.unwrap_err();
    assert!(error.downcast_ref::<Overloaded>().is_some(), "{error}");
    api.held.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
}

// Redirects

/// Redirects `/v1` of the API to `to`. Records which host saw which token.
fn redirecting(
    to: &'static str,
    seen: &Arc<Mutex<Vec<(String, String)>>>,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send {
    let seen = Arc::clone(seen);
    service_fn(move |request: Request<Body>| {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let token = token_of(request.headers()).unwrap_or("none").to_owned();
        seen.lock().unwrap().push((host, token));
        let mut response = ok::<Body>();
        if request.uri() == API {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(LOCATION, to.parse().unwrap());
        }
        async move { Ok::<_, Infallible>(response) }
    })
}

const ELSEWHERE: &str = "https://elsewhere.example/";

/// Inside, the redirect layer removes the token; outside, every hop passes the layer.
#[tokio::test]
async fn a_redirect_to_another_origin_carries_no_token() {
    let elsewhere = |token: &str| {
        [
            ("api.example.com".to_owned(), "t1".to_owned()),
            ("elsewhere.example".into(), token.into()),
        ]
    };

    let seen = Arc::default();
    let client = ServiceBuilder::new()
        .layer(Tap::open().layer())
        .layer(FollowRedirectLayer::new())
        .service(redirecting(ELSEWHERE, &seen));
    assert_eq!(call(&client).await.unwrap(), StatusCode::OK);
    assert_eq!(*seen.lock().unwrap(), elsewhere("none"), "inside");

    let seen = Arc::default();
    let builder = Tap::open().builder().allowed_origin("https://api.example.com");
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(builder.build().unwrap())
        .service(redirecting(ELSEWHERE, &seen));
    let error = call(&client).await.unwrap_err();
    let error = error.downcast_ref::<TokenError>().unwrap();
    assert_eq!(error.class(), ErrorClass::Origin);
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
    assert_eq!(*seen.lock().unwrap(), elsewhere("")[..1], "outside");

    let seen = Arc::default();
    let builder = Tap::open()
        .builder()
        .allowed_origin("https://api.example.com")
        .pass_other_origins_without_token();
    let client = ServiceBuilder::new()
        .layer(FollowRedirectLayer::new())
        .layer(builder.build().unwrap())
        .service(redirecting(ELSEWHERE, &seen));
    assert_eq!(call(&client).await.unwrap(), StatusCode::OK);
    assert_eq!(*seen.lock().unwrap(), elsewhere("none"), "outside, passing");
}

#[tokio::test]
async fn a_redirect_within_the_origin_carries_the_token() {
    for outside in [false, true] {
        let seen = Arc::default();
        let api = redirecting("https://api.example.com/v2", &seen);
        let stack = ServiceBuilder::new();
        let status = if outside {
            let stack = stack.layer(FollowRedirectLayer::new()).layer(Tap::open().layer());
            call(&stack.service(api)).await
        } else {
            let stack = stack.layer(Tap::open().layer()).layer(FollowRedirectLayer::new());
            call(&stack.service(api)).await
        };
        assert_eq!(status.unwrap(), StatusCode::OK);
        let expected = ("api.example.com".to_owned(), "t1".to_owned());
        assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected], "{outside}");
    }
}
