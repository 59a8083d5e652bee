//! [`RunningServer`]: a test server on a real socket, with HTTP/1.1 and HTTP/2.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

#[cfg(feature = "testing-tls")]
use super::tls::TestCa;
use super::{
    authorization_server::AuthorizationServer, protected_api::ProtectedApi, service::Handler,
};

/// A server on a port of 127.0.0.1. Dropping it closes the port and all connections.
///
/// The handle that started it still controls its behavior.
#[must_use = "the server stops when this is dropped"]
pub struct RunningServer {
    addr: SocketAddr,
    origin: String,
    connections: Arc<Connections>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Connections {
    total: AtomicUsize,
    open: AtomicUsize,
}

impl RunningServer {
    /// Returns the address that the server listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the URL of `path`, which must start with a slash. Over TLS the host is `localhost`,
    /// which the certificate names.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// Returns how many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.total.load(Ordering::SeqCst)
    }

    /// Returns how many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }

    async fn start(scheme: &str, host: &str, handler: Serving) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let connections = Arc::new(Connections::default());
        let task = tokio::spawn(accept(listener, handler, Arc::clone(&connections)));
        let origin = format!("{scheme}://{host}:{}", addr.port());
        Ok(Self { addr, origin, connections, task })
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer")
            .field("origin", &self.origin)
            .field("connections", &self.connections())
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}

impl AuthorizationServer {
    /// Starts the server on a free port of 127.0.0.1, over plain HTTP.
    ///
    /// # Errors
    ///
    /// Returns an error if no port is free.
    pub async fn serve(&self) -> io::Result<RunningServer> {
        RunningServer::start("http", "127.0.0.1", Serving::plain(self.clone())).await
    }

    /// Starts the server on a free port of 127.0.0.1, over TLS, with a certificate of `ca`.
    ///
    /// # Errors
    ///
    /// Returns an error if no port is free, or if no certificate can be generated.
    #[cfg(feature = "testing-tls")]
    pub async fn serve_tls(&self, ca: &TestCa) -> io::Result<RunningServer> {
        RunningServer::start("https", "localhost", Serving::tls(self.clone(), ca)?).await
    }
}

impl ProtectedApi {
    /// Starts the API on a free port of 127.0.0.1, over plain HTTP.
    ///
    /// # Errors
    ///
    /// Returns an error if no port is free.
    pub async fn serve(&self) -> io::Result<RunningServer> {
        RunningServer::start("http", "127.0.0.1", Serving::plain(self.clone())).await
    }

    /// Starts the API on a free port of 127.0.0.1, over TLS, with a certificate of `ca`.
    ///
    /// # Errors
    ///
    /// Returns an error if no port is free, or if no certificate can be generated.
    #[cfg(feature = "testing-tls")]
    pub async fn serve_tls(&self, ca: &TestCa) -> io::Result<RunningServer> {
        RunningServer::start("https", "localhost", Serving::tls(self.clone(), ca)?).await
    }
}

/// The data that every connection gets a copy of.
#[derive(Clone)]
struct Serving {
    handler: Arc<dyn Handler>,
    #[cfg(feature = "testing-tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Serving {
    fn plain(handler: impl Handler) -> Self {
        Self {
            handler: Arc::new(handler),
            #[cfg(feature = "testing-tls")]
            tls: None,
        }
    }

    #[cfg(feature = "testing-tls")]
    fn tls(handler: impl Handler, ca: &TestCa) -> io::Result<Self> {
        let tls = Some(tokio_rustls::TlsAcceptor::from(ca.server_config()?));
        Ok(Self { handler: Arc::new(handler), tls })
    }

    async fn connection(self, stream: TcpStream) {
        #[cfg(feature = "testing-tls")]
        if let Some(tls) = self.tls.clone() {
            // A client that rejects the certificate hangs up here, and reports the error itself.
            if let Ok(stream) = tls.accept(stream).await {
                self.http(stream).await;
            }
            return;
        }
        self.http(stream).await;
    }

    async fn http(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(move |request: http::Request<Incoming>| {
            let handler = Arc::clone(&self.handler);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                handler.answer(parts, body).await
            }
        });
        // An error here is a closed connection, which the client notices as well.
        let mut server = auto::Builder::new(TokioExecutor::new());
        // hyper's limit of 200 streams would block the rest of a crowd of held requests.
        server.http2().max_concurrent_streams(None);
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<Connections>);

impl Open {
    fn new(connections: &Arc<Connections>) -> Self {
        connections.total.fetch_add(1, Ordering::SeqCst);
        connections.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(connections))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Accepts connections until it is aborted. The connections end with it, since it owns their task
/// set.
async fn accept(listener: TcpListener, serving: Serving, connections: Arc<Connections>) {
    let mut running = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Either the client is gone, or the process is out of file descriptors: let others
            // close some.
            tokio::task::yield_now().await;
            continue;
        };
        while running.try_join_next().is_some() {}
        if serving.handler.is_down() {
            serving.handler.refuse_connection();
            continue;
        }
        let _ = stream.set_nodelay(true);
        let (serving, open) = (serving.clone(), Open::new(&connections));
        running.spawn(async move {
            serving.connection(stream).await;
            drop(open);
        });
    }
}
