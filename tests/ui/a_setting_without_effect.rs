//! Does not compile, which is the point: `ui` in `tests/it` reads what the compiler says.

use std::time::Duration;

use tower_oauth2_client_credentials::{
    Builder, TokenCache, TokenResponse, endpoint::TokenEndpoint, source_fn,
};

fn main() {
    let source = || source_fn(|_| async { TokenResponse::bearer("t0k3n") });

    // A cache sends no requests to an API.
    TokenCache::builder().allowed_origin("https://api.example.com");
    // An endpoint keeps no token.
    TokenEndpoint::builder().keep_warm();
    // A source has its own URL.
    TokenCache::builder_from(source()).token_url("https://auth.example.com/token");
    // A cache that exists has its timeouts, and so has a static secret.
    Builder::from_cache(TokenCache::new(source())).attempt_timeout(Duration::from_secs(1));
    Builder::basic("id", "secret").default_lifetime(Duration::from_secs(1));
}
