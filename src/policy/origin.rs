//! The allowed origins: decides whether a request may carry the token.
//!
//! This module compares the origin of a request (scheme, host, port) with the allowed ones; the
//! layer acts on the [`Admission`]. Paths and queries play no part and appear in no error, since
//! they may be secret.
//!
//! Host names are compared as text and never resolved. A name that points to a loopback address is
//! therefore not loopback, and a name with a trailing dot is a different name, as in browsers.

use std::net::Ipv4Addr;

use http::Uri;

use super::origin_value::{Scheme, ipv6};
use crate::error::{ErrorClass, TokenError, server_text};

pub use super::origin_value::{Origin, OriginError};

/// The origins that may receive the token.
#[derive(Clone, Debug, Default)]
pub(crate) struct OriginPolicy {
    allowed: Vec<Origin>,
    /// The authorities of the https origins, in their usual spelling.
    usual: Vec<Box<str>>,
    plain_http: bool,
    pass_without: bool,
}

/// The decision on a request, by its target.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Send it with the token.
    Attach,
    /// Send it without the token.
    Without,
    /// Fail without sending it.
    Refuse(TokenError),
}

impl OriginPolicy {
    /// Adds an allowed origin. Once there is one, no other origin receives the token. Adding an
    /// `http` origin allows plain HTTP to it.
    pub(crate) fn allow(&mut self, origin: Origin) {
        self.usual.extend(origin.https_authority());
        self.allowed.push(origin);
    }

