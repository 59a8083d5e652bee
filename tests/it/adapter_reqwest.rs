use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use reqwest::Body;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_oauth2_client_credentials::{
    NotReplaced, OAuthClientCredentials, OAuthClientCredentialsLayer, TokenError,
    adapter::reqwest::{ReqwestService, ReqwestTransport},
    endpoint::Transport,
    testing::Answer,
};

use crate::adapter_support::{World, failing_stream};

type Client = OAuthClientCredentials<ReqwestService>;

fn client(layer: &OAuthClientCredentialsLayer) -> Client {
    ServiceBuilder::new().layer(layer).service(ReqwestService::new(reqwest::Client::new()))
}

async fn call(
    client: &Client,
    request: Request<Body>,
) -> Result<http::Response<Body>, tower::BoxError> {
    client.clone().oneshot(request).await
}

fn get(url: &str) -> Request<Body> {
    Request::get(url).body(Body::default()).unwrap()
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_shared_with_another_client_of_the_layer() {
    let world = World::new().await;
    let layer = world.layer();
    let post = || Request::post(world.running.url("/")).body(Body::from("hello")).unwrap();
    assert_eq!(call(&client(&layer), post()).await.unwrap().status(), 200);
    world.server.revoke_all();
    assert_eq!(call(&client(&layer), post()).await.unwrap().status(), 200);
    // In memory, by a different service.
    let other = layer.never_replay();
    let other = ServiceBuilder::new().layer(other).service(world.api.service());
    let request = Request::get("http://localhost/").body(String::new()).unwrap();
    assert_eq!(other.oneshot(request).await.unwrap().status(), 200);

    assert_eq!(world.tokens(), [Some(1), Some(1), Some(2), Some(2)]);
    assert_eq!(world.server.issued(), 2);
    assert!(world.api.journal()[..3].iter().all(|call| call.body() == "hello"));
    assert_eq!(world.running.connections(), 2, "the drained 401 left its connection to the replay");
}

#[tokio::test]
async fn a_stream_is_replayed_up_to_the_limit_and_otherwise_the_next_call_works() {
    let world = World::new().await;
    let client = client(&world.builder().replay_limit(10).build().unwrap());
    let streaming = |body: &'static str| {
        let frames = body
            .as_bytes()
            .chunks(4)
            .map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk))));
        let frames = frames.collect::<Vec<Result<_, std::io::Error>>>();
        Request::post(world.running.url("/"))
            .body(Body::wrap(StreamBody::new(tokio_stream::iter(frames))))
            .unwrap()
    };
    for (body, replayed) in [("short", true), ("longer than ten", false)] {
        assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
        world.server.revoke_all();
        let before = world.api.calls();
        let response = call(&client, streaming(body)).await.unwrap();
        assert_eq!(response.status() == StatusCode::OK, replayed);
        let why = response.extensions().get::<NotReplaced>();
        assert_eq!(why.is_some_and(NotReplaced::is_not_replayable), !replayed);
        let calls = &world.api.journal()[before..];
        assert_eq!(calls.len(), if replayed { 2 } else { 1 });
        assert!(calls.iter().all(|call| call.body() == body));
    }
    assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
}

/// Otherwise every download would cost a token if the API redirects to an object store that answers
/// 401.
#[tokio::test]
async fn a_401_of_another_origin_after_a_redirect_rejects_no_token() {
    let (world, elsewhere) = (World::new().await, World::new().await);
    let client = client(&world.layer());
    let away = Answer::status(StatusCode::TEMPORARY_REDIRECT)
        .with_header("location", &elsewhere.running.url("/file"));
    for _ in 0..3 {
        world.api.respond_once(away.clone());
        let response = call(&client, get(&world.running.url("/"))).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(response.extensions().get::<NotReplaced>().is_none());
        let response = reqwest::Response::from(response);
        assert_eq!(response.url().as_str(), elsewhere.running.url("/file"));
    }
    assert_eq!(elsewhere.tokens(), [None; 3], "reqwest has taken the token off");
    assert_eq!(world.tokens(), [Some(1); 3]);
    assert_eq!(world.server.issued(), 1);
}

