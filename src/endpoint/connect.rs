//! Advice where no answer came: what can be told from the error, and from the environment.

use std::{error::Error as StdError, ffi::OsString, iter};

use crate::error::BoxError;

/// Returns the variable that names a proxy for token requests, for a transport that uses none. Its
/// value may have a password in it.
pub(crate) fn unused_proxy(
    scheme: Option<&str>,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Option<&'static str> {
    let own: &[_] = match scheme {
        Some("https") => &["https_proxy", "HTTPS_PROXY"],
        // `HTTP_PROXY` may be a header of a CGI request: nobody reads it.
        _ => &["http_proxy"],
    };
    own.iter()
        .copied()
        .chain(["all_proxy", "ALL_PROXY"])
        .find(|name| lookup(name).is_some_and(|value| !value.is_empty()))
}

/// Returns what to look at, if that can be told.
pub(super) fn advice(error: &BoxError, unused_proxy: Option<&'static str>) -> Option<String> {
    let first: &(dyn StdError + 'static) = &**error;
    let mut chain = iter::successors(Some(first), |&error| error.source());
    // rustls' words for bytes that are no TLS record; an HTTP server answers 400 in plain text.
    if chain.any(|error| error.to_string().contains("InvalidContentType")) {
        return Some(
            "what answers there does not speak TLS: is it the port of plain HTTP, or must the URL \
             begin with http://?"
                .into(),
        );
    }
    let proxy = unused_proxy?;
    Some(format!(
        "{proxy} is set, and the default transport uses no proxy: where the way leads through one, \
         set `Builder::transport`, for example with `ReqwestTransport`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_set_and_not_used_is_found_by_the_urls_scheme() {
        let set = |wanted: &'static str| {
            move |name: &str| (name == wanted).then(|| OsString::from("http://u:c4n4ry@proxy:3128"))
        };
        for (scheme, variable, found) in [
            ("https", "HTTPS_PROXY", true),
            ("https", "https_proxy", true),
            ("https", "ALL_PROXY", true),
            ("https", "http_proxy", false),
            ("http", "http_proxy", true),
            ("http", "HTTP_PROXY", false),
            ("http", "HTTPS_PROXY", false),
        ] {
            let proxy = unused_proxy(Some(scheme), set(variable));
            assert_eq!(proxy, found.then_some(variable), "{scheme} {variable}");
        }
        assert_eq!(unused_proxy(Some("https"), |_| Some(OsString::new())), None);
        let error = BoxError::from("connection timed out");
        assert_eq!(advice(&error, None), None);
        let said = advice(&error, Some("HTTPS_PROXY")).unwrap();
        assert!(said.starts_with("HTTPS_PROXY is set, and the default transport"), "{said}");
    }
}
