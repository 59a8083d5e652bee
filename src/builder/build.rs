//! From settings to a [`TokenEndpoint`]: what must be there, and what does not go together.

use std::{path::PathBuf, sync::Arc};

use super::{Builder, RESERVED_HEADERS, client::Origin};
#[cfg(feature = "rustls")]
use crate::endpoint::RustlsTransport;
use crate::{
    config_error::{ConfigError, shown},
    credentials::{ClientCredentials, CredentialsProvider, SecretFile},
    endpoint::{TokenEndpoint, TokenRequest, Transport, url},
};

impl Builder {
    /// Checks the settings and makes the source of tokens. No I/O: a file is not opened before
    /// the first token is asked for.
    ///
    /// # Errors
    ///
    /// The first setting that is wrong or missing. Settings of the cache and rules of the layer are
    /// wrong here: a source has neither. They belong on [`Builder::from_source`], to which it is
    /// given.
    pub fn build_source(mut self) -> Result<TokenEndpoint, ConfigError> {
        self.first_error()?;
        if let Some(name) = self.origin.as_ref().map(Origin::name) {
            return Err(self.error_in(name, "is not a token endpoint"));
        }
        self.refuse_rules("a source has none: set it on `Builder::from_source(source)`")?;
        // The endpoint reads the clock, too.
        if let Some(setting) = self.cache_settings.iter().find(|setting| **setting != "clock") {
            let problem = "is for the cache, and a source has none: set it on \
                           `Builder::from_source(source)`";
            return Err(self.error_in(setting, problem));
        }
        self.endpoint()
    }

    /// The source, whatever else is made of it.
    pub(super) fn endpoint(mut self) -> Result<TokenEndpoint, ConfigError> {
        let request = self.token_request()?;
        let credentials = self.credentials_provider()?;
        let transport = self.token_transport()?;
        Ok(TokenEndpoint::new(request, credentials, transport, self.settings.clock))
    }

    fn token_request(&mut self) -> Result<TokenRequest, ConfigError> {
        let Some(text) = &self.token_url else {
            return Err(self.error_in("token_url", "is not set"));
        };
        let url = url::parse(text, self.insecure)
            .map_err(|problem| self.error_in("token_url", problem))?;

        let mut request = TokenRequest::new(url, self.dialect.take().unwrap_or_default());
        request.scope = (!self.scope.is_empty()).then(|| self.scope.join(" "));
        request.audience = self.audience.take();
        request.resources = std::mem::take(&mut self.resources);
        request.params = std::mem::take(&mut self.params);
        request.headers = std::mem::take(&mut self.headers);

        let names = request.field_names();
        for (at, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(self.error_in("dialect", "has a field with an empty name"));
            }
            if names.iter().take(at).any(|earlier| earlier == name) {
                let setting = if request.params.iter().any(|(param, _)| param == name) {
                    "param"
                } else {
                    "dialect"
                };
                let problem = format!("puts {} into the token request twice", shown(name));
                return Err(self.error_in(setting, problem));
            }
        }
        let headers = request.headers.0.iter().chain(request.dialect.fixed_headers());
        if let Some((name, _)) =
            headers.into_iter().find(|(name, _)| RESERVED_HEADERS.contains(name))
        {
            return Err(self.error_in(
                "header",
                format!("{name} must not be set: it follows from other settings"),
            ));
        }
        Ok(request)
    }

    fn credentials_provider(&mut self) -> Result<Arc<dyn CredentialsProvider>, ConfigError> {
        let id = self.client_id.take();
        match (self.credentials.take(), self.client_secret.take(), self.client_secret_file.take()) {
            (Some(provider), None, None) if id.is_none() => Ok(provider),
            (Some(_), ..) => Err(self.error_in(
                "credentials",
                "cannot be set together with client_id, client_secret or client_secret_file: leave \
                 out one or the other",
            )),
            (None, Some(_), Some(_)) => Err(self.error_in(
                "client_secret",
                "and client_secret_file are both set: which one is right?",
            )),
            (None, secret, file) => {
                let Some(id) = id else {
                    return Err(self.error_in("client_id", "is not set"));
                };
                match (secret, file) {
                    (Some(secret), _) => Ok(Arc::new(ClientCredentials::new(id, secret))),
                    (None, Some(path)) if path.as_os_str().is_empty() => {
                        Err(self.error_in("client_secret_file", "is empty"))
                    }
                    (None, Some(path)) => Ok(Arc::new(SecretFile::new(id, path))),
                    (None, None) => Err(self.error_in(
                        "client_secret",
                        "is not set, and neither is client_secret_file",
                    )),
                }
            }
        }
    }

    fn token_transport(&mut self) -> Result<Arc<dyn Transport>, ConfigError> {
        let files = std::mem::take(&mut self.ca_files);
        let pem = std::mem::take(&mut self.ca_pem);
        match self.transport.take() {
            None => default_transport(files, pem),
            Some(transport) if files.is_empty() && pem.is_empty() => Ok(transport),
            Some(_) => {
                let setting = if files.is_empty() { "ca_pem" } else { "ca_file" };
                let problem = "is for the default transport, but another transport is set";
                Err(self.error_in(setting, problem))
            }
        }
    }
}

/// The one place where the default transport is plugged in: `endpoint::rustls`, with feature
/// `rustls`.
///
/// A file is read when the first token is asked for; a text in memory can be judged now.
#[cfg(feature = "rustls")]
fn default_transport(
    ca_files: Vec<PathBuf>,
    ca_pem: Vec<Vec<u8>>,
) -> Result<Arc<dyn Transport>, ConfigError> {
    for (index, pem) in ca_pem.iter().enumerate() {
        if let Some(problem) = RustlsTransport::pem_problem(pem) {
            let which =
                if ca_pem.len() > 1 { format!(" (number {})", index + 1) } else { String::new() };
            return Err(ConfigError::new("ca_pem", problem + &which));
        }
    }
    Ok(Arc::new(RustlsTransport::new(ca_files, ca_pem)))
}

#[cfg(not(feature = "rustls"))]
fn default_transport(_: Vec<PathBuf>, _: Vec<Vec<u8>>) -> Result<Arc<dyn Transport>, ConfigError> {
    Err(ConfigError::new(
        "transport",
        "is not set: turn on the feature `rustls` of this crate for the default one, or give a \
         tower service with `Builder::transport`",
    ))
}