/// The POST has taken effect, and its response points to the result.
#[tokio::test]
async fn a_post_is_not_repeated_for_a_401_at_the_end_of_its_redirect() {
    let world = World::new().await;
    let client = client(&world.layer());
    let see_other = Answer::status(StatusCode::SEE_OTHER)
        .with_header("location", &world.running.url("/result"));
    world.api.misuse_401("/result");
    world.api.respond_once(see_other.clone());
    let post = Request::post(world.running.url("/orders")).body(Body::from("one")).unwrap();
    let response = call(&client, post).await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
    let seen: Vec<_> = world
        .api
        .journal()
        .iter()
        .map(|call| format!("{} {}", call.method(), call.path()))
        .collect();
    assert_eq!(seen, ["POST /orders", "GET /result"]);

    // A GET is safe. The original request is replayed.
    world.api.respond_once(see_other);
    assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
    let paths: Vec<_> = world.api.journal().iter().map(|call| call.path().to_owned()).collect();
    assert_eq!(paths[2..], ["/", "/result", "/"]);
}

/// Guards against an order that is placed twice: the redirect led to the list of orders at the same
/// URL, and the response looked like that of the POST.
#[tokio::test]
async fn a_post_is_not_repeated_after_a_redirect_to_its_own_url() {
    for status in [301, 302, 303, 307, 308] {
        let world = World::new().await;
        let client = client(&world.layer());
        let url = world.running.url("/orders");
        let back = Answer::status(StatusCode::from_u16(status).unwrap());
        let detour = back.clone().with_header("location", &world.running.url("/elsewhere"));
        let back = back.with_header("location", &url);
        for (redirects, hops) in [(vec![back.clone()], 1), (vec![detour, back], 2)] {
            let before = world.api.calls();
            for redirect in redirects {
                world.api.respond_once(redirect);
            }
            world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
            let post = Request::post(&url).body(Body::from("one")).unwrap();
            let response = call(&client, post).await.unwrap();
            assert_eq!(response.status(), 401, "{status}");
            assert!(response.extensions().get::<NotReplaced>().unwrap().is_not_replayable());
            assert_eq!(world.api.calls() - before, hops + 1, "{status}");
        }
    }
}

/// Of a stream and of an empty body reqwest keeps nothing that could tell of a redirect.
#[tokio::test]
async fn no_body_method_or_version_hides_a_redirect_to_the_same_url() {
    fn stream() -> Body {
        Body::wrap(http_body_util::Full::new(Bytes::from_static(b"one")))
    }
    let bodies: [fn() -> Body; 3] = [Body::default, || Body::from("one"), stream];
    let clients: [fn() -> reqwest::ClientBuilder; 3] = [
        reqwest::Client::builder,
        || reqwest::Client::builder().http2_prior_knowledge(),
        // Keeps no request for a retry of its own, and has two timers.
        || {
            let client = reqwest::Client::builder().retry(reqwest::retry::never());
            client.timeout(Duration::from_secs(60)).read_timeout(Duration::from_secs(60))
        },
    ];
    for http in clients {
        let world = World::new().await;
        let http = ReqwestService::new(http().build().unwrap());
        let url = world.running.url("/orders");
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            for body in bodies {
                let client = ServiceBuilder::new().layer(world.layer()).service(http.clone());
                let before = world.api.calls();
                let back = Answer::status(StatusCode::SEE_OTHER).with_header("location", &url);
                world.api.respond_once(back);
                world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
                let request = Request::builder().method(&method).uri(&url).body(body()).unwrap();
                assert_eq!(call(&client, request).await.unwrap().status(), 401, "{method}");
                let journal = &world.api.journal()[before..];
                let seen: Vec<_> = journal.iter().map(|call| call.method().clone()).collect();
                assert_eq!(seen, [method.clone(), Method::GET]);
            }
        }
    }
}

