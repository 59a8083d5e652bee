//! [`ProtectedApi`]: an API that accepts valid tokens, and counts requests.
//!
//! Its [`AuthorizationServer`] decides which tokens are valid.

use std::{
    collections::{HashSet, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, request::Parts};

use super::{
    answer::{self, Answer, Kind},
    authorization_server::AuthorizationServer,
    gate::Gate,
    journal::ApiCall,
    service::{Answering, Handler, InMemory},
};

/// An API that accepts the bearer tokens of an [`AuthorizationServer`]. Clones are handles to the
/// same API.
///
/// A request is checked when its response is created, after it was [held](Self::hold) and
/// [delayed](Self::delay_answers), so that a token can be revoked while requests are in flight. By
/// default, accepted requests get 200 with a small JSON body, and others a 401 without headers or
/// body. Only the scheme `Bearer` in this spelling is accepted, since some APIs refuse `bearer`.
#[derive(Clone)]
pub struct ProtectedApi {
    shared: Arc<Shared>,
}

struct Shared {
    server: AuthorizationServer,
    state: Mutex<State>,
    gate: Gate,
}

struct State {
    rejection: Answer,
    rejects_everything: bool,
    rejecting_paths: HashSet<String>,
    script: VecDeque<Answer>,
    delay: Duration,
    down: bool,
    refused_connections: u64,
    accepted: u64,
    rejected: u64,
    journal: Vec<ApiCall>,
}

impl ProtectedApi {
    /// Creates an API that accepts the tokens of `server`.
    #[must_use]
    pub fn new(server: &AuthorizationServer) -> Self {
        let state = State {
            rejection: Answer::status(StatusCode::UNAUTHORIZED),
            rejects_everything: false,
            rejecting_paths: HashSet::new(),
            script: VecDeque::new(),
            delay: Duration::ZERO,
            down: false,
            refused_connections: 0,
            accepted: 0,
            rejected: 0,
            journal: Vec::new(),
        };
        let shared =
            Shared { server: server.clone(), state: Mutex::new(state), gate: Gate::open() };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the API as a tower service.
    #[must_use]
    pub fn service(&self) -> InMemory {
        InMemory { handler: Arc::new(self.clone()) }
    }

    /// Sets the response to requests without a valid token from now on, such as
    /// [`Answer::challenge`], a 403, or a 401 with a body.
    pub fn reject_with(&self, answer: Answer) {
        self.state().rejection = answer;
    }

    /// Rejects every request from now on, whatever token it carries.
    pub fn reject_everything(&self) {
        self.state().rejects_everything = true;
    }

    /// Ends [`reject_everything`](Self::reject_everything).
    pub fn accept_valid_tokens(&self) {
        self.state().rejects_everything = false;
    }

    /// Rejects every request to this path from now on, whatever token it carries.
    pub fn misuse_401(&self, path: impl Into<String>) {
        self.state().rejecting_paths.insert(path.into());
    }

    /// Sends this response to the next request, whatever token it carries, after those already
    /// scripted.
    pub fn respond_once(&self, answer: Answer) {
        self.state().script.push_back(answer);
    }

    /// Delays every response from now on, by tokio's clock.
    pub fn delay_answers(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Closes every connection without a response from now on.
    pub fn down(&self) {
        self.state().down = true;
    }

    /// Ends [`down`](Self::down).
    pub fn up(&self) {
        self.state().down = false;
    }

    /// Holds requests from now on, without a response, until [`release`](Self::release).
    pub fn hold(&self) {
        self.shared.gate.close();
    }

    /// Releases all held requests.
    pub fn release(&self) {
        self.shared.gate.reopen();
    }

    /// Waits until at least `count` requests are held.
    pub async fn held(&self, count: usize) {
        self.shared.gate.crowd(count).await;
    }

    /// Returns how many requests have arrived, answered or not.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().journal.len()
    }

    /// Returns how many requests were accepted. A [scripted](Self::respond_once) response counts
    /// neither as accepted nor as rejected.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state().accepted
    }

    /// Returns how many requests were rejected.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.state().rejected
    }

    /// Returns how many connections were refused while the API was [down](Self::down).
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.state().refused_connections
    }

    /// Returns every request that has arrived, in order.
    #[must_use]
    pub fn journal(&self) -> Vec<ApiCall> {
        self.state().journal.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the request, and returns its index in the journal and the delay of its response.
    fn arrive(&self, parts: Parts, body: Bytes) -> (usize, Duration) {
        let token_number =
            bearer(&parts.headers).and_then(|token| self.shared.server.look_up(token)).map(|t| t.0);
        let mut state = self.state();
        state.journal.push(ApiCall::new(parts, body, token_number));
        (state.journal.len() - 1, state.delay)
    }

    fn judge(&self, index: usize) -> Answer {
        let mut state = self.state();
        let state = &mut *state;
        let Some(call) = state.journal.get_mut(index) else {
            return Answer::unavailable();
        };
        call.authorized = bearer(call.headers())
            .and_then(|token| self.shared.server.look_up(token))
            .is_some_and(|(_, valid)| valid);
        let scripted = state.script.pop_front();
        let answer = match scripted.filter(|answer| !matches!(answer.kind, Kind::AsUsual)) {
            Some(answer) => answer,
            None if call.authorized
                && !state.rejects_everything
                && !state.rejecting_paths.contains(call.path()) =>
            {
                state.accepted += 1;
                Answer::json(StatusCode::OK, format!(r#"{{"accepted":{}}}"#, state.accepted))
            }
            None => {
                state.rejected += 1;
                state.rejection.clone()
            }
        };
        if let Kind::Response(scripted) = &answer.kind {
            call.status = Some(scripted.status);
        }
        answer
    }

    fn note_refused_connection(&self) -> io::Error {
        self.state().refused_connections += 1;
        io::Error::new(io::ErrorKind::ConnectionRefused, "the API is down")
    }
}

impl Handler for ProtectedApi {
    fn answer(&self, parts: Parts, body: Bytes) -> Answering {
        let api = self.clone();
        Box::pin(async move {
            if api.is_down() {
                return Err(api.note_refused_connection());
            }
            let (index, delay) = api.arrive(parts, body);
            api.shared.gate.pass().await;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if api.is_down() {
                return Err(api.note_refused_connection());
            }
            answer::send(api.judge(index)).await
        })
    }

    fn is_down(&self) -> bool {
        self.state().down
    }

    fn refuse_connection(&self) {
        self.note_refused_connection();
    }
}

impl fmt::Debug for ProtectedApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("ProtectedApi")
            .field("down", &state.down)
            .field("calls", &state.journal.len())
            .field("accepted", &state.accepted)
            .field("rejected", &state.rejected)
            .finish_non_exhaustive()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}
