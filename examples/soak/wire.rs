//! The wire before a token endpoint, and what is done to the bytes on it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// What the wire does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Answers come in pieces of 16 bytes, 5 ms apart.
    Trickle,
    /// A request is never passed on. Interim responses come without end.
    Interim,
    /// A connection is reset when it is used again.
    ResetReused,
}

/// A client that writes after so long a silence has begun another request.
const IDLE: Duration = Duration::from_millis(200);

/// A listener whose connections lead to the token endpoint.
pub(crate) struct Wire {
    /// In the place of the endpoint's.
    pub(crate) origin: String,
    mode: Arc<AtomicU8>,
}

impl Wire {
    pub(crate) async fn to(origin: &str) -> Self {
        let (scheme, target) = origin.split_once("://").expect("an origin");
        let target: SocketAddr = target.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("{scheme}://{}", listener.local_addr().unwrap());
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let connection = Connection { mode: Arc::clone(&shared), target };
                // How a connection ends is its client's business.
                tokio::spawn(async move {
                    let _ended = connection.carry(client).await;
                });
            }
        });
        Self { origin, mode }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

struct Connection {
    mode: Arc<AtomicU8>,
    target: SocketAddr,
}

impl Connection {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }

    async fn carry(self, mut client: TcpStream) -> io::Result<()> {
        let mut server = TcpStream::connect(self.target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        let mut answered: Option<Instant> = None;
        loop {
            tokio::select! {
                read = client.read(&mut up) => {
                    let read = read?;
                    if read == 0 {
                        return server.shutdown().await;
                    }
                    let is_reused = answered.is_some_and(|at| at.elapsed() > IDLE);
                    if self.is(Mode::ResetReused) && is_reused {
                        return client.set_zero_linger();
                    }
                    if self.is(Mode::Interim) {
                        return self.interim(client).await;
                    }
                    server.write_all(&up[..read]).await?;
                }
                read = server.read(&mut down) => {
                    let read = read?;
                    if read == 0 {
                        return client.shutdown().await;
                    }
                    let size = if self.is(Mode::Trickle) { 16 } else { read };
                    for piece in down[..read].chunks(size) {
                        client.write_all(piece).await?;
                        if self.is(Mode::Trickle) {
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                    answered = Some(Instant::now());
                }
            }
        }
    }

    /// As fast as the client reads, until it hangs up or the fault is over.
    async fn interim(&self, mut client: TcpStream) -> io::Result<()> {
        let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n".repeat(100);
        while self.is(Mode::Interim) {
            client.write_all(&hints).await?;
        }
        Ok(())
    }
}
