//! The short name of a client in errors.

use std::sync::Arc;

use http::Uri;

use crate::error::server_text;

/// A client's name; without one, its id and the host of its token URL.
pub(crate) struct ClientLabel {
    name: Option<Arc<str>>,
    /// `None` if only the provider of the credentials knows it.
    id: Option<String>,
    host: String,
}

impl ClientLabel {
    pub(crate) fn new(name: Option<Arc<str>>, id: Option<String>, token_url: &Uri) -> Self {
        let host = token_url.authority().map_or("", |authority| authority.as_str());
        Self { name, id, host: host.to_owned() }
    }

    /// Returns the label, with `id` if the credentials are known.
    pub(crate) fn text(&self, id: Option<&str>) -> Arc<str> {
        match (&self.name, id.or(self.id.as_deref())) {
            (Some(name), _) => Arc::clone(name),
            // The provider may return any id, so it is limited to text that a log line can show.
            (None, Some(id)) => format!("{} at {}", server_text(id), self.host).into(),
            (None, None) => format!("at {}", self.host).into(),
        }
    }
}
