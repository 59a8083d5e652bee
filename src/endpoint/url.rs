//! The rules for token URLs, and for showing a URL.
//!
//! Pure. The origins that may receive the token are decided in `policy::origin`.

use http::{Uri, uri::Scheme};

use crate::{error::config::shown, policy::origin::is_loopback};

/// The hosts that a token URL with plain http may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Insecure {
    /// Only this machine.
    #[default]
    Loopback,
    /// Any host.
    Anywhere,
}

/// Reads a token URL.
///
/// # Errors
///
/// The problem, as a predicate to the setting's name.
pub(crate) fn parse(text: &str, insecure: Insecure) -> Result<Uri, String> {
    let fail = |problem: &str| Err(format!("{problem}: {}", shown(&presentable(text))));
    if text.is_empty() {
        return Err("is empty".into());
    }
    if !text.is_ascii() {
        return fail("has characters other than ASCII");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return fail("is not an absolute URL that begins with https://");
    };
    let authority = authority(rest);
    // Checked first, since a password's `#` or `:` would be misread.
    if authority.contains('@') || hides_a_password(rest) {
        return fail("has credentials in it, which belong in client_id and client_secret");
    }
    // `Uri` drops a fragment silently.
    if text.contains('#') {
        return fail("has a fragment (RFC 6749 section 3.2 forbids it)");
    }
    if authority.is_empty() || authority.starts_with(':') {
        return fail("has no host");
    }
    let Ok(url) = text.parse::<Uri>() else {
        return fail("is not a URL");
    };
    let host = url.host().unwrap_or_default();
    if host.is_empty() {
        return fail("has no host");
    }
    // A port of more than 16 bits parses as none; so does a colon with nothing behind it.
    if url.port_u16().is_none() && authority.len() != host.len() {
        return fail("has a port that does not exist");
    }
    match url.scheme() {
        Some(known) if *known == Scheme::HTTPS => Ok(url),
        Some(known) if *known == Scheme::HTTP => match insecure {
            Insecure::Anywhere => Ok(url),
            Insecure::Loopback if is_loopback(host) => Ok(url),
            Insecure::Loopback => fail(
                "would send the secret over plain http to another machine (use https, or \
                 `dangerously_allow_insecure_token_url`)",
            ),
        },
        _ => fail(&format!("has the scheme {}, which is neither https nor http", shown(scheme))),
    }
}

