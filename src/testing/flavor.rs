//! [`Flavor`]: the format of a provider's token requests and responses.
//!
//! Written from the providers' documentation and recorded responses. It deliberately shares no code
//! with the crate's own token requests, so that a mistake there is not repeated here. The server
//! decides which clients exist and which token is issued.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    journal::TokenRequest,
    parameters::{Format, form_decoded, percent_decoded},
};

const HOUR: Duration = Duration::from_secs(3600);

/// The provider whose token endpoint the authorization server imitates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flavor {
    /// RFC 6749 to the letter: `POST /token` with a form, with the client id and secret either in
    /// Basic, percent-encoded, or in the body, but not in both. Tokens live 3600 s.
    #[default]
    Rfc6749,
    /// Auth0 and compatible servers: `POST /oauth/token` with a JSON body of `grant_type`,
    /// `client_id`, `client_secret` and `audience`. Tokens look like JWTs and live 86,400 s.
    ///
    /// To imitate an API with a daily limit on tokens, add
    /// [`daily_limit`](super::AuthorizationServerBuilder::daily_limit).
    Auth0,
    /// Podero, which is Django OAuth Toolkit with its JSON backend: `POST /oauth2/token/` with
    /// Basic and a JSON body of `grant_type`. Without the trailing slash, the response is 301 with
    /// a relative `Location`; for a form, it is 400 `unsupported_grant_type`. Tokens live 36,000 s
    /// and have the scope `read write`.
    Podero,
    /// DADI API: `POST /token` with a JSON body of `clientId` and `secret`, without a grant type.
    /// The response has `accessToken`, `tokenType` and `expiresIn`. A request that cannot be parsed
    /// is echoed, including the secret. Tokens live 1800 s.
    Dadi,
}

/// The way a server decodes the id and secret of HTTP Basic. Real servers use each of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BasicDecoding {
    /// Percent-encoding is decoded, and `+` stays a plus sign.
    #[default]
    Percent,
    /// Percent-encoding is decoded, and `+` becomes a space: RFC 6749 section 2.3.1 read strictly.
    Form,
    /// Nothing is decoded.
    Raw,
}

/// The content of a token request in the correct format.
pub(crate) struct Asked {
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) scope: Option<String>,
    pub(crate) audience: Option<String>,
}

/// The content of a successful response.
pub(crate) struct Granted<'a> {
    pub(crate) token: &'a str,
    pub(crate) token_type: &'a str,
    /// JSON text, or `None` to omit the field.
    pub(crate) expires_in: Option<String>,
    pub(crate) scope: Option<&'a str>,
}

impl BasicDecoding {
    fn decode(self, text: &str) -> String {
        match self {
            Self::Percent => percent_decoded(text).into_owned(),
            Self::Form => form_decoded(text),
            Self::Raw => text.to_owned(),
        }
    }
}

