//! [`TokenRequest`]: turns a dialect, the requested scope and target, and credentials into an HTTP
//! request.
//!
//! Pure. The builder has checked that the settings fit together; the credentials may be new for
//! every attempt and are checked here.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use zeroize::Zeroizing;

use super::{
    client_authentication::ClientAuthentication,
    dialect::{BodyEncoding, Dialect, Headers},
    encode,
    transport::TransportRequestBody,
};
use crate::{
    credentials::{ClientCredentials, id_problem, secret_problem},
    error::{ErrorClass, TokenError},
    token::sensitive_header,
};

/// The user agent. Firewalls in front of token endpoints refuse requests without one.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// A token request without the credentials.
#[derive(Clone)]
pub(crate) struct TokenRequest {
    pub(crate) url: Uri,
    pub(crate) dialect: Dialect,
    /// The scopes, separated by spaces (RFC 6749 section 3.3).
    pub(crate) scope: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) headers: Headers,
}

/// A field's value: most have one, `resource` may have several.
enum Value<'a> {
    One(&'a str),
    Several(&'a [String]),
}

impl TokenRequest {
    pub(crate) fn new(url: Uri, dialect: Dialect) -> Self {
        Self {
            url,
            dialect,
            scope: None,
            audience: None,
            resources: Vec::new(),
            params: Vec::new(),
            headers: Headers::default(),
        }
    }

    /// Returns the names of the fields of the body, in their order.
    pub(crate) fn field_names(&self) -> Vec<&str> {
        // The id and secret do not matter for the names.
        self.fields("", "").into_iter().map(|(name, _)| name).collect()
    }

    /// Returns the request with `credentials`.
    ///
    /// # Errors
    ///
    /// [`ErrorClass::Credentials`] if no request can carry the id or the secret.
    pub(crate) fn with(
        &self,
        credentials: &ClientCredentials,
    ) -> Result<Request<TransportRequestBody>, TokenError> {
        let (id, secret) = (credentials.id(), credentials.expose_secret());
        check(credentials, &self.dialect)?;

        let fields = self.fields(id, secret);
        let (content_type, body) = match self.dialect.body {
            BodyEncoding::Form => ("application/x-www-form-urlencoded", form(&fields)),
            BodyEncoding::Json => ("application/json", json(&fields)),
        };
        let mut request = Request::new(TransportRequestBody::new(Bytes::from_owner(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();

        // This crate's headers come last, so that no setting can make the request contradict
        // itself.
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in &self.dialect.headers.0 {
            headers.insert(name, value.clone());
        }
        for (at, (name, value)) in self.headers.0.iter().enumerate() {
            let repeated = self.headers.0.iter().take(at).any(|(earlier, _)| earlier == name);
            if repeated {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(encoding) = self.dialect.client_authentication.basic_encoding() {
            let line = encode::basic(credentials, encoding);
            headers.insert(header::AUTHORIZATION, sensitive_header(line)?);
        }
        Ok(request)
    }

    fn fields<'a>(&'a self, id: &'a str, secret: &'a str) -> Vec<(&'a str, Value<'a>)> {
        let dialect = &self.dialect;
        let mut fields = Vec::new();
        if let Some(name) = &dialect.grant_type {
            fields.push((&**name, Value::One("client_credentials")));
        }
        if dialect.client_authentication == ClientAuthentication::ClientSecretPost {
            fields.push((&*dialect.client_id, Value::One(id)));
            fields.push((&*dialect.client_secret, Value::One(secret)));
        }
        if let Some(scope) = &self.scope {
            fields.push((&*dialect.scope, Value::One(scope)));
        }
        if let Some(audience) = &self.audience {
            fields.push((&*dialect.audience, Value::One(audience)));
        }
        match &*self.resources {
            [] => {}
            [one] => fields.push((&*dialect.resource, Value::One(one))),
            several => fields.push((&*dialect.resource, Value::Several(several))),
        }
        fields.extend(self.params.iter().map(|(name, value)| (&**name, Value::One(value))));
        fields
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of parameters and headers may be secrets, and so may the URL's query be.
        let params: Vec<_> = self.params.iter().map(|(name, _)| name).collect();
        f.debug_struct("TokenRequest")
            .field("host", &self.url.authority().map(http::uri::Authority::as_str))
            .field("path", &self.url.path())
            .field("dialect", &self.dialect)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("resources", &self.resources)
            .field("params", &params)
            .field("headers", &self.headers)
            .finish()
    }
}

fn check(credentials: &ClientCredentials, dialect: &Dialect) -> Result<(), TokenError> {
    let fail = |message: String| Err(TokenError::new(ErrorClass::Credentials, message));
    if let Some(problem) = id_problem(credentials.id()) {
        return fail(format!("the client id {problem}"));
    }
    if let Some(problem) = secret_problem(credentials.expose_secret()) {
        return fail(format!("the client secret {problem}"));
    }
    // RFC 7617 section 2: the first colon ends the id.
    let raw_basic = dialect.client_authentication == ClientAuthentication::ClientSecretBasicRaw;
    if raw_basic && credentials.id().contains(':') {
        return fail("the client id has a colon, which raw HTTP Basic cannot carry".into());
    }
    Ok(())
}

fn form(fields: &[(&str, Value<'_>)]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(room_for(fields)));
    let mut pair = |name: &str, value: &str| {
        if !out.is_empty() {
            out.push(b'&');
        }
        encode::form(&mut out, name);
        out.push(b'=');
        encode::form(&mut out, value);
    };
    for (name, value) in fields {
        match value {
            Value::One(value) => pair(name, value),
            Value::Several(values) => values.iter().for_each(|value| pair(name, value)),
        }
    }
    out
}

fn json(fields: &[(&str, Value<'_>)]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(room_for(fields)));
    out.push(b'{');
    for (at, (name, value)) in fields.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        encode::json(&mut out, name);
        out.push(b':');
        match value {
            Value::One(value) => encode::json(&mut out, value),
            Value::Several(values) => {
                out.push(b'[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    encode::json(&mut out, value);
                }
                out.push(b']');
            }
        }
    }
    out.push(b'}');
    out
}

/// Returns the capacity that a body of `fields` needs at most: growing would leave copies of the
/// secret behind.
fn room_for(fields: &[(&str, Value<'_>)]) -> usize {
    /// The bytes for quotes, colon, comma and brackets.
    const AROUND: usize = 8;
    let room = |name: &str, value: &str| encode::MAX_GROWTH * (name.len() + value.len()) + AROUND;
    fields
        .iter()
        .map(|(name, value)| match value {
            Value::One(value) => room(name, value),
            Value::Several(values) => values.iter().map(|value| room(name, value)).sum(),
        })
        .sum::<usize>()
        + AROUND
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use http::HeaderName;
    use http_body_util::BodyExt;

    use super::*;
    use crate::endpoint::preset;

    fn asking(url: &'static str, dialect: Dialect) -> TokenRequest {
        TokenRequest::new(Uri::from_static(url), dialect)
    }

    /// The request as text: request line with the whole URL, headers in alphabetical order but for
    /// the user agent, which has a version, body.
    fn golden(request: &TokenRequest, id: &str, secret: &str) -> String {
        let made = request.with(&ClientCredentials::new(id, secret)).unwrap();
        let mut text = format!("{} {}\n", made.method(), made.uri());
        let mut names: Vec<_> = made.headers().iter().collect();
        names.sort_by_key(|(name, _)| name.as_str());
        assert_eq!(made.headers()[header::USER_AGENT], USER_AGENT);
        names.retain(|(name, _)| *name != header::USER_AGENT);
        for (name, value) in names {
            let is_ours = [header::ACCEPT, header::CONTENT_TYPE].contains(name);
            assert_eq!(value.is_sensitive(), !is_ours, "{name}");
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        let body = futures_now(made.into_body().collect());
        text + "\n" + std::str::from_utf8(&body.unwrap().to_bytes()).unwrap()
    }

    fn futures_now<F: Future>(future: F) -> F::Output {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut cx) {
            std::task::Poll::Ready(output) => output,
            std::task::Poll::Pending => panic!("a full body is always ready"),
        }
    }

    #[test]
    fn rfc_6749_section_4_4_2() {
        let mut request = asking("https://server.example.com/token", Dialect::rfc6749());
        assert_eq!(
            golden(&request, "s6BhdRkqt3", "gX1fBat3bV"),
            "POST https://server.example.com/token\n\
             accept: application/json\n\
             authorization: Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW\n\
             content-type: application/x-www-form-urlencoded\n\
             \n\
             grant_type=client_credentials"
        );
        request.dialect =
            Dialect::rfc6749().client_authentication(ClientAuthentication::ClientSecretPost);
        request.scope = Some("read:a write".into());
        request.audience = Some("https://api/".into());
        request.resources = vec!["urn:a".into(), "urn:b".into()];
        request.params = vec![("tenant".into(), "ä&b".into())];
        assert_eq!(
            golden(&request, "my id", "p+~%"),
            "POST https://server.example.com/token\n\
             accept: application/json\n\
             content-type: application/x-www-form-urlencoded\n\
             \n\
             grant_type=client_credentials&client_id=my+id&client_secret=p%2B%7E%25\
             &scope=read%3Aa+write&audience=https%3A%2F%2Fapi%2F&resource=urn%3Aa&resource=urn%3Ab\
             &tenant=%C3%A4%26b"
        );
    }

    #[test]
    fn auth0_and_probable_futures() {
        let url = "https://tenant.auth0.example/oauth/token";
        let mut request = asking(url, Dialect::auth0());
        request.audience = Some("https://graphql.example".into());
        assert_eq!(
            golden(&request, "id", "s\"é"),
            "POST https://tenant.auth0.example/oauth/token\n\
             accept: application/json\n\
             content-type: application/json\n\
             \n\
             {\"grant_type\":\"client_credentials\",\"client_id\":\"id\",\
             \"client_secret\":\"s\\\"é\",\"audience\":\"https://graphql.example\"}"
        );
    }

    #[test]
    fn an_api_with_a_daily_limit_asks_as_auth0_does_and_takes_resources_as_an_array() {
        let mut request = asking("https://auth.example.com/oauth/token", Dialect::auth0());
        request.scope = Some("read".into());
        request.resources = vec!["urn:a".into()];
        request.params = vec![("organization".into(), "org_1".into())];
        let one = golden(&request, "id", "s");
        assert!(one.ends_with(
            "{\"grant_type\":\"client_credentials\",\"client_id\":\"id\",\"client_secret\":\"s\",\
             \"scope\":\"read\",\"resource\":\"urn:a\",\"organization\":\"org_1\"}"
        ));
        request.resources.push("urn:b".into());
        let two = golden(&request, "id", "s");
        assert!(two.contains("\"resource\":[\"urn:a\",\"urn:b\"],"), "{two}");
    }

    #[test]
    fn a_user_agent_of_ones_own_replaces_ours() {
        let mut request = asking("https://auth.example.com/token", Dialect::rfc6749());
        request.headers.0.push((header::USER_AGENT, HeaderValue::from_static("reports/1.0")));
        let made = request.with(&ClientCredentials::new("id", "secret")).unwrap();
        let sent: Vec<_> = made.headers().get_all(header::USER_AGENT).iter().collect();
        assert_eq!(sent, ["reports/1.0"]);
    }

    #[test]
    fn podero() {
        let request = asking("https://podero.example/oauth2/token/", preset::podero());
        assert_eq!(
            golden(&request, "partner", "s3/cr+t"),
            format!(
                "POST https://podero.example/oauth2/token/\n\
                 accept: application/json\n\
                 authorization: Basic {}\n\
                 cache-control: no-cache\n\
                 content-type: application/json\n\
                 \n\
                 {{\"grant_type\":\"client_credentials\"}}",
                STANDARD.encode("partner:s3%2Fcr%2Bt")
            )
        );
    }

    #[test]
    fn dadi() {
        let request = asking("http://localhost:3000/token", preset::dadi());
        assert_eq!(
            golden(&request, "testClient", "superSecret"),
            "POST http://localhost:3000/token\n\
             accept: application/json\n\
             content-type: application/json\n\
             \n\
             {\"clientId\":\"testClient\",\"secret\":\"superSecret\"}"
        );
    }

    #[test]
    fn no_setting_replaces_authorization_or_content_type() {
        let odd = |value| HeaderValue::from_static(value);
        let mut request = asking(
            "https://a.example/t",
            preset::podero().header(header::CONTENT_TYPE, odd("text/plain")),
        );
        request.headers = Headers(vec![
            (header::AUTHORIZATION, odd("other")),
            (header::CACHE_CONTROL, odd("max-age=0")),
            (HeaderName::from_static("x-a"), odd("1")),
            (HeaderName::from_static("x-a"), odd("2")),
        ]);
        let made = request.with(&ClientCredentials::new("id", "s")).unwrap();
        assert_eq!(made.headers()[header::CONTENT_TYPE], "application/json");
        assert!(made.headers()[header::AUTHORIZATION].to_str().unwrap().starts_with("Basic "));
        assert_eq!(made.headers()[header::CACHE_CONTROL], "max-age=0");
        assert_eq!(made.headers().get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn credentials_that_no_request_can_carry_are_an_error_that_hides_them() {
        let raw =
            Dialect::rfc6749().client_authentication(ClientAuthentication::ClientSecretBasicRaw);
        for (dialect, id, secret, problem) in [
            (preset::dadi(), "id", "c4n4ry\n", "client secret has a newline at its end"),
            (Dialect::rfc6749(), "id", "", "client secret is empty"),
            (Dialect::rfc6749(), "", "c4n4ry", "client id is empty"),
            (Dialect::rfc6749(), "i\rd", "c4n4ry", "client id has a control character"),
            (raw, "i:d", "c4n4ry", "client id has a colon"),
        ] {
            let request = asking("https://a.example/t", dialect);
            let error = request.with(&ClientCredentials::new(id, secret)).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Credentials);
            let text = format!("{error} {error:?}");
            assert!(text.contains(problem) && !text.contains("c4n4ry"), "{text}");
        }
    }

    #[test]
    fn a_body_never_outgrows_the_room_made_for_it() {
        let secret = "\u{7f}\"\\".repeat(200);
        let several = [secret.clone(), secret.clone()];
        let fields = [("\"", Value::One(&secret)), ("r", Value::Several(&several))];
        assert!(json(&fields).len() <= room_for(&fields));
        assert!(form(&fields).len() <= room_for(&fields));
    }
}
