//! Advice for requests without a response, from the error and the environment.

use std::ffi::OsString;

use crate::error::{BoxError, chain};

/// The messages of rustls, OpenSSL and Schannel for bytes that are not a TLS record: an HTTP server
/// responds 400 in plain text.
const NOT_TLS: [&str; 6] = [
    "InvalidContentType",
    "wrong version number",
    "packet length too long",
    "record overflow",
    "SSL routines:ssl3_get_record:http request",
    "SSL routines::http request",
];

/// The messages of rustls, OpenSSL and macOS for a certificate whose issuer is not trusted.
const UNKNOWN_CA: [&str; 6] = [
    "UnknownIssuer",
    // The certificate comes from another CA with the same name.
    "invalid peer certificate: BadSignature",
    "self-signed certificate",
    "self signed certificate",
    "unable to get local issuer certificate",
    "certificate is not trusted",
];

/// Returns the variable that names a proxy for token requests, for a transport that uses none. Its
/// value may contain a password.
pub(crate) fn unused_proxy(
    scheme: Option<&str>,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Option<&'static str> {
    let own: &[_] = match scheme {
        Some("https") => &["https_proxy", "HTTPS_PROXY"],
        // `HTTP_PROXY` may be a header of a CGI request, so it is not read.
        _ => &["http_proxy"],
    };
    own.iter()
        .copied()
        .chain(["all_proxy", "ALL_PROXY"])
        .find(|name| lookup(name).is_some_and(|value| !value.is_empty()))
}

/// Returns the advice, if the error allows one.
pub(super) fn advice(error: &BoxError, unused_proxy: Option<&'static str>) -> Option<String> {
    let texts: Vec<_> = chain(&**error).map(ToString::to_string).collect();
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|w| text.contains(w)));
    if says(&NOT_TLS) {
        return Some(
            "what answers there does not speak TLS: is it the port of plain HTTP, or must the URL \
             begin with http://?"
                .into(),
        );
    }
    if says(&UNKNOWN_CA) {
        return Some(
            "no CA that is trusted here has signed the server's certificate: if it is one of your \
             own, add it with `Builder::ca_file` (`OAUTH_CA_FILE`) or `ca_pem`; a transport of your \
             own has its own setting"
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
    use crate::error::{ErrorClass, TokenError};

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

    #[test]
    fn tls_failures_of_every_transport_say_what_to_look_at() {
        for (text, said) in [
            ("received corrupt message of type InvalidContentType", "does not speak TLS"),
            ("error:0A00010B:SSL routines::wrong version number", "does not speak TLS"),
            ("invalid peer certificate: UnknownIssuer", "`Builder::ca_file` (`OAUTH_CA_FILE`)"),
            ("invalid peer certificate: BadSignature", "`Builder::ca_file`"),
            ("unable to get local issuer certificate", "`Builder::ca_file` (`OAUTH_CA_FILE`)"),
            ("certificate verify failed: self-signed certificate", "`Builder::ca_file`"),
        ] {
            // As hyper-util has it: behind two errors, the inner one in an `io::Error`.
            let inner = std::io::Error::other(std::io::Error::other(text));
            let error = TokenError::new(ErrorClass::Transient, "connect").with_source(inner);
            let advice = advice(&error.into(), Some("HTTPS_PROXY")).unwrap();
            assert!(advice.contains(said), "{text}: {advice}");
        }
    }
}
