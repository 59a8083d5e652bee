//! Each HTTP client once, through the layer: with nginx's TLS and HTTP/2 between, and a revocation.
//! To add one, write its `harness::client` function and a line here. tonic's is a test of its own:
//! what it calls is a gRPC server, which asks the API whether a token is good.

#[cfg(feature = "tonic")]
mod grpc;

use crate::{
    harness::{
        client::{self, Caller, get},
        stand::{Plan, Provider, Stand, ca},
    },
    runner::Test,
    scenarios::good,
};

pub(crate) fn add(tests: &mut Vec<Test>) {
    tests.push(Test::new("client::hyper_util", through(|stand| stand.caller(stand.builder()))));
    tests.push(Test::new(
        "client::reqwest",
        through(|stand| client::reqwest(stand.builder().build().unwrap(), Some(&ca()))),
    ));
    #[cfg(feature = "reqwest-middleware")]
    tests.push(Test::new(
        "client::reqwest_middleware",
        through(|stand| client::reqwest_middleware(stand.builder().build().unwrap(), Some(&ca()))),
    ));
    tests.push(Test::new(
        "client::axum_backend",
        through(|stand| client::axum_backend(stand.caller(stand.builder()))),
    ));
    #[cfg(feature = "tonic")]
    tests.push(Test::new("client::tonic", grpc::through_a_channel()));
}

async fn through(caller: impl FnOnce(&Stand) -> Caller + Send) {
    let stand = Plan::new(Provider::DjangoJson).behind_nginx().start().await;
    let caller = caller(&stand);
    for _ in 0..2 {
        let answer = good(get(&caller, &stand.api_url()).await);
        assert_eq!(answer.version(), http::Version::HTTP_2);
    }
    stand.server.revoke().await;
    good(get(&caller, &stand.api_url()).await);
    let stats = stand.server.stats().await;
    assert_eq!((stats.token_requests, stats.api_by_status["401"]), (2, 1), "{stats:?}");
}
