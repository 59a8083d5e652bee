//! Spans and events, as a subscriber sees them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use tokio_test::{assert_ready_ok, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass, NotReplaced, TokenCache, TokenError, TokenResponse, source_fn,
    testing::{Answer, AuthorizationServer, ManualClock, ProtectedApi},
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{layer::Context, prelude::*, registry::LookupSpan};

use crate::tap::{Body, Tap, get, settle};

type Fields = BTreeMap<String, String>;

/// The events so far, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// The spans by id; a field that is recorded twice has both values.
    spans: Vec<(Id, String, Fields)>,
    events: Vec<(Option<String>, Fields)>,
}

impl Log {
    /// Records everything on this thread from now on.
    pub(crate) fn here() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::registry().with(log.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn spans(&self, name: &str) -> Vec<Fields> {
        let said = self.0.lock().unwrap();
        said.spans.iter().filter(|span| span.1 == name).map(|span| span.2.clone()).collect()
    }

    fn events(&self, message: &str) -> Vec<Fields> {
        let said = self.0.lock().unwrap();
        let is = |fields: &&Fields| fields.get("message").is_some_and(|text| text == message);
        said.events.iter().map(|event| &event.1).filter(is).cloned().collect()
    }

    /// Returns the events with their spans.
    fn contexts(&self) -> Vec<(Option<String>, String)> {
        let said = self.0.lock().unwrap();
        said.events.iter().map(|(span, fields)| (span.clone(), fields["message"].clone())).collect()
    }

    /// Returns all output.
    pub(crate) fn text(&self) -> String {
        let said = self.0.lock().unwrap();
        format!("{:?} {:?}", said.spans, said.events)
    }
}

struct Visitor<'a>(&'a mut Fields);

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let known = self.0.entry(field.name().to_owned()).or_default();
        known.push_str(&format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        if let Some(parent) = context.span(id).and_then(|span| span.parent()) {
            fields.insert("parent".to_owned(), parent.name().to_owned());
        }
        attributes.record(&mut Visitor(&mut fields));
        let name = attributes.metadata().name().to_owned();
        self.0.lock().unwrap().spans.push((id.clone(), name, fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut said = self.0.lock().unwrap();
        // The last one, since ids are reused.
        if let Some((_, _, fields)) = said.spans.iter_mut().rev().find(|span| span.0 == *id) {
            values.record(&mut Visitor(fields));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        let span = context.event_span(event).map(|span| span.name().to_owned());
        self.0.lock().unwrap().events.push((span, fields));
    }
}

fn fields<const N: usize>(fields: [(&str, &str); N]) -> Fields {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A span for each waiter would log a thousand lines for one renewal.
#[tokio::test(start_paused = true)]
async fn a_hundred_waiters_make_one_span_with_what_came_of_it() {
    let (log, _guard) = Log::here();
    let server = AuthorizationServer::new();
    server.delay_answers(Duration::from_millis(1500));
    server.respond_once(Answer::unavailable());
    let api = ProtectedApi::new(&server);
    let layer = Builder::new()
        .token_url(server.token_url())
        .client_id("test-client")
        .client_secret("test-secret")
        .transport(server.service())
        .clock(ManualClock::new())
        .build()
        .unwrap();
    let client = layer.layer(api.service());
    let calls: Vec<_> =
        (0..100).map(|_| tokio::spawn(client.clone().oneshot(get::<Body>()))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    let spans = log.spans("oauth2.renewal");
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0]["endpoint"], "\"localhost\"");
    assert_eq!(spans[0]["client_id"], "\"test-client\"", "once");
    assert_eq!(spans[0]["attempt"], "2");
    assert_eq!(spans[0]["lifetime_s"], "3600");
    assert!(!spans[0].contains_key("class"));
    let took: u64 = spans[0]["duration_ms"].parse().unwrap();
    assert!((3000..3500).contains(&took), "two answers and a pause: {took}");

    let renewed = log.events("token renewed");
    assert_eq!(renewed.len(), 1);
    for (name, value) in [("generation", "1"), ("trigger", "\"cold\""), ("attempt", "2")] {
        assert_eq!(renewed[0][name], value, "{name}");
    }
    let failed = log.events("attempt failed");
    assert_eq!(failed.len(), 1);
    assert_eq!((&*failed[0]["attempt"], &*failed[0]["class"]), ("1", "\"transient\""));
    assert!(failed[0]["error"].contains("503"), "{failed:?}");
    assert!(log.contexts().iter().all(|(span, _)| span.as_deref() == Some("oauth2.renewal")));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_says_so_once_with_its_class() {
    let (log, _guard) = Log::here();
    let tap = Tap::open();
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    tap.fail(TokenError::new(ErrorClass::Transient, "unreachable").with_source(refused));
    let cache = tap.layer().cache();
    for _ in 0..10 {
        cache.token().await.unwrap_err();
    }
    let spans = log.spans("oauth2.renewal");
    assert_eq!(spans.len(), 1);
    assert_eq!((&*spans[0]["attempt"], &*spans[0]["class"]), ("3", "\"transient\""));
    assert!(!spans[0].contains_key("lifetime_s"));
    let failed = log.events("renewal failed");
    assert_eq!(failed.len(), 1);
    assert_eq!((&*failed[0]["error"], &*failed[0]["attempt"]), ("unreachable", "3"));
    assert_eq!(failed[0]["cause"], "\"connection refused\"", "what the operator has to know");
    let attempts = log.events("attempt failed");
    assert_eq!(attempts.len(), 3);
    assert!(attempts.iter().all(|attempt| attempt.contains_key("cause")));
}

/// An unreported end of a renewal is exactly the one to look for in the logs.
#[tokio::test]
async fn a_renewal_that_is_cut_short_says_so_too() {
    let (log, _guard) = Log::here();
    let source = source_fn(|_| async { std::panic::resume_unwind(Box::new("by the source")) });
    let cache = Builder::from_source(source).build().unwrap().cache();
    cache.token().await.unwrap_err();
    let spans = log.spans("oauth2.renewal");
    assert_eq!((&*spans[0]["attempt"], &*spans[0]["class"]), ("1", "\"interrupted\""));
    assert_eq!(log.events("renewal failed").len(), 1);
}

#[tokio::test]
async fn a_credential_that_never_expires_has_no_lifetime() {
    let (log, _guard) = Log::here();
    let source = source_fn(|_| async { TokenResponse::basic("id", "secret") });
    Builder::from_source(source).build().unwrap().cache().token().await.unwrap();
    assert!(!log.spans("oauth2.renewal")[0].contains_key("lifetime_s"));
}

/// The renewal outlives the request that triggered it, and must not appear as a part of it.
#[tokio::test]
async fn a_renewal_is_no_part_of_the_callers_span() {
    let (log, _guard) = Log::here();
    let cache = Tap::open().layer().cache();
    let span = tracing::info_span!("caller");
    tracing::Instrument::instrument(cache.token(), span).await.unwrap();
    assert!(!log.spans("oauth2.renewal")[0].contains_key("parent"));
    assert_eq!(log.contexts(), [(Some("oauth2.renewal".to_owned()), "token renewed".to_owned())]);
}

// Decisions about a 401

/// Returns the events of one call, given the API's response to each request.
async fn about(
    answers: &'static [Answer401],
    prepare: impl FnOnce(&Tap),
) -> (Log, Option<NotReplaced>) {
    let tap = Tap::open();
    let layer = tap.builder().replay_limit(1).build().unwrap();
    layer.cache().token().await.unwrap();
    prepare(&tap);
    let (log, _guard) = Log::here();
    let sent = std::sync::atomic::AtomicUsize::new(0);
    let mut client = layer.layer(service_fn(|_: http::Request<String>| {
        let n = sent.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let answer = answers.get(n).copied();
        async move {
            let mut response = http::Response::new(Body::default());
            if let Some(challenge) = answer {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            }
            Ok::<_, std::io::Error>(response)
        }
    }));
    let body = if answers.len() == 3 { "past the limit" } else { "" };
    let mut call = task::spawn(tower::Service::call(
        &mut client,
        http::Request::post("https://a.example/").body(body.to_owned()).unwrap(),
    ));
    let mut response = None;
    for _ in 0..5 {
        settle().await;
        if response.is_none()
            && let std::task::Poll::Ready(done) = call.poll()
        {
            response = Some(done.unwrap());
        }
    }
    let why = response.unwrap().extensions().get::<NotReplaced>().cloned();
    (log, why)
}

type Answer401 = &'static str;

const INVALID: Answer401 = r#"Bearer error="invalid_token""#;

#[tokio::test]
async fn a_401_is_one_event_for_each_decision_about_it() {
    let event = |challenge, sending, decision, generation| {
        fields([
            ("message", "token rejected"),
            ("challenge", challenge),
            ("sending", sending),
            ("decision", decision),
            ("generation", generation),
        ])
    };
    let (log, _) = about(&["Bearer"], |_| {}).await;
    assert_eq!(log.events("token rejected"), [event("\"bare\"", "\"first\"", "\"renew\"", "1")]);
    assert!(log.events("rejection stands").is_empty());

    let (log, _) = about(&[INVALID, INVALID], |_| {}).await;
    let expected = [
        event("\"invalid_token\"", "\"first\"", "\"renew\"", "1"),
        event("\"invalid_token\"", "\"replay\"", "\"replay rejected\"", "2"),
    ];
    assert_eq!(log.events("token rejected"), expected);
    assert_eq!(log.spans("oauth2.renewal").len(), 1);
    assert_eq!(log.events("token renewed")[0]["trigger"], "\"forced\"");
}

/// If a renewal failed, or there was nothing to send, a decision is logged as well.
#[tokio::test]
async fn why_a_rejection_stands_is_said_in_the_words_of_the_response() {
    let failing = |tap: &Tap| tap.fail(TokenError::new(ErrorClass::Request, "no such scope"));
    for (log, why) in [
        about(&["Bearer"], failing).await,
        about(&["Bearer"], |tap: &Tap| tap.repeat(1)).await,
        // Three responses represent a body beyond the limit.
        about(&["Bearer", "", ""], |_: &Tap| {}).await,
    ] {
        let reason = why.unwrap().to_string();
        let expected =
            fields([("message", "rejection stands"), ("generation", "1"), ("reason", &reason)]);
        assert_eq!(log.events("rejection stands"), [expected]);
        assert_eq!(log.events("token rejected").len(), 1);
    }
}

/// An API may answer 401 at any rate, and a disk is full some time.
#[tokio::test(start_paused = true)]
async fn a_thousand_401s_are_a_few_lines_at_info() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // Empty bodies are kept, others are past the limit.
    for body in ["", "past the limit"] {
        let tap = Tap::open();
        let layer = tap.builder().replay_limit(1).build().unwrap();
        let client = layer.layer(service_fn(|_: http::Request<String>| async {
            let mut response = http::Response::new(Body::default());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Ok::<_, std::io::Error>(response)
        }));
        for _ in 0..1000 {
            let post = http::Request::post("https://a.example/").body(body.to_owned()).unwrap();
            let response = client.clone().oneshot(post).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
    }
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    for message in ["token rejected", "rejection stands"] {
        assert!(text.contains(message), "{message}: {text}");
    }
    assert!(text.lines().count() <= 30, "{text}");
}

#[tokio::test]
async fn a_401_that_is_no_rejection_is_an_event_too() {
    let verdict = "\"not about the token\"";
    for challenge in [r#"Bearer error="insufficient_scope""#, r#"DPoP algs="ES256""#] {
        let answers: &'static [Answer401] = Box::leak(Box::new([challenge]));
        let (log, _) = about(answers, |_| {}).await;
        let expected =
            fields([("message", "not a rejection"), ("generation", "1"), ("verdict", verdict)]);
        assert_eq!(log.events("not a rejection"), [expected]);
        assert!(log.events("token rejected").is_empty());
    }
}

/// Accepted requests emit no events.
#[tokio::test]
async fn a_request_with_a_token_at_hand_says_nothing() {
    let layer = Tap::open().layer();
    layer.cache().token().await.unwrap();
    let (log, _guard) = Log::here();
    let mut client =
        tower_test::mock::Spawn::new(layer.layer(service_fn(|_: http::Request<Body>| async {
            Ok::<_, std::io::Error>(http::Response::new(Body::default()))
        })));
    assert_ready_ok!(client.poll_ready::<http::Request<Body>>());
    assert_ready_ok!(task::spawn(client.call(get::<Body>())).poll());
    assert_eq!(log.text(), "[] []");
}

/// A writer that keeps the formatter's output.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// `attempt=1 duration_ms=0` appeared twice in a line, from the span and from the event.
#[tokio::test(start_paused = true)]
async fn a_line_of_the_log_has_one_target_and_each_field_once() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let server = AuthorizationServer::new();
    let layer = Builder::new()
        .token_url(server.token_url())
        .transport(server.service())
        .client_id("test-client")
        .client_secret("test-secret")
        .clock(ManualClock::new())
        .build()
        .unwrap();
    let api = ProtectedApi::new(&server);
    let client = layer.layer(api.service());
    assert!(client.clone().oneshot(get::<Body>()).await.is_ok());
    server.script((0..3).map(|_| Answer::unavailable()));
    server.revoke_all();
    assert!(client.oneshot(get::<Body>()).await.is_ok());
    drop(guard);

    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    for message in ["token renewed", "token rejected", "attempt failed", "renewal failed"] {
        assert!(text.contains(message), "{message}: {text}");
    }
    for line in text.lines() {
        assert!(line.contains(" tower_oauth2_client_credentials: "), "{line}");
        for field in ["attempt=", "duration_ms=", "lifetime_s=", "class="] {
            assert!(line.matches(field).count() <= 1, "{field} {line}");
        }
    }
}

/// A type that is not Bearer by name is worth a look, and no line for each token.
#[tokio::test(start_paused = true)]
async fn an_odd_token_type_is_told_once() {
    let (log, _guard) = Log::here();
    for (token_type, told) in [("BearerToken", 1), ("bearer", 0)] {
        let server = AuthorizationServer::builder().token_type(token_type).build();
        let builder = TokenCache::builder()
            .token_url(server.token_url())
            .client_id("test-client")
            .client_secret("test-secret")
            .transport(server.service());
        let cache = builder.clock(ManualClock::new()).build().unwrap();
        server.announce_expires_in("0");
        let before = log.events("odd token type").len();
        for _ in 0..3 {
            cache.token().await.unwrap();
        }
        assert_eq!(server.requests(), 3);
        let events = log.events("odd token type");
        assert_eq!(events.len() - before, told);
        assert_eq!(events[0]["token_type"], "\"BearerToken\"");
        assert_eq!(events[0]["endpoint"], "\"localhost\"");
    }
}
