//! [`Origin`]: parsing, printing and comparing a scheme, host and port.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use http::Uri;

use crate::error::server_text;

/// An origin: scheme, host and port (RFC 6454), as in `https://api.example.com`.
///
/// The text has no path, query or user info; one trailing slash is accepted, since URL types print
/// it. The port may be omitted if it is the scheme's default (443, 80). Host names are compared
/// case-insensitively, IPv6 addresses by value. `api.example.com.`, with a trailing dot, differs
/// from `api.example.com`.
///
/// [`Builder::allowed_origin`](crate::Builder::allowed_origin) accepts an `Origin` or its text.
/// Parse origins yourself if you read them from a configuration file and want to report errors
/// there.
///
/// ```
/// use tower_oauth2_client_credentials::Origin;
///
/// let origin: Origin = "https://API.example.com:443".parse()?;
/// assert_eq!(origin, "https://api.example.com/".parse()?);
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
    /// The canonical text, derived from the fields above.
    text: Box<str>,
}

/// The error of parsing an [`Origin`]. Its message shows the text, without user info and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError {
    text: Box<str>,
    problem: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    /// A lowercase name or an IPv4 address.
    Name(Box<str>),
    /// An IPv6 address, compared by value since it has many spellings.
    V6(Ipv6Addr),
}

impl Origin {
    /// Returns `true` if `uri` has this origin. Ignores user info and does not allocate.
    #[inline]
    pub(super) fn is_of(&self, uri: &Uri) -> bool {
        Scheme::of(uri) == Some(self.scheme)
            && uri.port_u16().unwrap_or(self.scheme.default_port()) == self.port
            && uri.host().is_some_and(|host| self.host.is(host))
    }

    /// Returns the authority of an https origin: the text between `https://` and the path of its
    /// URIs.
    pub(super) fn https_authority(&self) -> Option<Box<str>> {
        self.text.strip_prefix("https://").map(Into::into)
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        parse(text).map_err(|problem| OriginError { text: without_secrets(text), problem })
    }
}

impl TryFrom<&str> for Origin {
    type Error = OriginError;

    fn try_from(text: &str) -> Result<Self, OriginError> {
        text.parse()
    }
}

/// The canonical text, which parses to the same origin.
impl AsRef<str> for Origin {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
    pub(super) fn of(uri: &Uri) -> Option<Self> {
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

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Parses an IPv6 address in brackets, as in a URI.
pub(super) fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn parse(text: &str) -> Result<Origin, &'static str> {
    const SHAPE: &str = "write it as `scheme://host` or `scheme://host:port`";

    if !text.is_ascii() {
        return Err("write an internationalized host name in punycode (`xn--...`)");
    }
    let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
    let scheme = if scheme.eq_ignore_ascii_case("https") {
        Scheme::Https
    } else if scheme.eq_ignore_ascii_case("http") {
        Scheme::Http
    } else {
        return Err("the scheme must be https or http");
    };
    // `http::Uri` and `url::Url` print an origin with a trailing slash.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '\\']) {
        return Err("it must end after the host or the port, without a path, query or fragment");
    }
    if rest.contains('@') {
        return Err("it must not have user info");
    }
    let (host, port) = if rest.starts_with('[') {
        let end = rest.find(']').ok_or("a bracket is not closed")? + 1;
        let (host, port) = rest.split_at(end);
        let address = ipv6(host).ok_or("the brackets contain no IPv6 address")?;
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
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err("the host contains a character that host names cannot have");
        }
        (Host::Name(name.to_ascii_lowercase().into_boxed_str()), port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => scheme.default_port(),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?
        }
        _ => return Err("the port must be a number"),
    };
    let text = if port == scheme.default_port() {
        format!("{}://{host}", scheme.as_str())
    } else {
        format!("{}://{host}:{port}", scheme.as_str())
    };
    Ok(Origin { scheme, host, port, text: text.into_boxed_str() })
}

/// Returns the text that was given for an origin, without the parts that may be secret.
fn without_secrets(text: &str) -> Box<str> {
    // Only after a scheme, since a password may contain the same characters.
    let is_scheme = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => text.split_at(scheme.len() + 3),
        _ => ("", text),
    };
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    server_text(&format!("{scheme}{user}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_normalised() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://Api.Example.COM:443", "https://api.example.com"),
            ("https://api.example.com:8443", "https://api.example.com:8443"),
            ("https://api.example.com:80", "https://api.example.com:80"),
            ("http://api_1:80", "http://api_1"),
            ("http://[0:0::1]:8080", "http://[::1]:8080"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("https://example.com.", "https://example.com."),
            // The form that `http::Uri` and `url::Url` print.
            ("https://api.example.com/", "https://api.example.com"),
            ("http://[::1]:8080/", "http://[::1]:8080"),
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
            ("https://a//", "`https://a//`", "without a path"),
            ("https:///", "`https:///`", "scheme://host"),
            ("https://a/?", "`https://a/`", "without a path"),
            ("https://a/#", "`https://a/`", "without a path"),
            ("https://a\\", "`https://a\\`", "without a path"),
            ("https://a:/", "`https://a:/`", "1 to 65535"),
            ("https://a/v1", "`https://a/v1`", "without a path"),
            ("https://a/v1@b", "`https://***@b`", "without a path"),
            ("https://a?key=s3cr3t", "`https://a`", "query"),
            ("https://a#s3cr3t", "`https://a`", "query"),
            ("https://u:s3cr3t@a", "`https://***@a`", "user info"),
            ("https://u:s3c/r3t@a", "`https://***@a`", "without a path"),
            ("u:s3c://r3t@a", "`***@a`", "https or http"),
            ("https://a\\.b", "`https://a\\.b`", "without a path"),
            ("https://a:", "`https://a:`", "1 to 65535"),
            ("https://a:0", "`https://a:0`", "1 to 65535"),
            ("https://a:65536", "`https://a:65536`", "1 to 65535"),
            ("https://a:+80", "`https://a:+80`", "a number"),
            ("https://a:8o", "`https://a:8o`", "a number"),
            ("https://::1", "`https://::1`", "brackets"),
            ("https://[::1", "`https://[::1`", "bracket is not closed"),
            ("https://[::g]", "`https://[::g]`", "no IPv6 address"),
            ("https://[::1]x", "`https://[::1]x`", "a number"),
            ("https://*.example.com", "`https://*.example.com`", "wildcards"),
            ("https://a b", "`https://a b`", "character"),
            ("https://a\nb", "`https://a b`", "character"),
            ("https://bücher.example", "`https://bücher.example`", "punycode"),
        ] {
            let error = text.parse::<Origin>().unwrap_err().to_string();
            assert!(error.starts_with(shown) && error.contains(problem), "{text:?}: {error}");
            assert!(!error.contains("s3c"), "{error}");
        }
    }
}
