//! Does not compile, which is the point: `ui` in `tests/it` reads what the compiler says.

use http::{Request, Response};
use tower::{Layer, service_fn, util::BoxCloneSyncService};
use tower_oauth2_client_credentials::OAuthClientCredentialsLayer;

/// A body of the user's own.
struct Upload;

fn main() {
    let layer = OAuthClientCredentialsLayer::basic("id", "secret").unwrap();
    let client = layer.layer(service_fn(|_: Request<Upload>| async {
        Ok::<_, std::io::Error>(Response::new(String::new()))
    }));
    drop(BoxCloneSyncService::new(client));
}
