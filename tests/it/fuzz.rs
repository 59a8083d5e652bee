//! Mutated external input: token endpoint responses, challenges, `Retry-After`, and origins.
//!
//! Each target mutates the inputs in `corpus/<target>/` with a seed. Every test run is short; run
//! longer with `FUZZ_ITERATIONS=1000000 cargo test --all-features --release --test it fuzz`, and
//! with other seeds by `FUZZ_SEED=2`. A failing input is printed; add it to the corpus.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header::AUTHORIZATION};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_oauth2_client_credentials::{
    AccessToken, Builder, Dialect, ErrorClass, NotReplaced, Origin, TokenError, TokenResponse,
    endpoint::{TransportRequestBody, preset},
    source_fn,
    testing::ManualClock,
};

use crate::kit::{Dice, Watchdog, from_env, secs};

const ITERATIONS: u64 = 2_000;

/// Runs `check` on the corpus of `target` and on its mutations.
fn fuzz(target: &str, pieces: &[&str], mut check: impl FnMut(&[u8])) {
    let _limit = Watchdog::start(secs(24 * 3600));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus").join(target);
    let mut corpus: Vec<(_, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    corpus.sort();
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    assert!(corpus.len() >= 5, "the corpus is gone");

    let mut check = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
            eprintln!("{target}: b\"{}\"", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    corpus.iter().for_each(|input| check(input));
    let mut dice = Dice::seeded(from_env("FUZZ_SEED").unwrap_or(1));
    for _ in 0..from_env("FUZZ_ITERATIONS").unwrap_or(ITERATIONS) {
        let mut input = dice.one_of(&corpus).clone();
        for _ in 0..dice.between(1, 6) {
            mutate(&mut input, &corpus, pieces, &mut dice);
        }
        check(&input);
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], pieces: &[&str], dice: &mut Dice) {
    let place =
        |dice: &mut Dice, len: usize| usize::try_from(dice.between(0, len as u64 + 1)).unwrap();
    let (one, other) = (place(dice, input.len()), place(dice, input.len()));
    let (from, to) = (one.min(other), one.max(other));
    match dice.between(0, 7) {
        0 if !input.is_empty() => {
            let at = one.min(input.len() - 1);
            input[at] ^= 1 << dice.between(0, 8);
        }
        1 => _ = input.drain(from..to.min(from + 8)),
        2 => _ = input.splice(to..to, input[from..to].to_vec()).count(),
        3 => input.truncate(to),
        4 => {
            let donor = dice.one_of(corpus);
            let from = place(dice, donor.len());
            _ = input.splice(one.., donor[from..].iter().copied()).count();
        }
        5 => input.insert(one, u8::try_from(dice.between(0, 256)).unwrap()),
        _ => _ = input.splice(one..one, dice.one_of(pieces).bytes()).count(),
    }
    // Headers and URIs have a maximum length as well.
    input.truncate(16 * 1024);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// The result of a token endpoint's response.
fn ask(
    dialect: Dialect,
    status: StatusCode,
    header: Option<(&'static str, HeaderValue)>,
    body: &[u8],
) -> (Result<AccessToken, TokenError>, SystemTime) {
    let body = Bytes::copy_from_slice(body);
    runtime().block_on(async move {
        let clock = ManualClock::new();
        let cache = Builder::new()
            .token_url("https://auth.example.com/token")
            .client_id("fuzz")
            .client_secret("c4n4ry-s3cr3t")
            .dialect(dialect)
            .clock(clock.clone())
            .transport(service_fn(move |_: Request<TransportRequestBody>| {
                let mut response = Response::new(Full::new(body.clone()));
                *response.status_mut() = status;
                if let Some((name, value)) = &header {
                    response.headers_mut().insert(*name, value.clone());
                }
                std::future::ready(Ok::<_, Infallible>(response))
            }))
            .build()
            .unwrap()
            .cache();
        (cache.token().await, clock.wall())
    })
}

#[test]
fn fuzz_the_answer_of_a_token_endpoint() {
    let pieces = [
        "\"access_token\":",
        "\"expires_in\":",
        "\"error\":",
        "null",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "-1",
        "1e999",
        "\\u0000",
        "\\ud800",
        "\"token_type\":\"mac\"",
        "c4n4ry-s3cr3t",
        "true",
    ];
    let mut turn = 0_usize;
    fuzz("answer", &pieces, |body| {
        turn += 1;
        let dialect = if turn.is_multiple_of(3) { preset::dadi() } else { Dialect::rfc6749() };
        let status = [200, 200, 201, 400, 401, 403, 500][turn % 7];
        let (result, _) = ask(dialect, StatusCode::from_u16(status).unwrap(), None, body);
        match result {
            Ok(token) => {
                assert!(status < 300, "a token of a refusal");
                let text = token.expose_secret();
                assert!(!text.is_empty() && text.len() <= 16 * 1024);
                assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
                assert_eq!(token.header().as_bytes(), format!("Bearer {text}").as_bytes());
                assert!(token.header().is_sensitive());
            }
            Err(error) => {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("c4n4ry-s3cr3t"), "{shown}");
                assert!(shown.len() < 8 * 1024, "{shown}");
                assert!(!shown.contains(['\n', '\0']), "{shown:?}");
                assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
                assert!(error.retry_at().is_some());
                if status == 500 {
                    assert_eq!(error.class(), ErrorClass::Transient);
                }
            }
        }
    });
}

#[test]
fn fuzz_retry_after() {
    let pieces = ["0", "9", ".", "-", "e", " ", "GMT", "Jan", "9999", "inf", "NaN", ",", ":"];
    fuzz("retry_after", &pieces, |text| {
        let Ok(value) = HeaderValue::from_bytes(text) else { return };
        let header = Some(("retry-after", value));
        let (result, now) = ask(Dialect::rfc6749(), StatusCode::TOO_MANY_REQUESTS, header, b"");
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Throttled);
        let wait = error.retry_at().unwrap().duration_since(now).unwrap();
        assert!(!wait.is_zero() && wait <= secs(900), "{wait:?}");
        if !text.is_empty() && text.len() < 9 && text.iter().all(u8::is_ascii_digit) {
            let seconds: u64 = std::str::from_utf8(text).unwrap().parse().unwrap();
            assert_eq!(error.retry_after(), Some(secs(seconds)));
        }
    });
}

/// Returns `true` if a 401 with these challenges counts as a rejection.
fn counts(lines: &[&[u8]]) -> Option<bool> {
    let values: Result<Vec<_>, _> =
        lines.iter().map(|line| HeaderValue::from_bytes(line)).collect();
    let values = values.ok()?;
    runtime().block_on(async move {
        let source = source_fn(|_| async { TokenResponse::bearer("t") });
        let layer = Builder::from_source(source).clock(ManualClock::new()).build().unwrap();
        let client = layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            for value in &values {
                response.headers_mut().append("www-authenticate", value.clone());
            }
            std::future::ready(Ok::<_, Infallible>(response))
        }));
        let response = client.oneshot(crate::kit::get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        Some(response.extensions().get::<NotReplaced>().is_some())
    })
}

