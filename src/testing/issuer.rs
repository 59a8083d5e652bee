//! The state of an [`AuthorizationServer`](super::AuthorizationServer): which request gets which
//! token, and which tokens are valid.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::json;

use super::{
    answer::Answer,
    clock::ManualClock,
    flavor::{Asked, BasicDecoding, Flavor, Granted},
    journal::TokenRequest,
};

const DAY: Duration = Duration::from_secs(86_400);

/// The settings that are fixed while the server runs.
pub(crate) struct Rules {
    pub(crate) flavor: Flavor,
    pub(crate) basic: BasicDecoding,
    pub(crate) token_type: String,
    pub(crate) daily_limit: Option<usize>,
    pub(crate) clock: ManualClock,
    /// Distinguishes the tokens of this server from those of others.
    pub(crate) series: u64,
}

/// The state that changes while the server runs.
pub(crate) struct State {
    pub(crate) clients: HashMap<String, String>,
    pub(crate) lifetime: Duration,
    pub(crate) announced: Announced,
    pub(crate) delay: Duration,
    pub(crate) script: VecDeque<Answer>,
    pub(crate) down: bool,
    pub(crate) repeating: bool,
    pub(crate) answers_with_token: u64,
    pub(crate) refused_connections: u64,
    pub(crate) journal: Vec<TokenRequest>,
    tokens: Vec<Token>,
    by_text: HashMap<String, usize>,
}

struct Token {
    text: String,
    issued_at: Duration,
    expires_at: Duration,
    revoked: bool,
}

/// The value of `expires_in`.
pub(crate) enum Announced {
    Truth,
    Nothing,
    Json(String),
}

impl State {
    pub(crate) fn new(clients: HashMap<String, String>, lifetime: Duration) -> Self {
        Self {
            clients,
            lifetime,
            announced: Announced::Truth,
            delay: Duration::ZERO,
            script: VecDeque::new(),
            down: false,
            repeating: false,
            answers_with_token: 0,
            refused_connections: 0,
            journal: Vec::new(),
            tokens: Vec::new(),
            by_text: HashMap::new(),
        }
    }

    /// Returns the response of a server without a script.
    pub(crate) fn usual_answer(&mut self, rules: &Rules, request: &TokenRequest) -> Answer {
        let asked = match rules.flavor.read(request, rules.basic) {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        if self.clients.get(&asked.client_id) != Some(&asked.client_secret) {
            return rules.flavor.refuse_client(request);
        }
        let now = rules.clock.elapsed();
        if !self.repeating || self.tokens.is_empty() {
            if let Some(wait) = self.quota_wait(rules, now) {
                return over_quota(wait);
            }
            self.issue(rules, &asked, now);
        }
        let Some(token) = self.tokens.last() else {
            return Answer::unavailable();
        };
        let answer = rules.flavor.grant(&Granted {
            token: &token.text,
            token_type: &rules.token_type,
            expires_in: match &self.announced {
                Announced::Truth => {
                    Some(token.expires_at.saturating_sub(now).as_secs().to_string())
                }
                Announced::Nothing => None,
                Announced::Json(text) => Some(text.clone()),
            },
            scope: asked.scope.as_deref().or(rules.flavor.default_scope()),
        });
        self.answers_with_token += 1;
        answer
    }

    /// Returns the number of `token`, counted from 1, and whether it is valid.
    pub(crate) fn look_up(&self, token: &str, now: Duration) -> Option<(u64, bool)> {
        let &index = self.by_text.get(token)?;
        let token = self.tokens.get(index)?;
        Some((index as u64 + 1, !token.revoked && now < token.expires_at))
    }

    pub(crate) fn revoke(&mut self, token: &str) {
        let index = self.by_text.get(token);
        if let Some(token) = index.and_then(|&index| self.tokens.get_mut(index)) {
            token.revoked = true;
        }
    }

    pub(crate) fn revoke_all(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.revoked = true);
    }

    pub(crate) fn last_token(&self) -> Option<&str> {
        self.tokens.last().map(|token| token.text.as_str())
    }

    fn issue(&mut self, rules: &Rules, asked: &Asked, now: Duration) {
        let index = self.tokens.len();
        let text = token_text(rules, asked, self.lifetime, index + 1);
        self.by_text.insert(text.clone(), index);
        let expires_at = now.saturating_add(self.lifetime);
        self.tokens.push(Token { text, issued_at: now, expires_at, revoked: false });
    }

    /// Returns how long the daily limit remains exhausted, or `None` if it is not.
    fn quota_wait(&self, rules: &Rules, now: Duration) -> Option<Duration> {
        let Some(before_oldest) = rules.daily_limit?.checked_sub(1) else {
            return Some(DAY);
        };
        let oldest = self.tokens.iter().rev().nth(before_oldest)?;
        let free_at = oldest.issued_at.saturating_add(DAY);
        (now < free_at).then(|| free_at.saturating_sub(now))
    }
}

fn over_quota(wait: Duration) -> Answer {
    let description = "the daily limit of tokens is reached";
    // Rounded up, so that clients do not return too early.
    let seconds = wait.saturating_add(Duration::from_millis(999)).as_secs().to_string();
    Answer::oauth_error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", description)
        .with_header("retry-after", &seconds)
}

fn token_text(rules: &Rules, asked: &Asked, lifetime: Duration, number: usize) -> String {
    let id = format!("{}-{number}", rules.series);
    if !rules.flavor.issues_jwts() {
        return format!("opaque-token-{id}");
    }
    let wall = rules.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = json!({
        "iss": "https://auth.example.com/",
        "sub": format!("{}@clients", asked.client_id),
        "aud": asked.audience,
        "iat": wall.as_secs(),
        "exp": wall.saturating_add(lifetime).as_secs(),
        "jti": id,
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    format!("{header}.{}.{}", encode(&claims.to_string()), encode("not a signature"))
}
