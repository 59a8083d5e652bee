//! [`AuthorizationServer`]: a scripted server that issues tokens and remembers them.
//!
//! It decides which client gets which token, and for how long. The format of requests and responses
//! is defined by [`Flavor`].

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
/// Its behavior can be changed while requests are in flight. A request, including its token, is
/// decided when it arrives, and answered after the [delay](Self::delay_answers).
#[derive(Clone)]
pub struct AuthorizationServer {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    state: Mutex<State>,
}

impl AuthorizationServer {
    /// Creates a server that follows RFC 6749, with the client `test-client`, the secret
    /// `test-secret`, and tokens that live 3600 s.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder with more settings.
    #[must_use]
    pub fn builder() -> AuthorizationServerBuilder {
        AuthorizationServerBuilder::default()
    }

    pub(crate) fn start(rules: Rules, state: State) -> Self {
        Self { shared: Arc::new(Shared { rules, state: Mutex::new(state) }) }
    }

    /// Returns the token endpoint as a tower service.
    #[must_use]
    pub fn service(&self) -> InMemory {
        InMemory { handler: Arc::new(self.clone()) }
    }

    /// Returns the token URL for a client whose transport is [`service`](Self::service).
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("http://localhost{}", self.token_path())
    }

    /// Returns the path of the token endpoint.
    #[must_use]
    pub fn token_path(&self) -> &'static str {
        self.shared.rules.flavor.token_path()
    }

    /// Sets the actual and announced lifetime of tokens issued from now on. Zero is allowed.
    pub fn issue_for(&self, lifetime: Duration) {
        let mut state = self.state();
        state.lifetime = lifetime;
        state.announced = Announced::Truth;
    }

    /// Omits `expires_in` from now on. The tokens' actual lifetime is unchanged.
    pub fn leave_out_expires_in(&self) {
        self.state().announced = Announced::Nothing;
    }

    /// Sets the JSON text of `expires_in` from now on, true or not, such as `"3600"` in quotes,
    /// `-1` or `null`. The tokens' actual lifetime is unchanged.
    pub fn announce_expires_in(&self, json: impl Into<String>) {
        self.state().announced = Announced::Json(json.into());
    }

    /// Delays every response from now on, by tokio's clock.
    pub fn delay_answers(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Sends this response to the next request, after those already scripted.
    pub fn respond_once(&self, answer: Answer) {
        self.state().script.push_back(answer);
    }

    /// Sends these responses to the next requests, one each, after those already scripted.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().script.extend(answers);
    }

    /// Closes every connection without a response from now on.
    pub fn down(&self) {
        self.state().down = true;
    }

    /// Ends [`down`](Self::down).
    pub fn up(&self) {
        self.state().down = false;
    }

    /// Issues the last token again from now on, with the rest of its lifetime, even if it is
    /// revoked or expired.
    pub fn repeat_token(&self) {
        self.state().repeating = true;
    }

    /// Ends [`repeat_token`](Self::repeat_token).
    pub fn issue_new_tokens(&self) {
        self.state().repeating = false;
    }

    /// Makes the API reject this token from now on. An unknown token is ignored.
    pub fn revoke(&self, token: &str) {
        self.state().revoke(token);
    }

    /// Makes the API reject all tokens issued so far.
    pub fn revoke_all(&self) {
        self.state().revoke_all();
    }

    /// Replaces the client's secret from now on. A new id adds a client.
    pub fn change_secret(&self, client_id: impl Into<String>, secret: impl Into<String>) {
        self.state().clients.insert(client_id.into(), secret.into());
    }

    /// Returns how many tokens were issued, including repeated ones.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.state().answers_with_token
    }

    /// Returns the last token issued, in the form that the client must send.
    #[must_use]
    pub fn last_token(&self) -> Option<String> {
        self.state().last_token().map(str::to_owned)
    }

    /// Returns how many requests have arrived, answered or not.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().journal.len()
    }

    /// Returns how many connections were refused while the server was [down](Self::down).
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.state().refused_connections
    }

    /// Returns every request that has arrived, in order.
    #[must_use]
    pub fn journal(&self) -> Vec<TokenRequest> {
        self.state().journal.clone()
    }

    /// Returns the number of `token`, and whether it is valid now.
    pub(crate) fn look_up(&self, token: &str) -> Option<(u64, bool)> {
        let now = self.shared.rules.clock.elapsed();
        self.state().look_up(token, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the response, and its delay.
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