/// The reverse: however the API is reached, a POST can be replayed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_was_not_redirected_is_repeated_every_time() {
    let builders: [fn() -> reqwest::ClientBuilder; 3] = [
        reqwest::Client::builder,
        || reqwest::Client::builder().http2_prior_knowledge(),
        // A separate connection for each request.
        || reqwest::Client::builder().pool_max_idle_per_host(0),
    ];
    for builder in builders {
        let world = World::new().await;
        let http = ReqwestService::new(builder().build().unwrap());
        for round in 0..200 {
            // A new cache each time: a single one would not allow so many forced renewals in a row.
            let client = ServiceBuilder::new().layer(world.layer()).service(http.clone());
            world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
            let body = Body::from(vec![b'x'; 64 << (round % 12)]);
            let post = Request::post(world.running.url("/")).body(body).unwrap();
            assert_eq!(call(&client, post).await.unwrap().status(), 200, "{round}");
        }
        assert_eq!(world.api.calls(), 400);
    }
}

/// On the main task of a multi-thread runtime, a future that has used up what Tokio lets it do at once
/// wakes itself in the middle of a poll, as a redirect does.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_post_of_a_task_that_has_to_yield_is_repeated() {
    const BUDGET: usize = 128;
    let world = World::new().await;
    let http = ReqwestService::new(reqwest::Client::new());
    for used in 0..=BUDGET {
        let client = ServiceBuilder::new().layer(world.layer()).service(http.clone());
        // With the token at once: the POST is sent in the poll that has used up its budget.
        assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
        world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
        let post = Request::post(world.running.url("/")).body(Body::from("one")).unwrap();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..used {
            sender.send(()).unwrap();
            receiver.recv().await.unwrap();
        }
        assert_eq!(call(&client, post).await.unwrap().status(), 200, "{used}");
    }
}

#[tokio::test]
async fn a_response_future_that_is_polled_again_is_an_error() {
    let world = World::new().await;
    let mut service = ReqwestService::new(reqwest::Client::new());
    for uri in [world.running.url("/"), "/relative".to_owned()] {
        let mut future = std::pin::pin!(service.ready().await.unwrap().call(get(&uri)));
        let _ended = future.as_mut().await;
        assert!(future.await.unwrap_err().is_builder(), "{uri}");
    }
}

#[tokio::test]
async fn a_body_in_memory_follows_a_redirect_and_a_get_has_none() {
    let world = World::new().await;
    let client = client(&world.layer());
    world.api.respond_once(
        Answer::status(StatusCode::TEMPORARY_REDIRECT)
            .with_header("location", &world.running.url("/there")),
    );
    let post = Request::post(world.running.url("/here")).body(Body::from("hello")).unwrap();
    assert_eq!(call(&client, post).await.unwrap().status(), 200);
    assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
    let journal = world.api.journal();
    assert_eq!((journal[1].path(), &journal[1].body()[..]), ("/there", &b"hello"[..]));
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        assert!(!journal[2].headers().contains_key(name));
    }
}

#[tokio::test]
async fn the_timeout_of_a_request_is_kept_also_for_its_replay() {
    let world = World::new().await;
    let http = reqwest::Client::new();
    let mut client =
        ServiceBuilder::new().layer(world.layer()).service(ReqwestService::from(http.clone()));
    world.api.respond_once(Answer::status(StatusCode::UNAUTHORIZED));
    world.api.respond_once(Answer::never());
    let request =
        http.get(world.running.url("/")).timeout(Duration::from_millis(300)).build().unwrap();
    let request = Request::<Body>::try_from(request).unwrap();
    let answer =
        tokio::time::timeout(Duration::from_secs(20), client.ready().await.unwrap().call(request));
    let error = answer.await.expect("the request's own timeout").unwrap_err();
    assert!(error.downcast::<reqwest::Error>().unwrap().is_timeout());
    assert_eq!(world.tokens(), [Some(1), Some(2)]);
}

#[tokio::test]
async fn token_requests_go_over_reqwest_and_follow_no_redirect() {
    let world = World::new().await;
    let transport = || ReqwestTransport::new(reqwest::Client::builder()).unwrap();
    let layer = world.builder().transport(transport()).build().unwrap();
    assert_eq!(call(&client(&layer), get(&world.running.url("/"))).await.unwrap().status(), 200);
    assert_eq!(world.server.journal()[0].grant_type(), Some("client_credentials"));

    world.server.respond_once(
        Answer::status(StatusCode::TEMPORARY_REDIRECT)
            .with_header("location", &world.token_endpoint.url("/elsewhere")),
    );
    let layer = world.builder().shared_transport(std::sync::Arc::new(transport())).build().unwrap();
    let error = call(&client(&layer), get(&world.running.url("/"))).await.unwrap_err();
    let error = error.downcast::<TokenError>().unwrap();
    assert_eq!(error.status(), Some(StatusCode::TEMPORARY_REDIRECT));
    assert_eq!(world.server.requests(), 2);
}

