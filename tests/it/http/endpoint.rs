//! The default transport with token endpoints that misbehave on the wire: on reused connections, on
//! two runtimes, and with endless responses.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tower_oauth2_client_credentials::{
    Dialect, ErrorClass, TokenCache, TokenError, TokenSource,
    endpoint::{TokenEndpoint, ZeroExpiresIn},
    source_fn,
    token::Attempt,
};

use super::{limited, test_client};

const TOKEN: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 38\r\n\r\n{\"access_token\":\"x\",\"expires_in\":0   }";

/// Starts a token endpoint on blocking sockets. `answer` gets the number of a request on its
/// connection, starting at 0, and writes the response. Returns the URL, and the numbers in the
/// order of the requests.
fn raw(
    answer: impl Fn(usize, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let (answer, requests) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&requests);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer, log) =
                (stream.unwrap(), Arc::clone(&answer), Arc::clone(&log));
            thread::spawn(move || {
                for number in 0.. {
                    if read_request(&mut stream).is_none() {
                        return;
                    }
                    log.lock().unwrap().push(number);
                    if answer(number, &mut stream).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, requests)
}

/// Reads a request with its body. Returns `None` if the connection was closed.
fn read_request(stream: &mut TcpStream) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).ok()
}

/// Closes the connection with its unanswered requests.
fn close(stream: &TcpStream) -> std::io::Result<()> {
    let _ = stream.shutdown(std::net::Shutdown::Both);
    Err(std::io::ErrorKind::ConnectionReset.into())
}

/// Creates a cache whose renewals make a single attempt.
fn one_attempt(url: String) -> TokenCache {
    let endpoint = TokenEndpoint::builder()
        .token_url(url)
        .client_id("test-client")
        .client_secret("test-secret")
        .dialect(Dialect::rfc6749().zero_expires_in(ZeroExpiresIn::OneUse))
        .build()
        .unwrap();
    let source = source_fn(move |attempt: Attempt| {
        let endpoint = endpoint.clone();
        async move {
            match attempt.number() {
                1 => endpoint.fetch(attempt).await,
                _ => Err(TokenError::new(ErrorClass::Request, "the attempt has failed")),
            }
        }
    });
    let hour = Duration::from_secs(3600);
    let builder = TokenCache::builder_from(source);
    builder.attempt_timeout(hour).renewal_timeout(hour).build().unwrap()
}

/// Lets the connection's task return the connection to the pool.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Firewalls that drop idle connections do this: the request is lost with the connection.
#[tokio::test]
async fn a_request_that_is_lost_on_a_used_connection_is_sent_again_at_once() {
    limited(async {
        for reset in [false, true] {
            let (url, requests) = raw(move |number, stream| match number {
                0 => stream.write_all(TOKEN),
                // With an unread byte, closing sends a reset.
                _ if reset => {
                    stream.set_nonblocking(true).unwrap();
                    close(stream)
                }
                _ => close(stream),
            });
            let cache = one_attempt(url);
            for _ in 0..4 {
                cache.token().await.unwrap();
                settle().await;
            }
            assert_eq!(*requests.lock().unwrap(), [0, 1, 0, 1, 0, 1, 0]);
        }
    })
    .await;
}

/// A token may have been issued already, so the renewal decides whether to repeat the request.
#[tokio::test]
async fn a_request_that_is_lost_otherwise_is_not_sent_again_at_once() {
    limited(async {
        // On a new connection.
        let (url, requests) = raw(|_, stream| close(stream));
        let cache = one_attempt(url);
        cache.token().await.unwrap_err();
        assert_eq!(*requests.lock().unwrap(), [0]);

        // After the response has begun.
        let (url, requests) = raw(|number, stream| match number {
            0 => stream.write_all(TOKEN),
            _ => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-")?;
                close(stream)
            }
        });
        let cache = one_attempt(url);
        cache.token().await.unwrap();
        settle().await;
        cache.token().await.unwrap_err();
        assert_eq!(*requests.lock().unwrap(), [0, 1]);

        // For the second time.
        let alive = Arc::new(Mutex::new(true));
        let is_alive = Arc::clone(&alive);
        let (url, requests) = raw(move |number, stream| {
            if number == 0 && *is_alive.lock().unwrap() {
                stream.write_all(TOKEN)
            } else {
                close(stream)
            }
        });
        let cache = one_attempt(url);
        cache.token().await.unwrap();
        settle().await;
        *alive.lock().unwrap() = false;
        cache.token().await.unwrap_err();
        assert_eq!(*requests.lock().unwrap(), [0, 1, 0]);
    })
    .await;
}

/// The server may have read the request that was lost, and counted its token.
#[tokio::test]
async fn a_request_that_is_sent_again_counts_in_the_issuance_budget() {
    limited(async {
        for (tokens, sent) in [(3, vec![0, 1, 0]), (2, vec![0, 1])] {
            let (url, requests) = raw(move |number, stream| match number {
                0 => stream.write_all(TOKEN),
                _ => close(stream),
            });
            let dialect = Dialect::rfc6749().zero_expires_in(ZeroExpiresIn::OneUse);
            let client = test_client(url).dialect(dialect);
            let client = client.issuance_budget(tokens, Duration::from_secs(3600));
            let cache = client.build().unwrap().cache();
            cache.token().await.unwrap();
            settle().await;
            assert_eq!(cache.token().await.is_ok(), tokens == 3);
            settle().await;
            let class = cache.token().await.unwrap_err().class();
            let refused = if tokens == 3 { ErrorClass::Budget } else { ErrorClass::Transient };
            assert_eq!(class, refused);
            assert_eq!(*requests.lock().unwrap(), sent, "{tokens}");
        }
    })
    .await;
}

/// Two tests may share a client, or a program may have several runtimes: the pooled connection was
/// not driven, and each token request took the whole attempt timeout.
#[test]
fn a_connection_of_a_runtime_that_nobody_drives_is_not_used() {
    let (url, requests) = raw(|_, stream| stream.write_all(TOKEN));
    let seconds = Duration::from_secs(20);
    let dialect = Dialect::rfc6749().zero_expires_in(ZeroExpiresIn::OneUse);
    let cache = test_client(url).dialect(dialect).attempt_timeout(seconds).renewal_timeout(seconds);
    let cache = cache.build().unwrap().cache();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    for runtime in [&first, &second, &second, &first] {
        runtime.block_on(async {
            cache.token().await.unwrap();
            settle().await;
        });
    }
    assert_eq!(*requests.lock().unwrap(), [0, 0, 1, 0]);
}

/// Each of these kept a renewal busy until its deadline, and some blocked the thread.
#[tokio::test]
async fn an_answer_without_end_ends_by_its_length_and_not_by_the_deadline() {
    type Answer = (&'static str, &'static [u8], &'static [u8]);
    let cases: [Answer; 8] = [
        ("interim responses", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("interim responses with headers", b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
        ("headers", b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"),
        ("one header", b"HTTP/1.1 200 OK\r\nx-a: ", b"bbbbbbbb"),
        ("a status line", b"HTTP/1.1 200 ", b"OK OK OK"),
        (
            "chunks of a byte",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"1\r\n \r\n",
        ),
        (
            "chunk extensions",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
            b"aaaaaaaa",
        ),
        ("trailers", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: b\r\n"),
    ];
    limited(async {
        for (name, before, again) in cases {
            let (url, _) = raw(move |_, stream| {
                stream.write_all(before)?;
                let piece = again.repeat(1000);
                loop {
                    stream.write_all(&piece)?;
                }
            });
            let error = one_attempt(url).token().await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Request, "{name}: the attempt has failed");
        }
    })
    .await;
}
