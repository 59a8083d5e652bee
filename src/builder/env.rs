//! Settings from environment variables.
//!
//! What a value may be is decided by the setting that it becomes.

use std::ffi::OsString;

use super::{
    base::Builder,
    target::{ForCache, ForLayer, FromEndpoint, sealed::Target},
};
use crate::cache::TokenCache;

/// The settings that have a variable, and the end of its name.
const VARIABLES: [(&str, &str); 9] = [
    ("token_url", "TOKEN_URL"),
    ("client_id", "CLIENT_ID"),
    ("client_secret", "CLIENT_SECRET"),
    ("client_secret_file", "CLIENT_SECRET_FILE"),
    ("scope", "SCOPE"),
    ("audience", "AUDIENCE"),
    ("dialect", "DIALECT"),
    ("ca_file", "CA_FILE"),
    ("allowed_origin", "ALLOWED_ORIGINS"),
];

/// Ends of names that are taken for those above, from other programs and libraries.
const NEAR_MISSES: [(&str, &str); 14] = [
    ("token_url", "TOKEN_ENDPOINT"),
    ("token_url", "TOKEN_URI"),
    ("token_url", "URL"),
    ("client_id", "CLIENTID"),
    ("client_id", "ID"),
    ("client_secret", "CLIENTSECRET"),
    ("client_secret", "SECRET"),
    ("client_secret", "CLIENT_SECRET_PATH"),
    ("scope", "SCOPES"),
    ("audience", "AUD"),
    ("audience", "AUDIENCES"),
    ("ca_file", "CA_BUNDLE"),
    ("ca_file", "CA_CERT"),
    ("allowed_origin", "ALLOWED_ORIGIN"),
];

/// # From the environment
impl Builder {
    /// Reads settings from the environment, to which others may be added.
    ///
    /// | variable | setting |
    /// |---|---|
    /// | `OAUTH_TOKEN_URL` | [`token_url`](Self::token_url) |
    /// | `OAUTH_CLIENT_ID` | [`client_id`](Self::client_id) |
    /// | `OAUTH_CLIENT_SECRET` | [`client_secret`](Self::client_secret) |
    /// | `OAUTH_CLIENT_SECRET_FILE` | [`client_secret_file`](Self::client_secret_file), in its place |
    /// | `OAUTH_SCOPE` | [`scope`](Self::scope), several with blanks between them |
    /// | `OAUTH_AUDIENCE` | [`audience`](Self::audience) |
    /// | `OAUTH_DIALECT` | [`dialect`](Self::dialect): `rfc6749`, `auth0`, `podero` or `dadi` |
    /// | `OAUTH_CA_FILE` | [`ca_file`](Self::ca_file) |
    /// | `OAUTH_ALLOWED_ORIGINS` | [`allowed_origin`](Self::allowed_origin), several with blanks or commas between them |
    ///
    /// Without `OAUTH_ALLOWED_ORIGINS`, every `https` origin may have the token, unless the program
    /// names the allowed ones.
    ///
    /// A variable that is empty counts as not set. Not so `OAUTH_ALLOWED_ORIGINS`: empty, it is an
    /// error, because the rule that it was to set would be gone. A problem is reported when the
    /// client is built, by the names of the setting and the variable.
    pub fn from_env() -> Self {
        Self::from_env_with_prefix("OAUTH")
    }

    /// Reads the same variables with another word in place of `OAUTH`, for a second client:
    /// `from_env_with_prefix("BILLING")` reads `BILLING_TOKEN_URL` and so on. The underscore may
    /// be part of the prefix: `"BILLING_"` is the same.
    pub fn from_env_with_prefix(prefix: impl AsRef<str>) -> Self {
        from_lookup(prefix.as_ref(), |name| std::env::var_os(name))
    }
}

