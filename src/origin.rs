//! May this URI have the token?
//!
//! This file compares a request's origin (scheme, host, port) with the rules; the layer acts on
//! the [`Admission`]. Paths and queries play no part, and no error shows one: they may be secret.
//!
//! Host names are compared as text. They are never resolved, so a name that points at a loopback
//! address is not loopback, and a name with a dot at its end is another name, as in browsers.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::Uri;

use crate::error::{ErrorClass, TokenError, server_text};

/// An origin: scheme, host and port (RFC 6454), as in `https://api.example.com`.
///
/// Written without a path, a query or user info. The port may be left out where it is the
/// scheme's own (443, 80). Host names are compared without regard to case, IPv6 addresses by
/// value; `api.example.com.`, with a dot at the end, is not `api.example.com`.
///
/// ```
/// use tower_oauth2_client_credentials::Origin;
///
/// let origin: Origin = "https://API.example.com:443".parse()?;
/// assert_eq!(origin, "https://api.example.com".parse()?);
/// assert_eq!(origin.to_string(), "https://api.example.com");
///
/// let error = "https://api.example.com/v1".parse::<Origin>().unwrap_err();
/// assert!(error.to_string().contains("https://api.example.com/v1"));
/// # Ok::<(), tower_oauth2_client_credentials::OriginError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

/// The text is not an [`Origin`]. The message shows it, without user info and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError {
    text: Box<str>,
    problem: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    /// A name or an IPv4 address, in lower case.
    Name(Box<str>),
    /// By value: one address has many spellings.
    V6(Ipv6Addr),
}

/// Which origins may have the token.
#[derive(Clone, Debug, Default)]
pub(crate) struct OriginRules {
    allowed: Vec<Origin>,
    plain_http: bool,
    pass_without: bool,
}

/// What is to be done with a request, by its target.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may have the token.
    Attach,
    /// Send it, but without the token.
    Without,
    /// Do not send it.
    Refuse(TokenError),
}

impl Origin {
    /// Whether `uri` is of this origin. User info is ignored; nothing is allocated.
    #[inline]
    fn is_of(&self, uri: &Uri) -> bool {
        Scheme::of(uri) == Some(self.scheme)
            && uri.port_u16().unwrap_or(self.scheme.default_port()) == self.port
            && uri.host().is_some_and(|host| self.host.is(host))
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        parse(text).map_err(|problem| OriginError {
            text: without_secrets(text),
            problem,
        })
    }
}

impl TryFrom<&str> for Origin {
    type Error = OriginError;

    fn try_from(text: &str) -> Result<Self, OriginError> {
        text.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::V6(address) => write!(f, "[{address}]")?,
        }
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an origin: {}", self.text, self.problem)
    }
}

impl std::error::Error for OriginError {}

impl Scheme {
    #[inline]
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme()?;
        if *scheme == http::uri::Scheme::HTTPS {
            Some(Self::Https)
        } else if *scheme == http::uri::Scheme::HTTP {
            Some(Self::Http)
        } else {
            None
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    #[inline]
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Host {
    #[inline]
    fn is(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::V6(address) => ipv6(host) == Some(*address),
        }
    }
}

impl OriginRules {
    /// Adds an origin that may have the token. With at least one, no other origin may. Listing an
    /// `http` origin is asking for plain HTTP by name.
    pub(crate) fn allow(&mut self, origin: Origin) {
        self.allowed.push(origin);
    }

    /// Lets every plain HTTP origin have the token, as long as there is no list of origins.
    pub(crate) fn allow_plain_http(&mut self) {
        self.plain_http = true;
    }

    /// Sends requests to other origins without the token, in place of an error.
    pub(crate) fn pass_others_without_token(&mut self) {
        self.pass_without = true;
    }

    /// May a request for `uri` have the token?
    ///
    /// A URI without an authority is trusted: where it goes is fixed by what is below.
    #[inline]
    pub(crate) fn admit(&self, uri: &Uri) -> Admission {
        if self.may_have_token(uri) {
            Admission::Attach
        } else {
            self.keep_from(uri)
        }
    }

    #[inline]
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
            TokenError::new(
                ErrorClass::Origin,
                format!("the token must not be sent to {origin}"),
            )
            .with_advice("it is not among the allowed origins")
        } else if Scheme::of(uri) == Some(Scheme::Http) {
            TokenError::new(
                ErrorClass::Origin,
                format!("the token must not be sent to {origin} by plain HTTP"),
            )
            .with_advice("use https, or name the origin as an allowed one")
        } else {
            TokenError::new(
                ErrorClass::Origin,
                format!("the token must not be sent to {origin}"),
            )
            .with_advice("it is neither https nor http")
        };
        Admission::Refuse(error)
    }
}

/// Whether nobody on the way can read along: https, or http that stays on this host. Also what
/// the URL of a token endpoint is held to.
pub(crate) fn is_secure(uri: &Uri) -> bool {
    match Scheme::of(uri) {
        Some(Scheme::Https) => true,
        Some(Scheme::Http) => uri.host().is_some_and(is_loopback),
        None => false,
    }
}

/// Whether `host`, as in a URI, is this host and nothing else: `localhost` and the names below it
/// (RFC 6761 section 6.3), 127.0.0.0/8, `[::1]`.
///
/// Only what is surely so. Not `[::ffff:127.0.0.1]`, which not every system keeps on the host;
/// not `127.1` or `0x7f.1`, which resolvers read differently; not `localhost.`, which a hosts file
/// may not have.
pub(crate) fn is_loopback(host: &str) -> bool {
    if let Some(address) = ipv6(host) {
        return address.is_loopback();
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback();
    }
    let is_localhost = |label: &str| label.eq_ignore_ascii_case("localhost");
    match host.rsplit_once('.') {
        None => is_localhost(host),
        Some((below, top)) => !below.is_empty() && is_localhost(top),
    }
}