/// Some providers put a key there.
#[tokio::test]
async fn a_token_request_that_fails_does_not_show_the_query_of_its_url() {
    let transport = ReqwestTransport::new(reqwest::Client::builder().no_proxy()).unwrap();
    let request = Request::post("http://127.0.0.1:1/t?key=c4n4ry").body(Default::default());
    let error = transport.send(request.unwrap()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("c4n4ry"), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_breaks_is_an_error_and_sends_nothing_twice() {
    let world = World::new().await;
    let client = client(&world.layer());
    assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
    world.server.revoke_all();
    let post = Request::post(world.running.url("/")).body(Body::wrap(failing_stream())).unwrap();
    let error = call(&client, post).await.unwrap_err();
    assert!(error.downcast_ref::<TokenError>().is_none(), "{error}");
    assert_eq!((world.api.calls(), world.server.issued()), (1, 1));
}

#[tokio::test]
async fn a_connection_that_closes_at_the_401_is_replaced_as_well() {
    let world = World::new().await;
    let client = client(&world.layer());
    assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
    for closing in [
        Answer::status(StatusCode::UNAUTHORIZED).with_header("connection", "close"),
        Answer::html(StatusCode::UNAUTHORIZED).cut_short(),
    ] {
        world.api.reject_with(closing);
        world.server.revoke_all();
        assert_eq!(call(&client, get(&world.running.url("/"))).await.unwrap().status(), 200);
    }
    assert_eq!(world.server.issued(), 3);
}

#[tokio::test]
async fn odd_targets_are_sent_refused_or_named() {
    let world = World::new().await;
    let layer = world.builder().allowed_origin("http://127.0.0.1").build().unwrap();
    let elsewhere = call(&client(&layer), get(&world.running.url("/"))).await.unwrap_err();
    assert!(elsewhere.downcast::<TokenError>().is_ok(), "the port is not the default one");

    let client = client(&world.layer());
    let send = |uri: &str| call(&client, get(uri));
    let relative = send("/only/a/path").await.unwrap_err();
    assert!(relative.downcast::<reqwest::Error>().unwrap().is_builder());
    // Loopback without a server: the layer admits the request, and the system refuses the
    // connection.
    for admitted in ["http://[::1]:1/", "http://localhost:1/", "https://[::1]:1/"] {
        let error = send(admitted).await.unwrap_err();
        assert!(error.downcast::<reqwest::Error>().unwrap().is_connect(), "{admitted}");
    }
    for refused in
        ["http://[2001:db8::1]/", "http://example.com:80/", "http://localhost@example.com/"]
    {
        let error = send(refused).await.unwrap_err().downcast::<TokenError>().unwrap();
        assert!(error.to_string().contains("by plain HTTP"), "{error}");
    }
    assert!("http://bücher.example/".parse::<http::Uri>().is_err(), "no http::Uri to begin with");

    let user_info = world.running.url("/").replace("127", "user:pass@127");
    assert_eq!(send(&user_info).await.unwrap().status(), 200);
    assert_eq!(world.tokens(), [Some(1)]);
}

#[tokio::test]
async fn an_authorization_of_the_callers_is_left_alone_also_two_of_them() {
    let world = World::new().await;
    let client = client(&world.layer());
    let mut request = get(&world.running.url("/"));
    for value in ["Bearer a", "Bearer b"] {
        request.headers_mut().append(header::AUTHORIZATION, value.parse().unwrap());
    }
    let response = call(&client, request).await.unwrap();
    assert_eq!(response.status(), 401);
    let sent = world.api.journal()[0].headers().get_all(header::AUTHORIZATION).iter().count();
    assert_eq!((sent, world.api.calls()), (2, 1));
    response.into_body().collect().await.unwrap();
}
