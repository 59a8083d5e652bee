//! [`AuthorizationServer`]: issues tokens, on a script, and remembers them.
//!
//! It decides which client gets which token and for how long. How a provider wants to be asked is
//! [`Flavor`]'s.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::request::Parts;

use super::{
    answer::{self, Answer, Kind},
    authorization_builder::AuthorizationServerBuilder,
    issuer::{Announced, Rules, State},
    journal::TokenRequest,
    service::{Answering, Handler, InMemory},
};

/// A scripted authorization server. Clones are handles to the same server.
///
/// Every ability can be changed while requests are under way. A request is decided on when it
/// arrives, tokens included, and answered after the [delay](Self::delay_answers).
#[derive(Clone)]
pub struct AuthorizationServer {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    state: Mutex<State>,
}

impl AuthorizationServer {
    /// A server as RFC 6749 has it, with the client `test-client`, secret `test-secret`, and
    /// tokens that live 3600 s.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A server made to measure.
    #[must_use]
    pub fn builder() -> AuthorizationServerBuilder {
        AuthorizationServerBuilder::default()
    }

    pub(crate) fn start(rules: Rules, state: State) -> Self {
        Self { shared: Arc::new(Shared { rules, state: Mutex::new(state) }) }
    }

    /// The token endpoint as a tower service.
    #[must_use]
    pub fn service(&self) -> InMemory {
        InMemory { handler: Arc::new(self.clone()) }
    }

    /// The URL to give to a client whose transport is [`service`](Self::service).
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("http://localhost{}", self.token_path())
    }

    /// The path of the token endpoint.
    #[must_use]
    pub fn token_path(&self) -> &'static str {
        self.shared.rules.flavor.token_path()
    }

    /// Tokens issued from now on live this long and say so. Zero is allowed.
    pub fn issue_for(&self, lifetime: Duration) {
        let mut state = self.state();
        state.lifetime = lifetime;
        state.announced = Announced::Truth;
    }

    /// Tokens issued from now on do not say how long they live (and live as long as before).
    pub fn leave_out_expires_in(&self) {
        self.state().announced = Announced::Nothing;
    }

    /// From now on `expires_in` is this JSON text, true or not, such as `"3600"` in quotes, `-1`
    /// or `null`. Tokens live as long as before.
    pub fn announce_expires_in(&self, json: impl Into<String>) {
        self.state().announced = Announced::Json(json.into());
    }

    /// Every answer from now on comes this much later, by tokio's clock.
    pub fn delay_answers(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The next request gets this answer (after those already scripted).
    pub fn respond_once(&self, answer: Answer) {
        self.state().script.push_back(answer);
    }

    /// The next requests get these answers, one each (after those already scripted).
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().script.extend(answers);
    }

    /// From now on no connection gets an answer.
    pub fn down(&self) {
        self.state().down = true;
    }

    /// Ends [`down`](Self::down).
    pub fn up(&self) {
        self.state().down = false;
    }

    /// From now on the last token is handed out again, with what is left of its life; even if it
    /// is revoked or expired.
    pub fn repeat_token(&self) {
        self.state().repeating = true;
    }

    /// Ends [`repeat_token`](Self::repeat_token).
    pub fn issue_new_tokens(&self) {
        self.state().repeating = false;
    }

    /// The API refuses this token from now on. An unknown token is nothing to revoke.
    pub fn revoke(&self, token: &str) {
        self.state().revoke(token);
    }

    /// The API refuses all tokens issued so far.
    pub fn revoke_all(&self) {
        self.state().revoke_all();
    }

    /// The client has this secret from now on, and not the old one. A new id is a new client.
    pub fn change_secret(&self, client_id: impl Into<String>, secret: impl Into<String>) {
        self.state().clients.insert(client_id.into(), secret.into());
    }

    /// How often a token was handed out, repeated ones included.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.state().answers_with_token
    }

    /// The token that was issued last, as the client must present it.
    #[must_use]
    pub fn last_token(&self) -> Option<String> {
        self.state().last_token().map(str::to_owned)
    }

    /// How many requests have arrived, answered or not.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().journal.len()
    }

    /// How many attempts met a server that was [down](Self::down).
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.state().refused_connections
    }

    /// Every request that has arrived, in order.
    #[must_use]
    pub fn journal(&self) -> Vec<TokenRequest> {
        self.state().journal.clone()
    }

    /// Which token this is, and whether it is valid now.
    pub(crate) fn look_up(&self, token: &str) -> Option<(u64, bool)> {
        let now = self.shared.rules.clock.elapsed();
        self.state().look_up(token, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, and how long it takes.
    fn decide(&self, request: TokenRequest) -> (Answer, Duration) {
        let mut state = self.state();
        let scripted = state.script.pop_front();
        let answer = scripted
            .filter(|answer| !matches!(answer.kind, Kind::AsUsual))
            .unwrap_or_else(|| state.usual_answer(&self.shared.rules, &request));
        state.journal.push(request);
        (answer, state.delay)
    }

    fn note_refused_connection(&self) -> io::Error {
        self.state().refused_connections += 1;
        io::Error::new(io::ErrorKind::ConnectionRefused, "the authorization server is down")
    }
}

impl Handler for AuthorizationServer {
    fn answer(&self, parts: Parts, body: Bytes) -> Answering {
        let server = self.clone();
        Box::pin(async move {
            if server.is_down() {
                return Err(server.note_refused_connection());
            }
            let (answer, delay) = server.decide(TokenRequest::read(parts, body));
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
                if server.is_down() {
                    return Err(server.note_refused_connection());
                }
            }
            answer::send(answer).await
        })
    }

    fn is_down(&self) -> bool {
        self.state().down
    }

    fn refuse_connection(&self) {
        self.note_refused_connection();
    }
}

impl Default for AuthorizationServer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for AuthorizationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("AuthorizationServer")
            .field("flavor", &self.shared.rules.flavor)
            .field("down", &state.down)
            .field("issued", &state.answers_with_token)
            .field("requests", &state.journal.len())
            .finish_non_exhaustive()
    }
}
