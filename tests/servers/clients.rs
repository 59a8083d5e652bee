//! Each HTTP client once, through the layer: with nginx's TLS and HTTP/2 between, and a revocation.
//! To add one, write its `harness::client` function and a line here.

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