#[test]
fn fuzz_challenges() {
    let pieces = [
        "Bearer",
        "bearer ",
        "Basic ",
        "error",
        "=",
        "\"",
        "\\",
        ",",
        " ",
        "invalid_token",
        "realm",
        "insufficient_scope",
        ";",
        "'",
    ];
    fuzz("challenge", &pieces, |line| {
        let Some(verdict) = counts(&[line]) else { return };
        let upper = line.to_ascii_uppercase();
        assert_eq!(counts(&[&upper]), Some(verdict), "the case does not matter");
        assert_eq!(counts(&[line, b""]), Some(verdict), "nor does an empty line");
        assert_eq!(counts(&[b",", line]), Some(verdict), "nor a comma too many");
        let text = String::from_utf8_lossy(line).to_lowercase();
        let code = text.replace(['\\', '"', '\'', ' ', '\t'], "");
        let excused = ["insufficient_scope", "pop", "mac", "gnap", "hawk", "hoba"]
            .iter()
            .any(|word| code.contains(word));
        assert!(verdict || excused, "a 401 rejects the token: {text}");
    });
}

/// Returns whether the token was sent with a request to `uri`, or `None` if the request was not
/// sent.
fn attached(uri: &Uri, allowed: Option<&Origin>) -> Option<bool> {
    runtime().block_on(async {
        let source = source_fn(|_| async { TokenResponse::bearer("t") });
        let mut builder = Builder::from_source(source).clock(ManualClock::new());
        if let Some(origin) = allowed {
            builder = builder.allowed_origin(origin);
        }
        let sent = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&sent);
        let client =
            builder.build().unwrap().layer(service_fn(move |request: Request<Full<Bytes>>| {
                *seen.lock().unwrap() = Some(request.headers().contains_key(AUTHORIZATION));
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            }));
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri.clone();
        let result = client.oneshot(request).await;
        let sent = *sent.lock().unwrap();
        assert_eq!(result.is_ok(), sent.is_some(), "refused before anything is sent, or sent");
        sent
    })
}

#[test]
fn fuzz_origins() {
    let pieces = [
        "http://",
        "https://",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "@",
        ":",
        "/",
        "?",
        "#",
        ".",
        "%",
        "evil.example",
        "\\",
        " ",
        "0",
        "é",
    ];
    fuzz("origin", &pieces, |text| {
        let text = String::from_utf8_lossy(text);
        match text.parse::<Origin>() {
            Ok(origin) => {
                let shown = origin.to_string();
                assert_eq!(shown.parse::<Origin>().unwrap(), origin, "{shown}");
                let rest = shown.split_once("://").unwrap().1;
                assert!(!rest.contains(['@', '/', '?', '#', ' ', '\\', '%']), "{shown}");
                if let Ok(uri) = shown.parse::<Uri>() {
                    assert_eq!(attached(&uri, Some(&origin)), Some(true), "{shown}");
                }
            }
            Err(error) if text.contains("user:pass@") => {
                assert!(!error.to_string().contains("user:pass@"), "{error}");
            }
            Err(_) => {}
        }
        let Ok(uri) = text.parse::<Uri>() else { return };
        let listed: Origin = "https://api.example.com".parse().unwrap();
        let host = uri.host().map(str::to_ascii_lowercase);
        if attached(&uri, None) == Some(true) && uri.scheme_str() != Some("https") {
            let local = |host: &str| {
                let host = host.strip_suffix('.').unwrap_or(host);
                let v4 = host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
                let v6 = host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>();
                let v6 = v6.is_ok_and(|ip| {
                    ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
                });
                host == "localhost" || v4 || v6
            };
            assert!(host.as_deref().is_none_or(local), "{uri}");
        }
        if attached(&uri, Some(&listed)) == Some(true) && uri.authority().is_some() {
            assert_eq!(uri.scheme_str().map(str::to_ascii_lowercase).as_deref(), Some("https"));
            let host = host.unwrap();
            assert_eq!(host.strip_suffix('.').unwrap_or(&host), "api.example.com", "{uri}");
            assert!(matches!(uri.port_u16(), None | Some(443)), "{uri}");
        }
    });
}
