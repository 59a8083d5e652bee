//! [`AuthorizationServerBuilder`]: what is settled about a server before it starts.

use std::{
    collections::HashMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    authorization_server::AuthorizationServer,
    clock::ManualClock,
    flavor::{BasicDecoding, Flavor},
    issuer::{Rules, State},
};

static SERIES: AtomicU64 = AtomicU64::new(1);

/// Makes an [`AuthorizationServer`].
pub struct AuthorizationServerBuilder {
    flavor: Flavor,
    basic: BasicDecoding,
    token_type: String,
    daily_limit: Option<usize>,
    clock: ManualClock,
    clients: HashMap<String, String>,
    lifetime: Option<Duration>,
}

impl AuthorizationServerBuilder {
    /// A client that may have tokens. The first call replaces the client `test-client`.
    #[must_use]
    pub fn client(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.clients.insert(id.into(), secret.into());
        self
    }

    /// Whose token endpoint it behaves like; [`Flavor::Rfc6749`] if not given.
    #[must_use]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// How long tokens live, and say so; the flavor's own lifetime if not given.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// How it reads HTTP Basic (flavor `Rfc6749`).
    #[must_use]
    pub fn basic_decoding(mut self, basic: BasicDecoding) -> Self {
        self.basic = basic;
        self
    }

    /// The `token_type` that it tells, in place of `Bearer`.
    #[must_use]
    pub fn token_type(mut self, token_type: impl Into<String>) -> Self {
        self.token_type = token_type.into();
        self
    }

    /// How many tokens it issues in 24 hours; then it answers 429.
    #[must_use]
    pub fn daily_limit(mut self, tokens: usize) -> Self {
        self.daily_limit = Some(tokens);
        self
    }

    /// The clock by which tokens expire. A suspend of the client's host lets them expire, a step
    /// of its wall clock does not: the server keeps the right time.
    #[must_use]
    pub fn clock(mut self, clock: ManualClock) -> Self {
        self.clock = clock;
        self
    }

    /// The server, up and without a script.
    #[must_use]
    pub fn build(self) -> AuthorizationServer {
        let mut clients = self.clients;
        if clients.is_empty() {
            clients.insert("test-client".to_owned(), "test-secret".to_owned());
        }
        let lifetime = self.lifetime.unwrap_or(self.flavor.default_lifetime());
        AuthorizationServer::start(
            Rules {
                flavor: self.flavor,
                basic: self.basic,
                token_type: self.token_type,
                daily_limit: self.daily_limit,
                clock: self.clock,
                series: SERIES.fetch_add(1, Ordering::Relaxed),
            },
            State::new(clients, lifetime),
        )
    }
}

impl Default for AuthorizationServerBuilder {
    fn default() -> Self {
        Self {
            flavor: Flavor::default(),
            basic: BasicDecoding::default(),
            token_type: "Bearer".to_owned(),
            daily_limit: None,
            clock: ManualClock::new(),
            clients: HashMap::new(),
            lifetime: None,
        }
    }
}

impl fmt::Debug for AuthorizationServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationServerBuilder")
            .field("flavor", &self.flavor)
            .finish_non_exhaustive()
    }
}
