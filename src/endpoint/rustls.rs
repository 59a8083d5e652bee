//! The default transport: hyper-util's client over rustls, HTTP/1.1.
//!
//! It decides which certificates are trusted and which crypto provider checks them. The caller
//! decides which URLs are acceptable, and sets deadlines and size limits. Certificates are always
//! checked, and redirects are never followed; there is no switch for either.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use http::{Extensions, uri::Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    runtime::{self, Handle},
    sync::{Mutex as AsyncMutex, OnceCell},
    task::{JoinError, JoinHandle},
};

use super::{
    metered::{Meter, Metering},
    transport::{Transport, TransportRequestBody, TransportResponseBody, Unanswered},
};
use crate::{error::BoxError, token::BoxFuture};

/// The timeout of one TCP connection, for all addresses of the host together. It is shorter than an
/// attempt, so that the error says "connect" and not "attempt timed out".
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The timeout of an idle connection. It is long enough for the retries of one renewal, and shorter
/// than the servers' own idle timeouts. An idle connection is closed after twice this time at the
/// latest.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a response, and the most memory for one read, in bytes.
const MAX_HEAD: usize = 64 * 1024;

type HttpClient<C> = Client<Metering<C>, TransportRequestBody>;

/// The default [`Transport`] of token requests: hyper and rustls.
///
/// It trusts the platform's root certificates and, in addition, the private CAs given by
/// [`ca_file`](Self::ca_file) and [`ca_pem`](Self::ca_pem). They are read on the first request to
/// an `https` URL, on a blocking thread. If that fails, the request fails with the reason, and the
/// next one reads them again. Once read, they are kept for as long as the transport lives.
/// Transports without their own CAs share the platform's roots while one of them lives.
///
/// The crypto provider is the one that the process has installed, else aws-lc-rs (feature
/// `aws-lc-rs`, on by default), else ring (feature `ring`).
///
/// At most one idle connection per host of a token URL is kept, for 10 to 20 seconds. It is used
/// only on the runtime that made it, since another runtime might not drive it. At most 2 MiB of a
/// response are read, including interim responses, and 64 KiB of its head.
///
/// HTTP/2, proxies and client certificates are not supported. For these, implement [`Transport`].
pub struct RustlsTransport {
    ca_files: Vec<PathBuf>,
    ca_pem: Vec<Vec<u8>>,
    plain: Clients<HttpConnector>,
    secure: OnceCell<Clients<HttpsConnector<HttpConnector>>>,
    /// The task that loads the certificates. It cannot be aborted, so a caller joins one in progress.
    loading: AsyncMutex<Option<JoinHandle<Result<ClientConfig, LoadError>>>>,
}

impl RustlsTransport {
    /// Creates a transport that trusts the platform's roots. Does no I/O.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use tower_oauth2_client_credentials::{Builder, endpoint::RustlsTransport};
    ///
    /// // Shared by two clients: one pool of connections, one set of certificates.
    /// let transport = Arc::new(RustlsTransport::new().ca_file("/etc/ssl/company.pem"));
    /// let reports = Builder::new().shared_transport(transport.clone());
    /// let billing = Builder::new().shared_transport(transport);
    /// # drop((reports, billing));
    /// ```
    #[must_use]
    pub fn new() -> Self {
        let plain = Clients::new(connector());
        Self {
            ca_files: Vec::new(),
            ca_pem: Vec::new(),
            plain,
            secure: OnceCell::new(),
            loading: AsyncMutex::default(),
        }
    }

    /// Adds a PEM file with CA certificates to trust in addition to the platform's. A file that is
    /// missing or contains no certificate fails the first request.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_files.push(path.into());
        (self.secure, self.loading) = Default::default();
        self
    }

    /// Adds CA certificates to trust, as text in PEM form. Text without a certificate, or with an
    /// unusable one, fails the first request.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pem.push(pem.into());
        (self.secure, self.loading) = Default::default();
        self
    }

    /// Returns the problem with `pem` as the text of a CA, if any, as a predicate to its name. Does
    /// no I/O.
    pub(crate) fn pem_problem(pem: &[u8]) -> Option<String> {
        let error = add_pem(&mut RootCertStore::empty(), pem).err()?;
        Some(match &error.source {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }

    async fn secure(&self) -> Result<&Clients<HttpsConnector<HttpConnector>>, BoxError> {
        // `get_or_try_init` stores no failure, and a cancelled caller leaves the work to the next.
        self.secure
            .get_or_try_init(|| async {
                let config = match self.load().await {
                    // The runtime of a former caller was dropped.
                    Err(error) if error.is_cancelled() => self.load().await,
                    loaded => loaded,
                }
                .map_err(|error| LoadError::new("loading certificates was cut short", error))?;
                Ok(Clients::new(https_connector(config?)))
            })
            .await
    }

    /// Loads the certificates on a thread that may block, or joins a former caller's task.
    async fn load(&self) -> Result<Result<ClientConfig, LoadError>, JoinError> {
        let mut loading = self.loading.lock().await;
        let task = loading.get_or_insert_with(|| {
            let (files, pem) = (self.ca_files.clone(), self.ca_pem.clone());
            tokio::task::spawn_blocking(move || client_config(&files, &pem))
        });
        let loaded = task.await;
        *loading = None;
        loaded
    }
}

impl Default for RustlsTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for RustlsTransport {
    fn send<'a>(
        &'a self,
        request: http::Request<TransportRequestBody>,
    ) -> BoxFuture<'a, Result<http::Response<TransportResponseBody>, BoxError>> {
        Box::pin(async move {
            // Plain http does not load the certificates: a sidecar on loopback must work in an
            // image that has none.
            if request.uri().scheme() == Some(&Scheme::HTTP) {
                self.plain.send(request).await
            } else {
                self.secure().await?.send(request).await
            }
        })
    }
}

