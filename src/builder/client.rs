//! Settings of what is made of the tokens: how the cache keeps one, and what the layer does with
//! it. And the three things that can be built.

use std::{fmt, sync::Arc, time::Duration};

use http::response::Parts;

use super::Builder;
use crate::{
    config_error::ConfigError,
    endpoint::url::Insecure,
    layer::OAuthClientCredentialsLayer,
    rules::{Existing, Test},
    token::{TokenCache, TokenResponse, TokenSource, Warmth, source_fn},
};

/// Where tokens come from, if not from a token endpoint.
pub(super) enum Origin {
    Source(Arc<dyn TokenSource>),
    Cache(TokenCache),
}

impl Origin {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Source(_) => "from_source",
            Self::Cache(_) => "from_cache",
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// # In place of a token endpoint
impl Builder {
    /// Tokens come from `source`. Excludes the settings of a token endpoint.
    pub fn from_source(source: impl TokenSource) -> Self {
        Self { origin: Some(Origin::Source(Arc::new(source))), ..Self::default() }
    }

    /// The token of `cache` is shared. Excludes the settings of a token endpoint and of a cache.
    ///
    /// Rules do not come with a cache, the allowed origins among them: without
    /// [`allowed_origin`](Self::allowed_origin), every `https` origin may have the token, whatever
    /// was set where the cache was made.
    pub fn from_cache(cache: &TokenCache) -> Self {
        Self { origin: Some(Origin::Cache(cache.clone())), ..Self::default() }
    }

    /// A static id and secret by HTTP Basic (RFC 7617) in place of a token: see
    /// [`OAuthClientCredentialsLayer::basic`].
    pub fn basic(id: &str, secret: &str) -> Self {
        match TokenResponse::checked_basic(id, secret) {
            Ok(response) => Self::from_source(source_fn(move |_| {
                let response = response.clone();
                async move { Ok(response) }
            })),
            Err(problem) => {
                let mut builder = Self::default();
                builder.fail("basic", problem);
                builder
            }
        }
    }
}

/// # How a token is kept
impl Builder {
    /// How long one attempt to get a token may take. Default: 10 s. At most
    /// [`renewal_timeout`](Self::renewal_timeout).
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("attempt_timeout", timeout);
        self.settings.attempt_timeout = timeout;
        self
    }

    /// How long a renewal may take in all, with up to three attempts. Default: 30 s.
    pub fn renewal_timeout(mut self, timeout: Duration) -> Self {
        self.check_duration("renewal_timeout", timeout);
        self.settings.renewal_timeout = timeout;
        self
    }

    /// What is taken for the lifetime of a token if the server does not name one, and the token is
    /// no JWT that does. Default: 5 minutes.
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.check_duration("default_lifetime", lifetime);
        self.settings.default_lifetime = lifetime;
        self
    }

    /// Asks for at most `tokens` tokens in any `period`, for providers that limit or bill them.
    /// Default: no limit.
    ///
    /// Renewals in the background and after a 401 give way first: a fifth of the budget, rounded
    /// up, is kept for calls that have no usable token at all. Past the budget such calls fail with
    /// [`ErrorClass::Budget`](crate::ErrorClass::Budget) and the time of the next token.
    pub fn issuance_budget(mut self, tokens: u32, period: Duration) -> Self {
        self.cache_settings.push("issuance_budget");
        if period.is_zero() {
            self.fail("issuance_budget", "has a period of zero");
        }
        if tokens == 0 {
            self.fail("issuance_budget", "must allow at least one token");
        }
        self.settings.budget = Some((tokens, period));
        self
    }

    /// Renews the token by a timer, too, once there has been one. Without this, renewals are set
    /// off by requests, and an idle client uses up no quota.
    pub fn keep_warm(mut self) -> Self {
        self.cache_settings.push("keep_warm");
        self.settings.warmth = Warmth::Kept;
        self
    }

    /// The time by which tokens expire, for tests.
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: &crate::testing::ManualClock) -> Self {
        self.cache_settings.push("clock");
        self.settings.clock = clock.to_clock();
        self
    }

    /// Where the jitter starts, for tests that must run alike each time.
    #[cfg(feature = "testing")]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.cache_settings.push("jitter_seed");
        self.settings.seed = Some(seed);
        self
    }

    fn check_duration(&mut self, setting: &'static str, duration: Duration) {
        self.cache_settings.push(setting);
        if duration.is_zero() {
            self.fail(setting, "must be longer than zero");
        }
    }
}