    /// Returns `true` if at least one allowed origin was added.
    pub(crate) fn names_any(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// Lets every plain HTTP origin receive the token, as long as no allowed origin is added.
    pub(crate) fn allow_plain_http(&mut self) {
        self.plain_http = true;
    }

    /// Sends requests to other origins without the token, instead of failing.
    pub(crate) fn pass_others_without_token(&mut self) {
        self.pass_without = true;
    }

    /// Returns whether a request for `uri` may carry the token.
    ///
    /// A URI without an authority is trusted: its destination is fixed by the inner service.
    pub(crate) fn admit(&self, uri: &Uri) -> Admission {
        if self.may_have_token(uri) { Admission::Attach } else { self.keep_from(uri) }
    }

    /// Returns `true` if `uri` is surely admitted. This is the fast path for almost all requests:
    /// https, to an allowed origin in its usual spelling. `false` means that [`admit`](Self::admit)
    /// must decide.
    #[inline]
    pub(crate) fn admits_fast(&self, uri: &Uri) -> bool {
        uri.scheme_str() == Some("https")
            && (self.allowed.is_empty()
                || uri.authority().is_some_and(|authority| {
                    self.usual.iter().any(|usual| **usual == *authority.as_str())
                }))
    }

    fn may_have_token(&self, uri: &Uri) -> bool {
        if self.allowed.is_empty() {
            uri.scheme() == Some(&http::uri::Scheme::HTTPS)
                || uri.authority().is_none()
                || self.plain_http && Scheme::of(uri) == Some(Scheme::Http)
                || is_secure(uri)
        } else {
            self.allowed.iter().any(|origin| origin.is_of(uri)) || uri.authority().is_none()
        }
    }

    #[cold]
    fn keep_from(&self, uri: &Uri) -> Admission {
        if self.pass_without {
            return Admission::Without;
        }
        let origin = shown(uri);
        let error = if !self.allowed.is_empty() {
            TokenError::new(ErrorClass::Origin, format!("the token must not be sent to {origin}"))
                .with_advice("it is not among the allowed origins")
        } else if Scheme::of(uri) == Some(Scheme::Http) {
            TokenError::new(
                ErrorClass::Origin,
                format!("the token must not be sent to {origin} by plain HTTP"),
            )
            .with_advice("use https, or name the origin as an allowed one")
        } else {
            TokenError::new(ErrorClass::Origin, format!("the token must not be sent to {origin}"))
                .with_advice("it is neither https nor http")
        };
        Admission::Refuse(error)
    }
}

/// Returns `true` if the connection cannot be eavesdropped on: https, or http that stays on this
/// host. The URL of a token endpoint must be secure, too.
pub(crate) fn is_secure(uri: &Uri) -> bool {
    match Scheme::of(uri) {
        Some(Scheme::Https) => true,
        Some(Scheme::Http) => uri.host().is_some_and(is_loopback),
        None => false,
    }
}

/// Returns `true` if `host`, as written in a URI, is certainly this host: `localhost`, 127.0.0.0/8
/// or `[::1]`.
///
/// Excluded are `[::ffff:127.0.0.1]`, which some systems route off the host; `127.1` and `0x7f.1`,
/// which resolvers interpret differently; `localhost.`, which may be missing from the hosts file;
/// and `api.localhost`, which RFC 6761 section 6.3 keeps on the host but many resolvers look up in
/// DNS.
pub(crate) fn is_loopback(host: &str) -> bool {
    if let Some(address) = ipv6(host) {
        return address.is_loopback();
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    host.eq_ignore_ascii_case("localhost")
}

/// Returns the origin of `uri` in a form that errors may show: without user info, path and query.
pub(crate) fn shown(uri: &Uri) -> Box<str> {
    let mut text = String::new();
    if let Some(scheme) = uri.scheme_str() {
        text.push_str(scheme);
        text.push_str("://");
    }
    text.push_str(uri.host().unwrap_or_default());
    if let Some(port) = uri.port() {
        text.push(':');
        text.push_str(port.as_str());
    }
    server_text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn rules(allowed: &[&str]) -> OriginPolicy {
        let mut rules = OriginPolicy::default();
        for origin in allowed {
            rules.allow(origin.parse().unwrap());
        }
        rules
    }

    fn attaches(rules: &OriginPolicy, text: &str) -> bool {
        let attaches = matches!(rules.admit(&uri(text)), Admission::Attach);
        assert!(attaches || !rules.admits_fast(&uri(text)), "{text} is not sure at all");
        attaches
    }

    #[test]
    fn without_a_list_https_and_loopback_may_have_the_token() {
        let rules = rules(&[]);
        for (text, admitted) in [
            ("https://api.example.com/v1?q=1", true),
            ("https://user:pass@api.example.com/", true),
            ("HTTPS://api.example.com/", true),
            ("/v1/reports", true),
            ("*", true),
            ("http://localhost:3000/x", true),
            ("http://LOCALHOST/", true),
            ("http://auth.localhost/", false),
            ("http://127.0.0.1:8080/", true),
            ("http://127.255.3.4/", true),
            ("http://[::1]:8080/", true),
            ("http://[0:0:0:0:0:0:0:1]/", true),
            ("http://u:p@localhost/", true),
            ("http://api.example.com/", false),
            ("http://127.0.0.1.evil.com/", false),
            ("http://127.0.0.1@evil.com/", false),
            ("http://localhost@evil.com:80/", false),
            ("http://localhost.evil.com/", false),
            ("http://notlocalhost/", false),
            ("http://evil-localhost/", false),
            ("http://localhost./", false),
            ("http://.localhost/", false),
            ("http://127.1/", false),
            ("http://0.0.0.0/", false),
            ("http://128.0.0.1/", false),
            ("http://[::ffff:127.0.0.1]/", false),
            ("http://[::2]/", false),
            ("ws://localhost/", false),
            ("wss://api.example.com/", false),
            ("api.example.com:443", false),
        ] {
            assert_eq!(attaches(&rules, text), admitted, "{text}");
        }
    }

    #[test]
    fn plain_http_elsewhere_only_when_asked_for() {
        let mut rules = rules(&[]);
        assert!(!attaches(&rules, "http://reports.internal/"));
        rules.allow_plain_http();
        assert!(attaches(&rules, "http://reports.internal/"));
        assert!(!attaches(&rules, "ftp://reports.internal/"));
        // With a list, only its entries.
        rules.allow("https://api.example.com".parse().unwrap());
        assert!(!attaches(&rules, "http://reports.internal/"));
        rules.allow("http://reports.internal".parse().unwrap());
        assert!(attaches(&rules, "http://reports.internal:80/"));
    }

    #[test]
    fn with_a_list_only_what_is_on_it() {
        let rules = rules(&["https://api.example.com", "http://[::1]:8080"]);
        for (text, admitted) in [
            ("https://api.example.com/v1", true),
            ("https://API.EXAMPLE.COM/", true),
            ("https://api.example.com:443/", true),
            ("https://evil@api.example.com/", true),
            ("/relative", true),
            ("http://[0::0:1]:8080/", true),
            ("https://api.example.com:8443/", false),
            ("http://api.example.com/", false),
            ("http://api.example.com:443/", false),
            ("https://api.example.com./", false),
            ("https://api.example.com.evil.com/", false),
            ("https://api.example.com@evil.com/", false),
            ("https://api.example.com:443@evil.com/", false),
            ("https://evil.com/https://api.example.com", false),
            ("https://sub.api.example.com/", false),
            ("http://[::1]/", false),
            ("http://localhost:8080/", false),
            ("api.example.com:443", false),
        ] {
            assert_eq!(attaches(&rules, text), admitted, "{text}");
        }
    }

    #[test]
    fn the_usual_ways_to_write_an_origin_are_seen_at_a_glance() {
        let any = rules(&[]);
        assert!(any.admits_fast(&uri("https://api.example.com/v1")));
        assert!(!any.admits_fast(&uri("http://localhost/v1")), "is looked at closely");

        let listed = rules(&["http://a.example", "https://b.example", "https://[0:0::1]:8443"]);
        assert!(listed.admits_fast(&uri("https://b.example/v1")));
        assert!(listed.admits_fast(&uri("https://[::1]:8443/v1")));
        assert!(!listed.admits_fast(&uri("https://a.example/v1")), "another scheme");
        assert!(!listed.admits_fast(&uri("https://b.example:8443/v1")), "another port");
    }

    #[test]
    fn a_refusal_names_the_origin_and_nothing_else() {
        let target = uri("https://user:s3cr3t@evil.com:8443/s3cr3t?token=s3cr3t");
        let mut rules = rules(&["https://api.example.com"]);
        let Admission::Refuse(error) = rules.admit(&target) else { panic!("not refused") };
        assert_eq!(error.class(), ErrorClass::Origin);
        assert!(error.to_string().contains("https://evil.com:8443 "), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cr3t"));

        rules.pass_others_without_token();
        assert!(matches!(rules.admit(&target), Admission::Without));
        let mut any = super::tests::rules(&[]);
        any.pass_others_without_token();
        let plain = uri("http://evil.com/");
        assert!(matches!(any.admit(&plain), Admission::Without), "also where there is no list");
        assert!(attaches(&rules, "https://api.example.com/"));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (text, advice) in [
            ("http://example.com/", "use https"),
            ("ws://example.com/", "neither https nor http"),
            ("example.com:443", "neither https nor http"),
        ] {
            let Admission::Refuse(error) = rules(&[]).admit(&uri(text)) else {
                panic!("{text} is not refused")
            };
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
