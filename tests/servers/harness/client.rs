//! HTTP clients to call APIs with. Each is a tower service of one type, so that a test can take any.

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_oauth2_client_credentials::OAuthClientCredentialsLayer;

/// hyper-util's client.
pub(crate) type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client with the layer, of whatever it is made.
pub(crate) type Caller = BoxCloneSyncService<Request<Full<Bytes>>, Response<Bytes>, BoxError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Versions {
    Http1,
    Http2,
}

/// hyper-util's client, which trusts the CA in `ca` and no other.
pub(crate) fn http(ca: Option<&Path>, versions: Versions) -> Http {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(ca))
        .https_or_http()
        .enable_all_versions()
        .build();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http2_only(versions == Versions::Http2)
        // Before the servers, which close after 30 s, can do it under a request.
        .pool_idle_timeout(Duration::from_secs(10))
        .build(connector)
}

fn tls(ca: Option<&Path>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let pem = fs::read(path).expect("the CA is there");
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// `layer` around hyper-util's client, at most `limit` calls on their way at once.
pub(crate) fn hyper(layer: OAuthClientCredentialsLayer, http: Http, limit: usize) -> Caller {
    let service =
        ServiceBuilder::new().layer(layer).concurrency_limit(limit).service(http).and_then(whole);
    BoxCloneSyncService::new(service)
}

/// `layer` around a reqwest client that trusts the CA in `ca`.
pub(crate) fn reqwest(layer: OAuthClientCredentialsLayer, ca: Option<&Path>) -> Caller {
    let client = reqwest_client(ca);
    let service = service_fn(move |request: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            Ok::<_, BoxError>(Response::from(client.execute(request).await?))
        }
    });
    let service = ServiceBuilder::new().layer(layer).service(service).and_then(whole);
    BoxCloneSyncService::new(service)
}

/// `layer` as a middleware of reqwest-middleware.
#[cfg(feature = "reqwest-middleware")]
pub(crate) fn reqwest_middleware(layer: OAuthClientCredentialsLayer, ca: Option<&Path>) -> Caller {
    use tower_oauth2_client_credentials::adapter::reqwest_middleware::OAuthMiddleware;

    let client = reqwest_middleware::ClientBuilder::new(reqwest_client(ca))
        .with(OAuthMiddleware::from(layer))
        .build();
    BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            let (parts, body) = request.into_parts();
            // Bytes in memory, which reqwest can clone.
            let body = reqwest::Body::from(body.collect().await?.to_bytes());
            let request = reqwest::Request::try_from(Request::from_parts(parts, body))?;
            whole(Response::from(client.execute(request).await?)).await
        }
    }))
}

/// A backend in axum, whose handler calls the API with `client` and passes the answer on.
pub(crate) fn axum_backend(client: Caller) -> Caller {
    use axum::{Router, body::Body, extract::State, http::header};

    async fn handler(
        State(client): State<Caller>,
        request: axum::extract::Request,
    ) -> Result<axum::response::Response, String> {
        let target = request.headers().get(header::LOCATION).and_then(|url| url.to_str().ok());
        let answer = get(&client, target.unwrap_or_default()).await;
        Ok(answer.map_err(|error| error.to_string())?.map(Body::from))
    }

    let backend: Router = Router::new().fallback(handler).with_state(client);
    BoxCloneSyncService::new(service_fn(move |request: Request<Full<Bytes>>| {
        let backend = backend.clone();
        async move {
            let incoming = Request::get("/")
                .header(header::LOCATION, request.uri().to_string())
                .body(Body::empty())?;
            whole(backend.oneshot(incoming).await?).await
        }
    }))
}

fn reqwest_client(ca: Option<&Path>) -> reqwest::Client {
    let mut tls = tls(ca);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(10))
        .build()
        .expect("a client")
}

async fn whole<B>(response: Response<B>) -> Result<Response<Bytes>, BoxError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(Into::into)?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// GETs `url`.
pub(crate) async fn get(caller: &Caller, url: &str) -> Result<Response<Bytes>, BoxError> {
    let request = Request::get(url).body(Full::default())?;
    caller.clone().ready().await?.call(request).await
}