impl fmt::Debug for RustlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RustlsTransport")
            .field("ca_files", &self.ca_files)
            .field("ca_pem", &self.ca_pem.len())
            .field("loaded", &self.secure.initialized())
            .finish_non_exhaustive()
    }
}

/// The reason why the certificates or the crypto provider are unavailable.
#[derive(Debug)]
struct LoadError {
    message: String,
    source: Option<BoxError>,
}

impl LoadError {
    fn new(message: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }

    fn bare(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// Adds the name of its subject in front.
    fn of(self, what: &str) -> Self {
        Self { message: format!("{what} {}", self.message), ..self }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector
}

fn https_connector(config: ClientConfig) -> HttpsConnector<HttpConnector> {
    let mut tcp = connector();
    // The connector below sees `https` URIs, which it would refuse.
    tcp.enforce_http(false);
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(tcp)
}

/// A client, with its pool, for the runtime of the last request.
struct Clients<C> {
    connector: C,
    current: Mutex<Option<(runtime::Id, HttpClient<C>)>>,
}

impl<C> Clients<C>
where
    Metering<C>: Connect + Clone + Send + Sync + 'static,
    C: Clone,
{
    fn new(connector: C) -> Self {
        Self { connector, current: Mutex::new(None) }
    }

    async fn send(
        &self,
        request: http::Request<TransportRequestBody>,
    ) -> Result<http::Response<TransportResponseBody>, BoxError> {
        let client = self.of_this_runtime();
        let error = match client.request(request).await {
            Ok(response) => {
                return Ok(response.map(TransportResponseBody::new));
            }
            Err(error) => error,
        };
        let mut extras = Extensions::new();
        if let Some(connected) = error.connect_info() {
            connected.get_extras(&mut extras);
        }
        if !extras.get().is_some_and(Meter::is_stale) {
            return Err(error.into());
        }
        // The other idle connections are at least as old.
        let former = self.current().take();
        drop(former);
        Err(Unanswered(error.into()).into())
    }

    /// Returns the client for the current runtime. A connection is driven by a task of the runtime
    /// that made it, so it may be dead for another one.
    fn of_this_runtime(&self) -> HttpClient<C> {
        let client = || {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(1)
                .http1_max_buf_size(MAX_HEAD)
                .build(Metering(self.connector.clone()))
        };
        let Ok(runtime) = Handle::try_current() else {
            return client();
        };
        let mut current = self.current();
        let former = match &*current {
            Some((id, client)) if *id == runtime.id() => return client.clone(),
            _ => current.take(),
        };
        let client = client();
        *current = Some((runtime.id(), client.clone()));
        drop(current);
        // Its idle connections are closed.
        drop(former);
        client
    }

    fn current(&self) -> MutexGuard<'_, Option<(runtime::Id, HttpClient<C>)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds the configuration of the TLS client. Blocks, because it reads files.
fn client_config(ca_files: &[PathBuf], ca_pem: &[Vec<u8>]) -> Result<ClientConfig, LoadError> {
    // First: without one, no certificate helps.
    let provider = crypto_provider()?;
    let roots = roots(ca_files, ca_pem)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            LoadError::new("the crypto provider supports neither TLS 1.3 nor TLS 1.2", error)
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Returns the trusted roots: those of the platform and the given CAs.
fn roots(ca_files: &[PathBuf], ca_pem: &[Vec<u8>]) -> Result<Arc<RootCertStore>, LoadError> {
    if ca_files.is_empty() && ca_pem.is_empty() {
        return platform();
    }
    let mut roots = RootCertStore::empty();
    for path in ca_files {
        let pem = std::fs::read(path).map_err(|error| {
            LoadError::new(format!("cannot read the CA file {}", path.display()), error)
        })?;
        add_pem(&mut roots, &pem)
            .map_err(|error| error.of(&format!("the CA file {}", path.display())))?;
    }
    for (index, pem) in ca_pem.iter().enumerate() {
        add_pem(&mut roots, pem).map_err(|error| {
            error.of(&format!("the CA certificate given as PEM (number {})", index + 1))
        })?;
    }
    // A private CA is enough without the platform's roots.
    if let Ok(platform) = platform() {
        roots.extend(platform.roots.iter().cloned());
    }
    Ok(Arc::new(roots))
}

/// Returns the platform's roots, about 100 KiB, which all transports without other CAs share.
fn platform() -> Result<Arc<RootCertStore>, LoadError> {
    static LOADED: Mutex<Weak<RootCertStore>> = Mutex::new(Weak::new());

    // Under the lock, so that they are read once: this is a thread that may block.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = loaded.upgrade() {
        return Ok(roots);
    }
    let platform = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // An unparsable root must not make the others unusable.
    roots.add_parsable_certificates(platform.certs);
    if roots.is_empty() {
        let message = "no root certificates: the platform has none and no private CA is given \
                       (install ca-certificates, or add a CA file)";
        return Err(match platform.errors.into_iter().next() {
            Some(error) => LoadError::new(message, error),
            None => LoadError::bare(message),
        });
    }
    let roots = Arc::new(roots);
    // A partial result is not shared.
    if platform.errors.is_empty() {
        *loaded = Arc::downgrade(&roots);
    }
    Ok(roots)
}

/// Adds the certificates in `pem`. The error is a predicate to the name of `pem`.
fn add_pem(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), LoadError> {
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| LoadError::new("is not valid PEM", error))?;
        roots
            .add(certificate)
            .map_err(|error| LoadError::new("has a certificate that cannot be used", error))?;
    }
    if roots.len() == before {
        return Err(LoadError::bare("has no certificate in it (is it PEM?)"));
    }
    Ok(())
}

fn crypto_provider() -> Result<Arc<CryptoProvider>, LoadError> {
    match CryptoProvider::get_default() {
        Some(installed) => Ok(Arc::clone(installed)),
        None => built_in_provider(),
    }
}

// The built-in provider follows from this crate's features and not from rustls, which panics when
// another crate has enabled a second one.
#[cfg(feature = "aws-lc-rs")]
fn built_in_provider() -> Result<Arc<CryptoProvider>, LoadError> {
    Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn built_in_provider() -> Result<Arc<CryptoProvider>, LoadError> {
    Ok(Arc::new(rustls::crypto::ring::default_provider()))
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn built_in_provider() -> Result<Arc<CryptoProvider>, LoadError> {
    Err(LoadError::bare(
        "rustls has no crypto provider: call `CryptoProvider::install_default` at the start of the \
         program, or switch on the feature `ring` or `aws-lc-rs` of \
         tower-oauth2-client-credentials",
    ))
}

#[cfg(test)]
#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
mod tests_without_a_provider {

    use super::*;

    /// Pins a build that succeeds, and a first token that fails without saying what is missing.
    #[tokio::test]
    async fn without_a_crypto_provider_the_first_use_says_how_to_get_one() {
        let transport = RustlsTransport::new().ca_file("/does/not/exist");
        let request = http::Request::post("https://auth.example.com/token");
        let error = transport
            .send(request.body(TransportRequestBody::default()).unwrap())
            .await
            .unwrap_err();
        let text = error.to_string();
        for part in ["feature `ring` or `aws-lc-rs`", "CryptoProvider::install_default"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "testing-tls", any(feature = "aws-lc-rs", feature = "ring")))]
mod tests {
    use http::{Request, Version};
    use http_body_util::BodyExt;

    use super::*;
    use crate::testing::{Answer, AuthorizationServer, RunningServer, TestCa};

    /// A file system that hangs must not take a thread for each renewal that is given up.
    #[cfg(unix)]
    #[test]
    fn a_file_that_hangs_is_read_once_for_all_callers() {
        let name = format!("ca-pipe-{}.pem", std::process::id());
        let pipe = std::env::temp_dir().join(name);
        _ = std::fs::remove_file(&pipe);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let transport = RustlsTransport::new().ca_file(&pipe);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(2).enable_all().build().unwrap();
        let loaded = runtime.block_on(async {
            for _ in 0..3 {
                let mut load = std::pin::pin!(transport.secure());
                std::future::poll_fn(|cx| {
                    assert!(load.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
            }
            // Opening a pipe waits for its other end, and there is one reader.
            let (written, pem) = (pipe.clone(), TestCa::new().unwrap().pem().to_owned());
            let write = tokio::task::spawn_blocking(move || std::fs::write(written, pem));
            let loaded = async {
                write.await.unwrap().unwrap();
                transport.secure().await.is_ok()
            };
            tokio::time::timeout(Duration::from_secs(10), loaded).await
        });
        // A reader that hangs must not hold up the test.
        runtime.shutdown_background();
        std::fs::remove_file(&pipe).unwrap();
        assert_eq!(loaded, Ok(true));
    }

    fn trusting(ca: &TestCa) -> RustlsTransport {
        RustlsTransport::new().ca_pem(ca.pem())
    }

    fn request(running: &RunningServer) -> Request<TransportRequestBody> {
        Request::post(running.url("/token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(TransportRequestBody::new(
                "grant_type=client_credentials&client_id=test-client&client_secret=test-secret",
            ))
            .unwrap()
    }

    /// The error and its sources, as a log line would have them.
    fn chain(error: &BoxError) -> String {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(error) = next {
            text += &format!(": {error}");
            next = error.source();
        }
        text
    }

    #[tokio::test]
    async fn a_server_with_a_certificate_of_the_private_ca_is_asked_over_http_1() {
        let (ca, server) = (TestCa::new().unwrap(), AuthorizationServer::new());
        let running = server.serve_tls(&ca).await.unwrap();
        let response = trusting(&ca).send(request(&running)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_11));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"access_token\":"));
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_is_refused_and_the_error_says_so() {
        let (ca, server) = (TestCa::new().unwrap(), AuthorizationServer::new());
        let running = server.serve_tls(&ca).await.unwrap();
        let error = trusting(&TestCa::new().unwrap()).send(request(&running)).await.unwrap_err();
        let chain = chain(&error);
        assert!(chain.contains("UnknownIssuer") || chain.contains("BadSignature"), "{chain}");
        assert_eq!(server.requests(), 0);
    }

    #[tokio::test]
    async fn a_ca_file_that_cannot_be_read_is_named_and_read_again_by_the_next_request() {
        let (ca, server) = (TestCa::new().unwrap(), AuthorizationServer::new());
        let running = server.serve_tls(&ca).await.unwrap();
        let path = std::env::temp_dir().join(format!(
            "tower-oauth2-ca-{}-{}.pem",
            std::process::id(),
            running.addr().port()
        ));
        let transport = RustlsTransport::new().ca_file(&path);
        let missing = chain(&transport.send(request(&running)).await.unwrap_err());
        assert!(missing.contains(&path.display().to_string()), "{missing}");
        assert!(missing.contains("No such file") || missing.contains("find the file"), "{missing}");

        std::fs::write(&path, "not a certificate").unwrap();
        let empty = chain(&transport.send(request(&running)).await.unwrap_err());
        assert!(empty.contains("no certificate in it"), "{empty}");

        std::fs::write(&path, ca.pem()).unwrap();
        let status = transport.send(request(&running)).await.map(|response| response.status());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(status.unwrap(), 200);
    }

    /// Pins a thousand caches that each hold the platform's roots.
    #[test]
    fn the_roots_of_the_platform_are_held_once() {
        let first = roots(&[], &[]).unwrap();
        assert!(Arc::ptr_eq(&first, &roots(&[], &[]).unwrap()));
        let ca = TestCa::new().unwrap();
        let more = roots(&[], &[ca.pem().as_bytes().to_vec()]).unwrap();
        assert_eq!(more.len(), first.len() + 1);
    }

    #[tokio::test]
    async fn plain_http_needs_no_certificates() {
        let server = AuthorizationServer::new();
        let running = server.serve().await.unwrap();
        let transport = RustlsTransport::new().ca_file("/does/not/exist");
        assert_eq!(transport.send(request(&running)).await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_like_any_other() {
        let server = AuthorizationServer::new();
        let running = server.serve().await.unwrap();
        let elsewhere = Answer::status(http::StatusCode::TEMPORARY_REDIRECT)
            .with_header("location", &running.url("/elsewhere"));
        server.respond_once(elsewhere);
        let transport = RustlsTransport::new();
        assert_eq!(transport.send(request(&running)).await.unwrap().status(), 307);
        assert_eq!(server.requests(), 1);
    }

    /// The connection in the pool dies with the runtime that drove it, and must not be used again.
    #[test]
    fn a_transport_outlives_the_runtime_of_its_first_request() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_all().build().unwrap()
        };
        let (ca, server) = (TestCa::new().unwrap(), AuthorizationServer::new());
        let servers = runtime();
        let running = servers.block_on(server.serve_tls(&ca)).unwrap();
        let transport = trusting(&ca);
        for _ in 0..2 {
            runtime().block_on(async {
                let response = transport.send(request(&running)).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
            });
        }
        assert_eq!(running.connections(), 2);
    }
}