/// Returns `url` without the parts that may be secret: user, password, query, fragment.
pub(crate) fn presentable(url: &str) -> String {
    // Only behind a scheme: a password, a path or a query may have the same characters.
    let is_scheme = |text: &str| {
        let name = text.strip_suffix(':');
        text.is_empty() || name.is_some_and(|name| !name.contains([':', '/', '?', '#', '@']))
    };
    let at = url.find("//").filter(|at| url.get(..*at).is_some_and(is_scheme));
    let start = at.map_or(0, |at| at + 2);
    let (before, rest) = url.split_at_checked(start).unwrap_or(("", url));
    let is_path = url.starts_with('/');
    if start == 0 && !is_path && rest.contains('@') || hides_a_password(rest) {
        return format!("{before}***");
    }
    let authority = authority(rest);
    let after = rest.get(authority.len()..).unwrap_or_default();
    let path = after.split(['?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{before}***@{host}{path}"),
        None => format!("{before}{authority}{path}"),
    }
}

fn authority(after_scheme: &str) -> &str {
    after_scheme.split(['/', '?', '#']).next().unwrap_or_default()
}

/// A password with a `/`, `?` or `#` that should have been encoded: what looks like the authority
/// then ends within it, and the `@` comes later. A host and its port look the same if the port is a
/// number, and an `@` may well stand in a path or query behind that.
fn hides_a_password(after_scheme: &str) -> bool {
    let authority = authority(after_scheme);
    let after = after_scheme.get(authority.len()..).unwrap_or_default();
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_host_and_port = match authority.rsplit_once(':') {
        Some((host, port)) => is_number(port) || host.starts_with('[') && port.ends_with(']'),
        None => true,
    };
    !is_host_and_port && after.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_to_this_machine() {
        for good in [
            "https://auth.example.com/oauth/token",
            "HTTPS://auth.example.com:8443/t/?tenant=a@b",
            "https://[2001:db8::1]/t",
            "http://localhost:3000/token",
            "http://LocalHost/",
            "http://127.8.9.1:80/t",
            "http://[::1]:8080/t",
        ] {
            assert!(parse(good, Insecure::Loopback).is_ok(), "{good}");
        }
        for good in ["https://a.example:8443/@realm/t", "https://[::1]/t?user=a@b"] {
            assert!(parse(good, Insecure::Loopback).is_ok(), "{good}");
        }
        let plain = "http://auth.internal/t";
        assert!(parse(plain, Insecure::Anywhere).is_ok());
    }

    #[test]
    fn what_is_no_token_url_is_named_and_shown_without_its_secrets() {
        for (bad, problem) in [
            ("", "is empty"),
            ("/oauth/token", "is not an absolute URL"),
            ("auth.example.com", "is not an absolute URL"),
            ("localhost:3000/token", "is not an absolute URL"),
            ("https:/auth.example.com", "is not an absolute URL"),
            ("https://", "has no host"),
            ("https:///token", "has no host"),
            ("https://:443/token", "has no host"),
            ("https://a.example/t#frag", "has a fragment"),
            ("https://me:c4n4ry@a.example/t", "has credentials in it"),
            ("https://me:c4n4/4ry@a.example/t", "has credentials in it"),
            ("https://me:c4n4?4ry@a.example/t", "has credentials in it"),
            ("https://me:c4n4#4ry@a.example/t", "has credentials in it"),
            ("https://c4n4ry@a.example/t?c4n4ry#c4n4ry", "has credentials in it"),
            ("https://a.example/t?c4n4ry#c4n4ry", "has a fragment"),
            ("me:c4n4/4ry@a.example/t", "is not an absolute URL"),
            ("https://a.example:99999/t", "has a port that does not exist"),
            ("https://a.example:/t", "has a port that does not exist"),
            ("https://a.example/t t", "is not a URL"),
            ("https://a.example/t\n", "is not a URL"),
            ("https://é.example/t", "has characters other than ASCII"),
            ("ftp://a.example/t", "has the scheme \"ftp\""),
            ("http://a.example/t", "plain http"),
            ("http://127.0.0.1.example.com/t", "plain http"),
            ("http://notlocalhost/t", "plain http"),
            ("http://auth.localhost/t", "plain http"),
            ("http://[::2]/t", "plain http"),
            ("http://0.0.0.0/t", "plain http"),
        ] {
            let error = parse(bad, Insecure::Loopback).unwrap_err();
            assert!(error.contains(problem), "{bad}: {error}");
            for secret in ["c4n4", "4ry"] {
                assert!(!error.contains(secret), "{bad}: {error}");
            }
        }
    }

    #[test]
    fn a_url_is_shown_with_its_host_and_path() {
        for (url, shown) in [
            ("https://a.example/t/?key=c4n4ry#c4n4ry", "https://a.example/t/"),
            ("https://me:c4n4ry@a.example/t", "https://***@a.example/t"),
            ("https://me:c4n@4ry@a.example/t", "https://***@a.example/t"),
            ("https://a.example:8443/@realm/token/", "https://a.example:8443/@realm/token/"),
            ("https://[::1]/@realm", "https://[::1]/@realm"),
            ("//a.example/@realm?c4n4ry", "//a.example/@realm"),
            ("https://me:c4n4?ry@a.example/t", "https://***"),
            ("/login?c4n4ry", "/login"),
            ("/login?c4n4ry&next=https://a.example/t", "/login"),
            ("/t/?u=a@b", "/t/"),
            ("me:c4n4ry@a.example//t", "***"),
            ("me:c4n4ry@a.example/t", "***"),
        ] {
            assert_eq!(presentable(url), shown);
        }
    }
}
