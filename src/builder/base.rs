//! [`Builder`] itself: the settings that all kinds share, and the first problem found.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use super::{
    env,
    target::{ForLayer, FromEndpoint},
};
use crate::{
    cache::{Settings, TokenCache},
    config_error::{ConfigError, shown},
    token::TokenSource,
};

/// Configures a client: where its tokens come from, how they are kept, and where they go.
///
/// Needed are [`token_url`](Self::token_url) and credentials:
/// [`client_id`](Self::client_id) with [`client_secret`](Self::client_secret) or
/// [`client_secret_file`](Self::client_secret_file), or a provider of
/// [`credentials`](Self::credentials). A setting that is given twice has its last value, unless it
/// says that it adds. A bad setting is reported when the client is built, the first one first.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use tower_oauth2_client_credentials::{BoxError, endpoint::TransportRequestBody};
/// # use http::{Request, Response};
/// # let token_endpoint = tower::service_fn(|_: Request<TransportRequestBody>| async {
/// #     let answer = r#"{"access_token":"t0k3n","token_type":"Bearer","expires_in":3600}"#;
/// #     Ok::<_, BoxError>(Response::new(answer.to_owned()))
/// # });
/// # let http_client = tower::service_fn(|request: Request<String>| async move {
/// #     assert_eq!(request.headers()["authorization"], "Bearer t0k3n");
/// #     Ok::<_, BoxError>(Response::new(String::new()))
/// # });
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_oauth2_client_credentials::Builder;
///
/// let auth = Builder::new()
///     .token_url("https://auth.example.com/oauth/token")
///     .client_id("my-service")
///     .client_secret("s3cr3t")
///     .scope("read:reports")
///     .allowed_origin("https://api.example.com")
/// #   .transport(token_endpoint)
///     .build()?;
/// let client = ServiceBuilder::new().layer(auth).service(http_client);
///
/// let request = http::Request::get("https://api.example.com/reports").body(String::new())?;
/// let response = client.oneshot(request).await?;
/// assert!(response.status().is_success());
///
/// let error = Builder::new().token_url("http://auth.example.com/").build().unwrap_err();
/// assert_eq!(error.setting(), "token_url");
/// # Ok::<(), BoxError>(()) }).unwrap();
/// ```
///
/// The parameters say what is built ([`ForLayer`] unless it is another) and where the tokens come
/// from ([`FromEndpoint`] unless it is elsewhere): see [`builder`](crate::builder).
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<T = ForLayer, S = FromEndpoint> {
    pub(super) target: T,
    pub(super) source: S,
    pub(super) shared: Shared,
}

/// The settings that are not those of one target or source alone.
#[derive(Debug, Default)]
pub struct Shared {
    pub(super) settings: Settings,
    /// Whether it is set: the default gives way to a shorter `renewal_timeout`.
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) name: Option<Arc<str>>,
    pub(super) env_prefix: Option<String>,
    /// Variables that are set and look like those of a setting.
    pub(super) near_misses: Vec<(&'static str, String)>,
    error: Option<ConfigError>,
}

impl Builder {
    /// Starts to configure a layer with a token endpoint. Nothing is set yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: Default, S> Builder<T, S> {
    /// Starts with `source`. Nothing else is set yet.
    pub(super) fn with(source: S) -> Self {
        Self { target: T::default(), source, shared: Shared::default() }
    }
}

impl<T, S> Builder<T, S> {
    /// Keeps the first problem, for `build` to report.
    pub(super) fn fail(&mut self, setting: &'static str, problem: impl Into<Cow<'static, str>>) {
        let error = self.shared.error_in(setting, problem);
        self.shared.error.get_or_insert(error);
    }

    pub(super) fn check_text(&mut self, setting: &'static str, text: &str) {
        if text.is_empty() {
            self.fail(setting, "is empty");
        } else if text.chars().any(char::is_control) {
            self.fail(setting, format!("has a control character: {}", shown(text)));
        }
    }
}

impl Shared {
    /// Makes an error in `setting`, which is also called by its variable if the environment was
    /// read.
    pub(super) fn error_in(
        &self,
        setting: &'static str,
        problem: impl Into<Cow<'static, str>>,
    ) -> ConfigError {
        let variable = self.env_prefix.as_deref().and_then(|prefix| env::variable(prefix, setting));
        match variable {
            Some(variable) => ConfigError::new(format!("{setting} ({variable})"), problem),
            None => ConfigError::new(setting, problem),
        }
    }

    /// Makes the error of a setting that there must be.
    pub(super) fn missing(&self, setting: &'static str) -> ConfigError {
        let also = match setting {
            "client_secret" => ", and neither is client_secret_file",
            _ => "",
        };
        let near = match self.near_misses.iter().find(|(of, _)| *of == setting) {
            Some((_, near)) => format!(" (is {near}, which is set, meant to be it?)"),
            None => String::new(),
        };
        self.error_in(setting, format!("is not set{also}{near}"))
    }

    /// Fails if a setting that need not be there is not, and a variable looks like it: it would be
    /// without effect.
    pub(super) fn near_miss(&self, setting: &'static str) -> Result<(), ConfigError> {
        match self.near_misses.iter().any(|(of, _)| *of == setting) {
            true => Err(self.missing(setting)),
            false => Ok(()),
        }
    }

    pub(super) fn first_error(&mut self) -> Result<(), ConfigError> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Makes the cache of what `source` fetches.
    pub(super) fn cache(
        self,
        source: Arc<dyn TokenSource>,
        client: Option<Arc<str>>,
    ) -> Result<TokenCache, ConfigError> {
        let mut settings = self.settings;
        settings.client = client;
        if let Some(attempt) = self.attempt_timeout {
            let renewal = settings.renewal_timeout;
            if attempt > renewal {
                let problem = format!(
                    "is {attempt:?}, longer than the renewal_timeout of {renewal:?} that it must \
                     fit into"
                );
                return Err(ConfigError::new("attempt_timeout", problem));
            }
            settings.attempt_timeout = attempt;
        }
        Ok(TokenCache::with_settings(source, settings))
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::with(FromEndpoint::default())
    }
}

impl<T, S: fmt::Debug> fmt::Debug for Builder<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("source", &self.source)
            .field("error", &self.shared.error)
            .finish_non_exhaustive()
    }
}
