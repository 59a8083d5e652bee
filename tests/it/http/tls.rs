//! The certificates that are accepted from a token endpoint.

use std::{error::Error, path::PathBuf};

use http::StatusCode;
use tower::{Layer, ServiceExt};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, TokenError,
    testing::{AuthorizationServer, ProtectedApi, RunningServer, TestCa},
};

use super::{get, http1, limited, test_client};

/// A file that is deleted at the end of the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("oauth2-it-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn served_by(ca: &TestCa) -> (AuthorizationServer, RunningServer) {
    let server = AuthorizationServer::new();
    let running = server.serve_tls(ca).await.unwrap();
    assert!(running.url("/").starts_with("https://localhost:"));
    (server, running)
}

#[tokio::test]
async fn a_private_ca_is_trusted_when_it_is_given_as_pem_or_as_a_file() {
    let ca = TestCa::new().unwrap();
    let file = TempFile::new("ca.pem", ca.pem());
    limited(async {
        for trust_it in [
            &(|builder: Builder| builder.ca_pem(ca.pem())) as &dyn Fn(Builder) -> Builder,
            &|builder: Builder| builder.ca_file(&file.0),
        ] {
            let (server, auth_server) = served_by(&ca).await;
            let api = ProtectedApi::new(&server);
            let api_server = api.serve().await.unwrap();
            let builder = test_client(auth_server.url("/token"));
            let client = trust_it(builder).build().unwrap().layer(http1());
            let response = client.oneshot(get(&api_server.url("/"))).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(server.journal()[0].uri().path(), "/token");
        }
    })
    .await;
}

/// Guards against PEM text in memory that is found invalid only when the first token is needed.
#[test]
fn a_ca_that_is_no_certificate_is_an_error_of_its_setting() {
    let ca = TestCa::new().unwrap();
    let good = || test_client("https://auth.example.com/token").ca_pem(ca.pem());
    assert!(good().build().is_ok());
    assert!(good().ca_pem(TestCa::new().unwrap().pem()).build().is_ok());
    let pem =
        |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    for (text, said) in [
        (String::new(), "ca_pem has no certificate in it (is it PEM?)"),
        ("/etc/ssl/ca.pem".to_owned(), "ca_pem has no certificate in it (is it PEM?)"),
        (pem("AAAA"), "ca_pem has a certificate that cannot be used: "),
        (pem("!"), "ca_pem is not valid PEM: "),
        (ca.pem().to_owned() + &pem("AAAA"), "ca_pem has a certificate that cannot be used: "),
    ] {
        let builder = test_client("https://auth.example.com/token").ca_pem(text.as_str());
        let error = builder.build().unwrap_err();
        assert_eq!(error.setting(), "ca_pem");
        assert!(error.to_string().starts_with(said), "{error}");
        let error = good().ca_pem(text.as_str()).build().unwrap_err().to_string();
        assert!(error.starts_with(said) && error.ends_with(" (number 2)"), "{error}");
    }
}

/// Guards against a secret that is sent to an unverified server, and against an error that does not
/// state the reason.
#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_the_error_says_why() {
    let (ours, theirs) = (TestCa::new().unwrap(), TestCa::new().unwrap());
    limited(async {
        let (server, auth_server) = served_by(&theirs).await;
        let api = ProtectedApi::new(&server);
        let api_server = api.serve().await.unwrap();
        let builder = test_client(auth_server.url("/token")).ca_pem(ours.pem());
        let client = builder.build().unwrap().layer(http1());
        let error = client.oneshot(get(&api_server.url("/"))).await.unwrap_err();

        let error = error.downcast_ref::<TokenError>().unwrap();
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(error.is_unreachable());
        let mut causes = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            causes += &format!(": {cause}");
            next = cause.source();
        }
        assert!(causes.starts_with("no answer came from the token endpoint [client "), "{causes}");
        assert!(causes.contains("invalid peer certificate: "), "{causes}");
        assert!(causes.contains("`Builder::ca_file` (`OAUTH_CA_FILE`)"), "{causes}");
        assert_eq!((server.requests(), api.calls()), (0, 0), "nothing was sent");
    })
    .await;
}

// Users saw only "received corrupt message of type InvalidContentType".
#[tokio::test]
async fn https_spoken_to_a_port_of_plain_http_is_named() {
    limited(async {
        let server = AuthorizationServer::new();
        let running = server.serve().await.unwrap();
        let url = running.url("/token").replace("http://", "https://");
        let ca = TestCa::new().unwrap();
        let cache = test_client(url).ca_pem(ca.pem()).build().unwrap().cache();
        let error = cache.token().await.unwrap_err().to_string();
        assert!(error.contains("is it the port of plain HTTP"), "{error}");
    })
    .await;
}
