//! [`Stand`]: an authorization server and the API that takes its tokens, with nginx before them or
//! without, and the client that it knows.

use std::path::PathBuf;

use tower_oauth2_client_credentials::{
    Builder, Dialect, OAuthClientCredentialsLayer,
    endpoint::{ClientAuthentication, preset},
};

use super::{
    cache,
    client::{self, Caller, Http, Versions},
    process::free_port,
    server::Server,
};

/// All that RFC 6749 wants encoded in HTTP Basic, and what breaks quoting.
pub(crate) const SECRET: &str = r#"c4n4ry p%ss+word/:&=~`^"'\<>{}#?@;,$!*()[]|"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Django OAuth Toolkit with its JSON backend: Podero's ways.
    DjangoJson,
    /// Django OAuth Toolkit as it is by default.
    DjangoForm,
    /// oidc-provider, `client_secret_basic`, JWTs.
    OidcJwt,
    /// oidc-provider, `client_secret_post`, opaque tokens by a resource indicator.
    OidcOpaque,
}

/// What is to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) provider: Provider,
    /// Of the tokens, in seconds.
    pub(crate) lifetime: u32,
    /// TLS with a private CA, and HTTP/2.
    pub(crate) behind_nginx: bool,
}

pub(crate) struct Stand {
    pub(crate) plan: Plan,
    pub(crate) server: Server,
    pub(crate) front: Option<Server>,
    /// Where the paths below are found.
    pub(crate) auth_origin: String,
    pub(crate) api_origin: String,
    /// nginx's plain http, which redirects.
    pub(crate) plain_origin: String,
}

impl Plan {
    pub(crate) fn new(provider: Provider) -> Self {
        Self { provider, lifetime: 3600, behind_nginx: false }
    }

    pub(crate) fn lifetime(self, lifetime: u32) -> Self {
        Self { lifetime, ..self }
    }

    pub(crate) fn behind_nginx(self) -> Self {
        Self { behind_nginx: true, ..self }
    }

    pub(crate) async fn start(self) -> Stand {
        let mut env = vec![
            ("TOKEN_TTL", self.lifetime.to_string()),
            ("CLIENT_ID", self.client_id().to_owned()),
            ("CLIENT_SECRET", SECRET.to_owned()),
            // Hashed secrets cost 0.4 s of CPU a token: too much where many are issued.
            ("HASH_SECRETS", u8::from(self.lifetime > 60).to_string()),
        ];
        let (name, api_port) = match self.provider {
            Provider::DjangoJson | Provider::DjangoForm => {
                let json = self.provider == Provider::DjangoJson;
                env.push(("BACKEND", if json { "json" } else { "form" }.to_owned()));
                ("django", None)
            }
            Provider::OidcJwt | Provider::OidcOpaque => {
                let port = free_port();
                env.push(("API_PORT", port.to_string()));
                ("oidc", Some(port))
            }
        };
        let server = Server::start(name, &env).await;
        let api_port = api_port.unwrap_or(server.port);
        let api_origin = format!("http://127.0.0.1:{api_port}");
        if !self.behind_nginx {
            let auth_origin = server.origin();
            let plain_origin = String::new();
            return Stand {
                plan: self,
                server,
                front: None,
                auth_origin,
                api_origin,
                plain_origin,
            };
        }
        let plain = free_port();
        let env = [
            ("PLAIN_PORT", plain.to_string()),
            ("AUTH_PORT", server.port.to_string()),
            ("API_PORT", api_port.to_string()),
        ];
        let front = Server::start("nginx", &env).await;
        let origin = format!("https://127.0.0.1:{}", front.port);
        Stand {
            plan: self,
            server,
            front: Some(front),
            auth_origin: origin.clone(),
            api_origin: origin,
            plain_origin: format!("http://127.0.0.1:{plain}"),
        }
    }

    pub(crate) fn client_id(self) -> &'static str {
        match self.provider {
            Provider::DjangoJson => "podero-client",
            Provider::DjangoForm => "odd:client id+%/é",
            Provider::OidcJwt => "odd:client id+%/",
            Provider::OidcOpaque => "post",
        }
    }

    pub(crate) fn is_django(self) -> bool {
        matches!(self.provider, Provider::DjangoJson | Provider::DjangoForm)
    }
}

impl Stand {
    pub(crate) fn token_path(&self) -> &'static str {
        if self.plan.is_django() { "/oauth2/token/" } else { "/token" }
    }

    pub(crate) fn token_url(&self) -> String {
        format!("{}{}", self.auth_origin, self.token_path())
    }

    /// A resource that a token opens.
    pub(crate) fn api_url(&self) -> String {
        let path = match self.plan.provider {
            Provider::DjangoJson | Provider::DjangoForm => "/api/v2.0/partner/org/users/",
            Provider::OidcJwt => "/jwt/",
            Provider::OidcOpaque => "/opaque/",
        };
        format!("{}{path}", self.api_origin)
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self.plan.provider {
            Provider::DjangoJson => preset::podero(),
            Provider::DjangoForm | Provider::OidcJwt => Dialect::rfc6749(),
            Provider::OidcOpaque => {
                Dialect::rfc6749().client_authentication(ClientAuthentication::ClientSecretPost)
            }
        }
    }

    /// What a user would configure, but for the credentials.
    pub(crate) fn without_credentials(&self) -> Builder {
        let mut builder = OAuthClientCredentialsLayer::builder()
            .token_url(self.token_url())
            .dialect(self.dialect())
            .scope("read write");
        if self.plan.provider == Provider::OidcOpaque {
            builder = builder.resource("urn:test:opaque");
        }
        if self.front.is_some() {
            builder = builder.ca_file(ca());
        }
        builder
    }

    /// What a user would configure.
    pub(crate) fn builder(&self) -> Builder {
        self.without_credentials().client_id(self.plan.client_id()).client_secret(SECRET)
    }

    pub(crate) fn http(&self) -> Http {
        let versions = if self.front.is_some() { Versions::Http2 } else { Versions::Http1 };
        client::http(Some(&ca()), versions)
    }

    /// A client as `builder` has it, over hyper-util.
    pub(crate) fn caller(&self, builder: Builder) -> Caller {
        client::hyper(builder.build().expect("good settings"), self.http(), 64)
    }
}

/// The certificate of the CA that the servers have theirs from.
pub(crate) fn ca() -> PathBuf {
    cache().join("keys/ca.pem")
}
