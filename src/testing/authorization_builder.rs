//! [`AuthorizationServerBuilder`]: the settings that are fixed before a server starts.

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

/// A builder for an [`AuthorizationServer`].
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
    /// Adds a client that may request tokens. The first call replaces the default client
    /// `test-client`.
    #[must_use]
    pub fn client(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.clients.insert(id.into(), secret.into());
        self
    }

    /// Sets which provider's token endpoint the server imitates. Default: [`Flavor::Rfc6749`].
    #[must_use]
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// Sets the actual and announced lifetime of tokens. Default: that of the flavor.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Sets how the server decodes HTTP Basic (flavor `Rfc6749` only).
    #[must_use]
    pub fn basic_decoding(mut self, basic: BasicDecoding) -> Self {
        self.basic = basic;
        self
    }

    /// Sets the `token_type` in responses. Default: `Bearer`.
    #[must_use]
    pub fn token_type(mut self, token_type: impl Into<String>) -> Self {
        self.token_type = token_type.into();
        self
    }

    /// Limits the tokens issued in 24 hours. Beyond the limit the server responds with 429.
    #[must_use]
    pub fn daily_limit(mut self, tokens: usize) -> Self {
        self.daily_limit = Some(tokens);
        self
    }

    /// Sets the clock that decides when tokens expire. Suspending the client's host lets them
    /// expire; a step of its wall clock does not, since the server keeps the right time.
    #[must_use]
    pub fn clock(mut self, clock: ManualClock) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the server, which is up and has no script.
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