/// # Where the token goes, and what a rejection is
impl Builder {
    /// Adds an origin that may have the token: an [`Origin`](crate::Origin), or its text,
    /// `scheme://host` or `scheme://host:port`. With at least one, a request for any other is an
    /// error before anything is sent.
    ///
    /// Without: every `https` origin may, and plain `http` to this machine. Name the origins where
    /// the targets of requests are not all written down in your program, and where a redirect is
    /// followed outside of the layer.
    pub fn allowed_origin(mut self, origin: impl AsRef<str>) -> Self {
        self.rule.get_or_insert("allowed_origin");
        match origin.as_ref().parse() {
            Ok(origin) => self.rules.origins.allow(origin),
            Err(error) => self.fail("allowed_origin", format!("is wrong: {error}")),
        }
        self
    }

    /// Adds several origins: see [`allowed_origin`](Self::allowed_origin). A list that turns out empty
    /// is an error: every `https` origin would have the token.
    pub fn allowed_origins<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut origins = origins.into_iter().peekable();
        if origins.peek().is_none() {
            let problem = "names no origin (where none is to be named, leave the setting out: every \
                           https origin may have the token then)";
            self.fail("allowed_origin", problem);
        }
        origins.fold(self, Self::allowed_origin)
    }

    /// Sends requests for other than the allowed origins without the token, in place of an error.
    pub fn pass_other_origins_without_token(mut self) -> Self {
        self.rule.get_or_insert("pass_other_origins_without_token");
        self.rules.origins.pass_others_without_token();
        self
    }

    /// Lets plain `http` to other machines have the token, where no allowed origins are named.
    /// Whoever is on the way can read it and use it.
    pub fn dangerously_allow_plain_http(mut self) -> Self {
        self.rule.get_or_insert("dangerously_allow_plain_http");
        self.rules.origins.allow_plain_http();
        self
    }

    /// Replaces an `Authorization` header that a request already has. Without this, such a request
    /// is sent as it is, and its response is none of the layer's business.
    pub fn replace_authorization(mut self) -> Self {
        self.rule.get_or_insert("replace_authorization");
        self.rules.existing = Existing::Replace;
        self
    }

    /// Reads 403 as it does 401. Some APIs answer so to an expired token (the views of Django OAuth
    /// Toolkit do); at most, 403 means that a valid token is not enough.
    pub fn forbidden_means_rejected(mut self) -> Self {
        self.rule.get_or_insert("forbidden_means_rejected");
        self.rules.challenges = self.rules.challenges.forbidden_is_stale();
        self
    }

    /// Decides in your way whether a response rejects the token that its request carried.
    ///
    /// The default: every 401, unless its `WWW-Authenticate` has the code `insufficient_scope`,
    /// `insufficient_user_authentication` or one of DPoP's, or offers only DPoP or another
    /// proof-of-possession scheme; and gRPC's `UNAUTHENTICATED` in the headers of a response.
    pub fn rejected_when(mut self, test: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.rule.get_or_insert("rejected_when");
        self.rules.test = Some(Test(Arc::new(test)));
        self
    }

    /// How many bytes of a streaming body are kept while they pass, so that the request can be sent
    /// again. Default: 65,536. A longer body streams on, and is not sent again. Bodies that are
    /// cheap to clone are kept whatever their size.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.rule.get_or_insert("replay_limit");
        self.rules.replay_limit = bytes;
        self
    }
}