impl TokenCache {
    /// Starts to configure a cache by the variables of [`Builder::from_env_with_prefix`], for use
    /// without a layer.
    ///
    /// Allowed origins are a setting of the layer, so `OAUTH_ALLOWED_ORIGINS` is an error here
    /// rather than silently without effect: see [`OAuthClientCredentialsLayer::cache`] for the
    /// cache of a layer.
    ///
    /// [`OAuthClientCredentialsLayer::cache`]: crate::OAuthClientCredentialsLayer::cache
    pub fn builder_from_env_with_prefix(prefix: impl AsRef<str>) -> Builder<ForCache> {
        from_lookup(prefix.as_ref(), |name| std::env::var_os(name))
    }
}

fn from_lookup<T: AllowedOrigins>(
    prefix: &str,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Builder<T> {
    let prefix = prefix.strip_suffix('_').unwrap_or(prefix);
    let mut builder = Builder::with(FromEndpoint::default());
    builder.shared.env_prefix = Some(prefix.to_owned());
    for (setting, end) in NEAR_MISSES {
        let name = name(prefix, end);
        // Without a prefix, `URL` or `ID` may be anybody's.
        if !prefix.is_empty() && lookup(&name).is_some_and(|value| !value.is_empty()) {
            builder.shared.near_misses.push((setting, name));
        }
    }
    for (setting, _) in VARIABLES {
        let value = variable(prefix, setting).and_then(|name| lookup(&name));
        // An empty list of origins must not read as "every origin".
        let counts = |value: &OsString| !value.is_empty() || setting == "allowed_origin";
        let Some(value) = value.filter(counts) else {
            continue;
        };
        builder = match setting {
            // Paths need not be UTF-8.
            "client_secret_file" => builder.client_secret_file(value),
            "ca_file" => builder.ca_file(value),
            _ => match value.into_string() {
                Ok(value) => with_text(builder, setting, value),
                Err(_) => {
                    builder.fail(setting, "is not UTF-8");
                    builder
                }
            },
        };
    }
    builder
}

fn with_text<T: AllowedOrigins>(
    mut builder: Builder<T>,
    setting: &'static str,
    value: String,
) -> Builder<T> {
    match setting {
        "token_url" => builder.token_url(value),
        "client_id" => builder.client_id(value),
        "client_secret" => builder.client_secret(value),
        "scope" => builder.scope(value),
        "audience" => builder.audience(value),
        "allowed_origin" => T::allowed_origins(builder, &value),
        "dialect" => match value.parse() {
            Ok(dialect) => builder.dialect(dialect),
            Err(error) => {
                builder.fail("dialect", error.into_problem());
                builder
            }
        },
        _ => builder,
    }
}
/// The list of allowed origins, by target: to drop one in silence could send the token anywhere.
trait AllowedOrigins: Target + Default + Sized {
    fn allowed_origins(builder: Builder<Self>, list: &str) -> Builder<Self>;
}

impl AllowedOrigins for ForLayer {
    fn allowed_origins(builder: Builder<Self>, list: &str) -> Builder<Self> {
        let origins = list.split(|c: char| c == ',' || c.is_ascii_whitespace());
        builder.allowed_origins(origins.filter(|origin| !origin.is_empty()))
    }
}

impl AllowedOrigins for ForCache {
    fn allowed_origins(mut builder: Builder<Self>, _: &str) -> Builder<Self> {
        let problem = "is a setting of the layer, and a cache has none: take the cache of a layer, \
                       by `Builder::from_env().build()?.cache()`, or leave the variable out";
        builder.fail("allowed_origin", problem);
        builder
    }
}

/// The name of the variable for `setting`, if it has one.
pub(super) fn variable(prefix: &str, setting: &str) -> Option<String> {
    let (_, end) = VARIABLES.iter().find(|(known, _)| *known == setting)?;
    Some(name(prefix, end))
}

fn name(prefix: &str, end: &str) -> String {
    if prefix.is_empty() { end.to_owned() } else { format!("{prefix}_{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{target::ForEndpoint, tests::unreachable};

    impl AllowedOrigins for ForEndpoint {
        fn allowed_origins(builder: Builder<Self>, _: &str) -> Builder<Self> {
            builder
        }
    }

    fn from(prefix: &str, variables: &[(&str, &str)]) -> Builder {
        of(prefix, variables)
    }

    fn of<T: AllowedOrigins>(prefix: &str, variables: &[(&str, &str)]) -> Builder<T> {
        let variables: Vec<(String, OsString)> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        from_lookup(prefix, |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
        .shared_transport(unreachable())
    }

    fn problem(variables: &[(&str, &str)]) -> String {
        from("OAUTH", variables).build().unwrap_err().to_string()
    }

    const ENOUGH: [(&str, &str); 3] = [
        ("OAUTH_TOKEN_URL", "https://a.example/t"),
        ("OAUTH_CLIENT_ID", "me"),
        ("OAUTH_CLIENT_SECRET", "c4n4ry"),
    ];

    fn and(more: (&'static str, &'static str)) -> Vec<(&'static str, &'static str)> {
        ENOUGH.into_iter().filter(|(name, _)| *name != more.0).chain([more]).collect()
    }

    #[test]
    fn settings_come_from_variables_under_a_prefix() {
        assert!(from("OAUTH", &ENOUGH).build().is_ok());
        let billing = [
            ("BILLING_TOKEN_URL", "https://billing.example/t"),
            ("BILLING_CLIENT_ID", "me"),
            ("BILLING_CLIENT_SECRET", ""),
            ("BILLING_CLIENT_SECRET_FILE", "/run/secrets/billing"),
            ("BILLING_SCOPE", "read  write"),
            ("BILLING_AUDIENCE", "https://api"),
            ("BILLING_DIALECT", "auth0"),
            ("OAUTH_SCOPE", "other"),
        ];
        for prefix in ["BILLING", "BILLING_"] {
            let endpoint = of::<ForEndpoint>(prefix, &billing).scope("more").build().unwrap();
            let debug = format!("{endpoint:?}");
            for part in ["billing.example", r#""read write more""#, "https://api", "Json"] {
                assert!(debug.contains(part), "{part}: {debug}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_setting_and_variable() {
        assert_eq!(problem(&[]), "token_url (OAUTH_TOKEN_URL) is not set");
        for (variables, said) in [
            (and(("OAUTH_CLIENT_ID", "")), "client_id (OAUTH_CLIENT_ID) is not set"),
            (and(("OAUTH_CLIENT_SECRET", "")), "client_secret (OAUTH_CLIENT_SECRET) is not set"),
            (
                and(("OAUTH_CLIENT_SECRET", "c4n4ry\n")),
                "client_secret (OAUTH_CLIENT_SECRET) has a newline at its end",
            ),
            (
                and(("OAUTH_CLIENT_SECRET_FILE", "/run/secrets/x")),
                "client_secret (OAUTH_CLIENT_SECRET) and client_secret_file are both set",
            ),
            (
                and(("OAUTH_DIALECT", "oauth")),
                r#"dialect (OAUTH_DIALECT) is "oauth", which does not exist (there are: rfc6749,"#,
            ),
            (and(("OAUTH_SCOPE", "a\tb")), r#"scope (OAUTH_SCOPE) has '\t'"#),
            (and(("OAUTH_TOKEN_URL", "/t")), "token_url (OAUTH_TOKEN_URL) is not an absolute URL"),
            (and(("OAUTH_CA_FILE", "/ca.pem")), "ca_file (OAUTH_CA_FILE) is for the default"),
        ] {
            let problem = problem(&variables);
            assert!(problem.starts_with(said), "{problem}");
            assert!(!problem.contains("c4n4ry"), "{problem}");
        }
    }

    // Whoever was configured by the environment alone gave the token to every https origin.
    #[test]
    fn allowed_origins_come_from_a_variable() {
        for list in [
            "https://a.example http://b.example:81",
            "https://a.example,http://b.example:81",
            " https://a.example ,\n\thttp://b.example:81, ",
        ] {
            let layer = from("OAUTH", &and(("OAUTH_ALLOWED_ORIGINS", list))).build().unwrap();
            let debug = format!("{layer:?}");
            let both = "[Origin(https://a.example), Origin(http://b.example:81)]";
            assert!(debug.contains(both), "{list:?}: {debug}");
        }
        let debug = format!("{:?}", from("OAUTH", &ENOUGH).build().unwrap());
        assert!(debug.contains("allowed: []"), "{debug}");
    }

    // A template whose value was missing lifted the rule that it was to set.
    #[test]
    fn allowed_origins_that_are_blank_or_wrong_are_an_error_that_names_the_variable() {
        for (list, said) in [
            ("", "names no origin"),
            (" ", "names no origin"),
            (" , ,", "names no origin"),
            ("https://a.example;https://b.example", "is wrong: `https://a.example;https://b"),
            ("https://a.example api.example", "is wrong: `api.example` is not an origin"),
        ] {
            let builder = from("OAUTH", &and(("OAUTH_ALLOWED_ORIGINS", list)));
            let problem = builder.build().unwrap_err().to_string();
            let said = format!("allowed_origin (OAUTH_ALLOWED_ORIGINS) {said}");
            assert!(problem.starts_with(&said), "{list:?}: {problem}");
        }
    }

    // OAUTH_SCOPES was set, and the token had no scope: a 403 from the API, hours later.
    #[test]
    fn a_variable_that_is_nearly_one_of_ours_is_named() {
        for (variables, said) in [
            (and(("OAUTH_SCOPES", "read")), "scope (OAUTH_SCOPE) is not set (is OAUTH_SCOPES,"),
            (
                and(("OAUTH_ALLOWED_ORIGIN", "https://a.example")),
                "allowed_origin (OAUTH_ALLOWED_ORIGINS) is not set (is OAUTH_ALLOWED_ORIGIN,",
            ),
            (
                vec![("OAUTH_TOKEN_ENDPOINT", "https://a.example/t")],
                "token_url (OAUTH_TOKEN_URL) is not set (is OAUTH_TOKEN_ENDPOINT, which is set,",
            ),
        ] {
            let problem = problem(&variables);
            assert!(problem.starts_with(said), "{problem}");
        }
        // The right one is there as well, by variable or in the program.
        let both = [and(("OAUTH_SCOPES", "x")), vec![("OAUTH_SCOPE", "read")]].concat();
        assert!(from("OAUTH", &both).build().is_ok());
        assert!(from("OAUTH", &and(("OAUTH_SCOPES", "x"))).scope("read").build().is_ok());
        let origins = from("OAUTH", &and(("OAUTH_ALLOWED_ORIGIN", "x")));
        assert!(origins.allowed_origin("https://a.example").build().is_ok());
        let bare: Vec<_> =
            ENOUGH.map(|(name, value)| (name.trim_start_matches("OAUTH_"), value)).to_vec();
        assert!(from("", &[bare, vec![("SCOPES", "x")]].concat()).build().is_ok(), "not ours");
    }

    // A cache from the environment was shared by layers that sent the token everywhere.
    #[test]
    fn a_cache_does_not_drop_allowed_origins_in_silence() {
        let caches = |variables: &[_]| of::<ForCache>("OAUTH", variables).build();
        assert!(caches(&ENOUGH).is_ok());
        let error = caches(&and(("OAUTH_ALLOWED_ORIGINS", "https://a.example"))).unwrap_err();
        let said = "allowed_origin (OAUTH_ALLOWED_ORIGINS) is a setting of the layer";
        assert!(error.to_string().starts_with(said), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_named() {
        use std::os::unix::ffi::OsStringExt;

        let error = from_lookup::<ForLayer>("X", |name| {
            (name == "X_CLIENT_ID").then(|| OsString::from_vec(vec![0xff]))
        })
        .build()
        .unwrap_err();
        assert_eq!(error.to_string(), "client_id (X_CLIENT_ID) is not UTF-8");
    }
}