/// The origin of `uri` as an error may show it: no user info, path or query.
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

/// An IPv6 address in brackets, as in a URI.
fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn parse(text: &str) -> Result<Origin, &'static str> {
    const SHAPE: &str = "write it as `scheme://host` or `scheme://host:port`";

    if !text.is_ascii() {
        return Err("write an internationalised host name in punycode (`xn--...`)");
    }
    let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
    let scheme = if scheme.eq_ignore_ascii_case("https") {
        Scheme::Https
    } else if scheme.eq_ignore_ascii_case("http") {
        Scheme::Http
    } else {
        return Err("the scheme must be https or http");
    };
    if rest.contains(['/', '?', '#', '\\']) {
        return Err("it must end after the host or the port, without a slash, path or query");
    }
    if rest.contains('@') {
        return Err("it must not have user info");
    }
    let (host, port) = if rest.starts_with('[') {
        let end = rest.find(']').ok_or("a bracket is open")? + 1;
        let (host, port) = rest.split_at(end);
        let address = ipv6(host).ok_or("there is no IPv6 address in the brackets")?;
        (Host::V6(address), port)
    } else {
        let (name, port) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
        if name.contains('*') {
            return Err("wildcards are not supported: list every host");
        }
        if port.matches(':').count() > 1 {
            return Err("write an IPv6 address in brackets");
        }
        if name.is_empty() {
            return Err(SHAPE);
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err("the host has a character that no host name has");
        }
        (Host::Name(name.to_ascii_lowercase().into_boxed_str()), port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => scheme.default_port(),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or("the port must be 1 to 65535")?,
        _ => return Err("the port must be a number"),
    };
    Ok(Origin { scheme, host, port })
}

/// What was given for an origin, without what may be a secret in it.
fn without_secrets(text: &str) -> Box<str> {
    let start = text.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at(start);
    let (user, rest) = rest
        .rsplit_once('@')
        .map_or(("", rest), |(_, rest)| ("***@", rest));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    server_text(&format!("{scheme}{user}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn rules(allowed: &[&str]) -> OriginRules {
        let mut rules = OriginRules::default();
        for origin in allowed {
            rules.allow(origin.parse().unwrap());
        }
        rules
    }

    fn attaches(rules: &OriginRules, text: &str) -> bool {
        matches!(rules.admit(&uri(text)), Admission::Attach)
    }

    #[test]
    fn an_origin_is_normalised() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://Api.Example.COM:443", "https://api.example.com"),
            (
                "https://api.example.com:8443",
                "https://api.example.com:8443",
            ),
            ("https://api.example.com:80", "https://api.example.com:80"),
            ("http://api_1:80", "http://api_1"),
            ("http://[0:0::1]:8080", "http://[::1]:8080"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
            (
                "https://xn--bcher-kva.example",
                "https://xn--bcher-kva.example",
            ),
            ("https://example.com.", "https://example.com."),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_an_origin_is_named_and_shown_without_secrets() {
        for (text, shown, problem) in [
            ("", "``", "scheme://host"),
            ("api.example.com", "`api.example.com`", "scheme://host"),
            ("https://", "`https://`", "scheme://host"),
            ("https://:443", "`https://:443`", "scheme://host"),
            ("ftp://a", "`ftp://a`", "https or http"),
            (" https://a", "` https://a`", "https or http"),
            ("https://a/", "`https://a/`", "without a slash"),
            ("https://a/v1", "`https://a/v1`", "without a slash"),
            ("https://a/v1@b", "`https://***@b`", "without a slash"),
            ("https://a?key=s3cr3t", "`https://a`", "query"),
            ("https://a#s3cr3t", "`https://a`", "query"),
            ("https://u:s3cr3t@a", "`https://***@a`", "user info"),
            ("https://u:s3c/r3t@a", "`https://***@a`", "without a slash"),
            ("https://a\\.b", "`https://a\\.b`", "without a slash"),
            ("https://a:", "`https://a:`", "1 to 65535"),
            ("https://a:0", "`https://a:0`", "1 to 65535"),
            ("https://a:65536", "`https://a:65536`", "1 to 65535"),
            ("https://a:+80", "`https://a:+80`", "a number"),
            ("https://a:8o", "`https://a:8o`", "a number"),
            ("https://::1", "`https://::1`", "brackets"),
            ("https://[::1", "`https://[::1`", "bracket is open"),
            ("https://[::g]", "`https://[::g]`", "no IPv6 address"),
            ("https://[::1]x", "`https://[::1]x`", "a number"),
            (
                "https://*.example.com",
                "`https://*.example.com`",
                "wildcards",
            ),
            ("https://a b", "`https://a b`", "character"),
            ("https://a\nb", "`https://a b`", "character"),
            (
                "https://bücher.example",
                "`https://bücher.example`",
                "punycode",
            ),
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(
                error.starts_with(shown) && error.contains(problem),
                "{text:?}: {error}"
            );
            assert!(!error.contains("s3c"), "{error}");
        }
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
            ("http://auth.localhost/", true),
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
        // With a list, only what it names.
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
    fn a_refusal_names_the_origin_and_nothing_else() {
        let target = uri("https://user:s3cr3t@evil.com:8443/s3cr3t?token=s3cr3t");
        let mut rules = rules(&["https://api.example.com"]);
        let Admission::Refuse(error) = rules.admit(&target) else {
            panic!("not refused")
        };
        assert_eq!(error.class(), ErrorClass::Origin);
        assert!(
            error.to_string().contains("https://evil.com:8443 "),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("s3cr3t"));

        rules.pass_others_without_token();
        assert!(matches!(rules.admit(&target), Admission::Without));
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