impl Flavor {
    /// Returns the path of the token endpoint.
    #[must_use]
    pub fn token_path(self) -> &'static str {
        match self {
            Self::Rfc6749 | Self::Dadi => "/token",
            Self::Auth0 => "/oauth/token",
            Self::Podero => "/oauth2/token/",
        }
    }

    pub(crate) fn default_lifetime(self) -> Duration {
        match self {
            Self::Rfc6749 => HOUR,
            Self::Auth0 => 24 * HOUR,
            Self::Podero => 10 * HOUR,
            Self::Dadi => HOUR / 2,
        }
    }

    /// Returns the scope that is granted if none is requested.
    pub(crate) fn default_scope(self) -> Option<&'static str> {
        (self == Self::Podero).then_some("read write")
    }

    /// Returns `true` if tokens look like JWTs (signatures are not checked).
    pub(crate) fn issues_jwts(self) -> bool {
        self == Self::Auth0
    }

    /// Parses a token request. Returns the error response if its format is wrong.
    pub(crate) fn read(self, r: &TokenRequest, basic: BasicDecoding) -> Result<Asked, Answer> {
        let path = r.uri().path();
        if path != self.token_path() {
            if self == Self::Podero && format!("{path}/") == self.token_path() {
                return Err(Answer::html(StatusCode::MOVED_PERMANENTLY)
                    .with_header("location", self.token_path()));
            }
            // The other flavors accept a trailing slash.
            if path.strip_suffix('/') != Some(self.token_path()) {
                return Err(Answer::html(StatusCode::NOT_FOUND));
            }
        }
        if r.method() != Method::POST {
            return Err(Answer::status(StatusCode::METHOD_NOT_ALLOWED).with_header("allow", "POST"));
        }
        match self {
            Self::Rfc6749 => read_rfc6749(r, basic),
            Self::Auth0 => read_auth0(r),
            // Django decodes `+` as a space, here as everywhere.
            Self::Podero => read_podero(r, BasicDecoding::Form),
            Self::Dadi => read_dadi(r),
        }
    }

    /// Returns the response to an unknown client or a wrong secret.
    pub(crate) fn refuse_client(self, r: &TokenRequest) -> Answer {
        match self {
            // A challenge is required if the client used HTTP authentication (section 5.2).
            Self::Rfc6749 if r.basic().is_some() => Answer::invalid_client()
                .with_header("www-authenticate", r#"Basic realm="token endpoint""#),
            Self::Rfc6749 => Answer::invalid_client(),
            Self::Auth0 => {
                Answer::oauth_error(StatusCode::UNAUTHORIZED, "access_denied", "Unauthorized")
            }
            Self::Podero => {
                Answer::json(StatusCode::UNAUTHORIZED, r#"{"error": "invalid_client"}"#)
                    .with_header("www-authenticate", r#"Bearer error="invalid_client""#)
            }
            Self::Dadi => Answer::json(StatusCode::UNAUTHORIZED, r#"{"statusCode":401}"#)
                .with_header("www-authenticate", r#"Bearer, error="invalid_credentials""#),
        }
    }

    pub(crate) fn grant(self, granted: &Granted<'_>) -> Answer {
        let names = match self {
            Self::Dadi => ["accessToken", "tokenType", "expiresIn"],
            _ => ["access_token", "token_type", "expires_in"],
        };
        let [token, token_type, expires_in] = names.map(|name| Value::from(name).to_string());
        let mut body = format!("{{{token}:{}", Value::from(granted.token));
        body += &format!(",{token_type}:{}", Value::from(granted.token_type));
        if let Some(value) = &granted.expires_in {
            // Assembled as text, since `expires_in` may be a number that `Value` cannot represent.
            body += &format!(",{expires_in}:{value}");
        }
        if let (Some(scope), false) = (granted.scope, self == Self::Dadi) {
            body += &format!(",\"scope\":{}", Value::from(scope));
        }
        body.push('}');
        Answer::json(StatusCode::OK, body)
            .with_header("cache-control", "no-store")
            .with_header("pragma", "no-cache")
    }
}

fn read_rfc6749(r: &TokenRequest, basic: BasicDecoding) -> Result<Asked, Answer> {
    if r.format() != Format::Form {
        return Err(bad_request("invalid_request", "the body must be a form"));
    }
    if r.repeats_a_parameter() {
        return Err(bad_request("invalid_request", "a parameter is repeated"));
    }
    let in_body = r.parameter("client_secret").is_some();
    let (client_id, client_secret) = match r.basic() {
        Some(_) if in_body => {
            return Err(bad_request("invalid_request", "two ways of client authentication"));
        }
        Some((id, secret)) => (basic.decode(id), basic.decode(secret)),
        None => credentials_in_body(r, "client_id", "client_secret")
            .ok_or_else(|| Flavor::Rfc6749.refuse_client(r))?,
    };
    expect_client_credentials(r)?;
    Ok(asked(r, client_id, client_secret))
}

fn read_auth0(r: &TokenRequest) -> Result<Asked, Answer> {
    if r.format() != Format::Json {
        return Err(Answer::html(StatusCode::BAD_REQUEST));
    }
    if r.grant_type() != Some("client_credentials") {
        return Err(Answer::status(StatusCode::BAD_REQUEST).with_body("unsupported grant type"));
    }
    let (id, secret) = credentials_in_body(r, "client_id", "client_secret")
        .ok_or_else(|| Flavor::Auth0.refuse_client(r))?;
    if r.parameter("audience").is_none() {
        let description = "No audience parameter was provided, and no default audience has been \
                           configured";
        return Err(Answer::oauth_error(StatusCode::FORBIDDEN, "access_denied", description));
    }
    Ok(asked(r, id, secret))
}

fn read_podero(r: &TokenRequest, basic: BasicDecoding) -> Result<Asked, Answer> {
    // The JSON backend finds no grant type in a form, and reports just that.
    if r.format() != Format::Json {
        return Err(Answer::json(
            StatusCode::BAD_REQUEST,
            r#"{"error": "unsupported_grant_type"}"#,
        ));
    }
    expect_client_credentials(r)?;
    let (id, secret) = r.basic().ok_or_else(|| Flavor::Podero.refuse_client(r))?;
    Ok(asked(r, basic.decode(id), basic.decode(secret)))
}

fn read_dadi(r: &TokenRequest) -> Result<Asked, Answer> {
    // DADI compares the whole header, so a charset makes it another type.
    let readable = match r.format() {
        Format::Json => r.content_type() == Some("application/json"),
        Format::Form => true,
        Format::Other => false,
    };
    if !readable {
        let echo = String::from_utf8_lossy(r.body());
        let body = json!({ "statusCode": 400, "message": "cannot parse", "body": echo });
        return Err(Answer::json(StatusCode::BAD_REQUEST, body.to_string()));
    }
    let (id, secret) = credentials_in_body(r, "clientId", "secret")
        .ok_or_else(|| Flavor::Dadi.refuse_client(r))?;
    Ok(asked(r, id, secret))
}

fn credentials_in_body(r: &TokenRequest, id: &str, secret: &str) -> Option<(String, String)> {
    Some((r.parameter(id)?.to_owned(), r.parameter(secret)?.to_owned()))
}

fn asked(r: &TokenRequest, client_id: String, client_secret: String) -> Asked {
    let owned = |name| r.parameter(name).map(str::to_owned);
    Asked { client_id, client_secret, scope: owned("scope"), audience: owned("audience") }
}

fn expect_client_credentials(r: &TokenRequest) -> Result<(), Answer> {
    match r.grant_type() {
        Some("client_credentials") => Ok(()),
        Some(_) => Err(bad_request("unsupported_grant_type", "only client_credentials")),
        None => Err(bad_request("invalid_request", "grant_type is missing")),
    }
}

fn bad_request(error: &str, description: &str) -> Answer {
    Answer::oauth_error(StatusCode::BAD_REQUEST, error, description)
}
