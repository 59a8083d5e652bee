//! Advice about a refusal: the settings that its reader can change, where that is known.
//!
//! Pure. Every piece of advice names a setting, and none leads in a circle: HTTP Basic, encoded or
//! not, leads to the body.

use http::{StatusCode, header::LOCATION, response::Parts};

use super::{
    client_authentication::ClientAuthentication, dialect::BodyEncoding, encode::has_reserved,
    response::Asked, scrub::Scrubber, url::presentable,
};
use crate::error::{ErrorClass, server_text};

/// The facts of a refusal.
pub(super) struct Refusal<'a> {
    pub(super) parts: &'a Parts,
    pub(super) class: ErrorClass,
    /// The code, if it is known.
    pub(super) code: Option<&'a str>,
    /// Whether the code is an OAuth code, so that the response comes from a token endpoint.
    pub(super) has_error: bool,
    /// The server's text, without secrets.
    pub(super) said: &'a str,
    /// Whether the response does not come from the authorization server.
    pub(super) is_foreign: bool,
    pub(super) is_empty: bool,
}

/// Returns the advice about a refusal.
pub(super) fn of(refusal: &Refusal<'_>, asked: &Asked<'_>, scrubber: &Scrubber) -> Option<String> {
    let status = refusal.parts.status;
    if status.is_redirection() {
        return redirect_advice(refusal.parts, asked, scrubber);
    }
    if refusal.is_foreign {
        return Some(
            "that does not look like the authorization server: a firewall or a check for robots may \
             stand before it; is the token URL right, and may this host call it?"
                .into(),
        );
    }
    if refusal.code == Some("unsupported_grant_type")
        || status == StatusCode::UNSUPPORTED_MEDIA_TYPE
    {
        return Some(of_encoding(status, asked));
    }
    if is_about_client(refusal) {
        let parts: Vec<_> =
            [of_authentication(asked), of_scope(refusal, asked)].into_iter().flatten().collect();
        return (!parts.is_empty()).then(|| parts.join("; "));
    }
    match status.as_u16() {
        404 if !refusal.has_error => Some(
            "is the path of the token URL right? Some servers want a slash at its end, some want \
             none"
                .into(),
        ),
        405 if !refusal.has_error => Some(
            "nothing takes POST at the token URL: is its path right, and the slash at its end?"
                .into(),
        ),
        _ => None,
    }
}

fn of_encoding(status: StatusCode, asked: &Asked<'_>) -> String {
    let dialect = &asked.request.dialect;
    let is_param = asked.request.params.iter().any(|(name, _)| name == "grant_type");
    if dialect.grant_type.is_none() && !is_param && status != StatusCode::UNSUPPORTED_MEDIA_TYPE {
        return "the request has no grant type: set `Dialect::grant_type_field(\"grant_type\")`, or \
                a `Builder::param` for one of the server's own"
            .into();
    }
    let (sent, other) = match dialect.body {
        BodyEncoding::Form => ("a form", "BodyEncoding::Json"),
        BodyEncoding::Json => ("JSON", "BodyEncoding::Form"),
    };
    format!(
        "the body was {sent}; if the endpoint reads only the other, set `Dialect::body({other})`"
    )
}

/// Returns `true` if the server did not understand or accept the client's id and secret. Some
/// servers call the request invalid if these are not where they look.
fn is_about_client(refusal: &Refusal<'_>) -> bool {
    let is_unauthorized = refusal.parts.status == StatusCode::UNAUTHORIZED;
    match refusal.code {
        Some("invalid_client") => true,
        // By RFC 6749 the client is known then, but Keycloak says this of a wrong secret, with 401.
        Some("unauthorized_client" | "invalid_grant") => is_unauthorized,
        Some("invalid_request") => {
            let said = refusal.said.to_ascii_lowercase();
            let names_it =
                ["client", "credential", "authenticat"].iter().any(|word| said.contains(word));
            is_unauthorized || names_it
        }
        Some(_) => false,
        None => refusal.class == ErrorClass::Credentials || is_unauthorized,
    }
}

/// Returns the next place for the id and secret to try.
fn of_authentication(asked: &Asked<'_>) -> Option<String> {
    use ClientAuthentication::{ClientSecretBasic, ClientSecretBasicRaw, ClientSecretPost};
    let dialect = &asked.request.dialect;
    let (id, secret) = (asked.credentials.id(), asked.credentials.expose_secret());
    let is_encoded = has_reserved(id) || has_reserved(secret);
    let (went, first, then) = match dialect.client_authentication {
        ClientSecretBasic if is_encoded => {
            ("percent-encoded", ClientSecretBasicRaw, Some(ClientSecretPost))
        }
        // Two servers cut a secret at its colon, encoded or not.
        ClientSecretBasicRaw if is_encoded => {
            ("as they are", ClientSecretBasic, Some(ClientSecretPost))
        }
        ClientSecretBasic | ClientSecretBasicRaw => ("", ClientSecretPost, None),
        // A server with its own field names has no HTTP Basic.
        ClientSecretPost
            if dialect.client_id != "client_id" || dialect.client_secret != "client_secret" =>
        {
            return None;
        }
        ClientSecretPost => {
            return Some(format!(
                "the id and the secret went into the body; if they are right, the server may want \
                 HTTP Basic: try the client authentication `{ClientSecretBasic}`"
            ));
        }
    };
    Some(match then {
        Some(then) => format!(
            "the id or the secret has reserved characters, which went into HTTP Basic {went}; if \
             they are right, try the client authentication `{first}`, and `{then}` if that is \
             refused, too"
        ),
        None => format!(
            "the id and the secret went into HTTP Basic; if they are right, the server may want \
             them in the body: try the client authentication `{first}`"
        ),
    })
}

/// Returns advice to set a scope. Glewlwyd responds to a request without one as to a wrong secret:
/// 403 without a body.
fn of_scope(refusal: &Refusal<'_>, asked: &Asked<'_>) -> Option<String> {
    let is_bare = refusal.is_empty && refusal.parts.status == StatusCode::FORBIDDEN;
    (is_bare && asked.request.scope.is_none()).then(|| {
        "no scope is set, and some servers refuse a request without one like this: try \
         `Builder::scope`"
            .into()
    })
}

fn redirect_advice(parts: &Parts, asked: &Asked<'_>, scrubber: &Scrubber) -> Option<String> {
    let location = parts.headers.get(LOCATION)?;
    let location = presentable(&String::from_utf8_lossy(location.as_bytes()));
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => &location,
    };
    // Django and others: the secret would go out again, by GET after a 301.
    let slash_missing = path.strip_suffix('/') == Some(asked.request.url.path());
    let what_to_do = if slash_missing {
        "add the trailing slash to the token URL"
    } else {
        "set the token URL to where the endpoint is, with or without a trailing slash"
    };
    let location = server_text(&scrubber.scrub(&location));
    Some(format!("it redirects to {location}, and the secret follows no redirect: {what_to_do}"))
}