/// # Building
impl Builder {
    /// Checks the settings and makes the layer. No I/O.
    ///
    /// # Errors
    ///
    /// The first setting that is wrong or missing.
    pub fn build(mut self) -> Result<OAuthClientCredentialsLayer, ConfigError> {
        let rules = std::mem::take(&mut self.rules);
        Ok(OAuthClientCredentialsLayer::with_rules(&self.cache()?, rules))
    }

    /// Checks the settings and makes the cache of a token, to be used without the layer. No I/O.
    ///
    /// # Errors
    ///
    /// The first setting that is wrong or missing. Rules of the layer are wrong here: a cache has
    /// none. They belong on [`from_cache`](Self::from_cache), which makes a layer of it.
    pub fn build_cache(mut self) -> Result<TokenCache, ConfigError> {
        self.first_error()?;
        self.refuse_rules("a cache has none: set it on `Builder::from_cache(&cache)`")?;
        self.cache()
    }

    /// The cache, whether or not there are rules for a layer over it.
    fn cache(mut self) -> Result<TokenCache, ConfigError> {
        self.first_error()?;
        let origin = self.origin.take();
        if let Some(name) = origin.as_ref().map(Origin::name)
            && let Some(setting) = self.endpoint_setting()
        {
            let problem = format!("is for a token endpoint, and {name} is set");
            return Err(self.error_in(setting, problem));
        }
        let source = match origin {
            None => None,
            Some(Origin::Source(source)) => Some(source),
            Some(Origin::Cache(cache)) => {
                return match self.cache_settings.first() {
                    None => Ok(cache),
                    Some(setting) => {
                        Err(self.error_in(setting, "is for a cache, and from_cache gives one"))
                    }
                };
            }
        };
        let (attempt, renewal) = (self.settings.attempt_timeout, self.settings.renewal_timeout);
        // The default gives way.
        if attempt > renewal && self.cache_settings.contains(&"attempt_timeout") {
            let problem = format!(
                "is {attempt:?}, longer than the renewal_timeout of {renewal:?} that it must fit \
                 into"
            );
            return Err(self.error_in("attempt_timeout", problem));
        }
        let settings = std::mem::take(&mut self.settings);
        let source: Arc<dyn TokenSource> = match source {
            Some(source) => source,
            None => {
                self.settings.clock = settings.clock.clone();
                Arc::new(self.endpoint()?)
            }
        };
        Ok(TokenCache::with_settings(source, settings))
    }

    pub(super) fn first_error(&mut self) -> Result<(), ConfigError> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// For what has no rules: to drop one in silence could send the token anywhere.
    pub(super) fn refuse_rules(&self, why: &str) -> Result<(), ConfigError> {
        match self.rule {
            None => Ok(()),
            Some(rule) => Err(self.error_in(rule, format!("is a rule of the layer, and {why}"))),
        }
    }

    /// The first setting of a token endpoint that is set.
    fn endpoint_setting(&self) -> Option<&'static str> {
        let set = [
            ("token_url", self.token_url.is_some()),
            ("client_id", self.client_id.is_some()),
            ("client_secret", self.client_secret.is_some()),
            ("client_secret_file", self.client_secret_file.is_some()),
            ("credentials", self.credentials.is_some()),
            ("scope", !self.scope.is_empty()),
            ("audience", self.audience.is_some()),
            ("resource", !self.resources.is_empty()),
            ("param", !self.params.is_empty()),
            ("header", !self.headers.0.is_empty()),
            ("dialect", self.dialect.is_some()),
            ("dangerously_allow_insecure_token_url", self.insecure == Insecure::Anywhere),
            ("transport", self.transport.is_some()),
            ("ca_file", !self.ca_files.is_empty()),
            ("ca_pem", !self.ca_pem.is_empty()),
        ];
        set.into_iter().find_map(|(name, is_set)| is_set.then_some(name))
    }
}
