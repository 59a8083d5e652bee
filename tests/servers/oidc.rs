//! oidc-provider's own ways.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower_oauth2_client_credentials::{
    Builder, ErrorClass,
    endpoint::{BodyEncoding, ClientAuthentication},
};

use crate::{
    harness::{
        client::get,
        stand::{Plan, Provider},
    },
    runner::Test,
    scenarios::{good, no_token},
};

pub(crate) fn add(tests: &mut Vec<Test>) {
    let jwt = Plan::new(Provider::OidcJwt);
    tests.extend([
        Test::new("oidc::the_discovery_document_names_the_token_endpoint", discovery(jwt)),
        Test::new("oidc::each_resource_has_a_token_of_its_own_kind", resources(jwt)),
        Test::new("oidc::an_unknown_resource_is_told", unknown_resource(jwt)),
        Test::new("oidc::a_raw_secret_in_basic_is_told", raw(jwt)),
        Test::new("oidc::a_json_body_is_told", json(jwt)),
        Test::new("oidc::a_scope_too_few_is_the_callers_business", admin(jwt)),
    ]);
}

async fn discovery(plan: Plan) {
    let stand = plan.start().await;
    let url = format!("{}/.well-known/openid-configuration", stand.auth_origin);
    let request = Request::get(url).body(Full::<Bytes>::default()).unwrap();
    let answer = stand.http().request(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let methods = document["token_endpoint_auth_methods_supported"].as_array().unwrap();
    assert!(methods.iter().any(|method| method == "client_secret_basic"), "{document}");
    let token_url = document["token_endpoint"].as_str().unwrap();
    let caller = stand.caller(stand.builder().token_url(token_url));
    good(get(&caller, &stand.api_url()).await);
}

async fn resources(plan: Plan) {
    let stand = plan.start().await;
    let token = async |builder: Builder| {
        let token = builder.build().unwrap().cache().token().await.unwrap();
        token.header().to_str().unwrap().trim_start_matches("Bearer ").to_owned()
    };
    let jwt = token(stand.builder().resource("urn:test:jwt")).await;
    let opaque = token(stand.builder().resource("urn:test:opaque")).await;
    assert_eq!((jwt.split('.').count(), opaque.split('.').count()), (3, 1));
    let caller = stand.caller(stand.builder().resource("urn:test:jwt"));
    good(get(&caller, &stand.api_url()).await);
    let caller = stand.caller(stand.builder().resource("urn:test:opaque"));
    good(get(&caller, &format!("{}/opaque/", stand.api_origin)).await);
}

async fn unknown_resource(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder().resource("urn:test:nonsense"));
    let error = no_token(get(&caller, &stand.api_url()).await);
    assert_eq!(error.class(), ErrorClass::Request);
    let text = error.to_string();
    assert!(
        text.starts_with("the token endpoint refused the request: 400 invalid_target"),
        "{text}"
    );
}

async fn raw(plan: Plan) {
    let stand = plan.start().await;
    let raw = ClientAuthentication::ClientSecretBasicRaw;
    // An id without a colon, which raw Basic could not carry at all.
    let caller = stand.caller(stand.builder().client_id("basic").client_authentication(raw));
    let error = no_token(get(&caller, &stand.api_url()).await);
    assert_eq!(error.status(), Some(StatusCode::BAD_REQUEST), "{error:?}");
    // Not `invalid_client`, but the server says itself what it is.
    let text = error.to_string();
    assert!(
        text.contains("400 invalid_request") && text.contains("not properly encoded"),
        "{text}"
    );
}

async fn json(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder().dialect(stand.dialect().body(BodyEncoding::Json)));
    let text = no_token(get(&caller, &stand.api_url()).await).to_string();
    assert!(text.contains("400 invalid_request"), "{text}");
    assert!(text.contains("application/x-www-form-urlencoded"), "{text}");
}

async fn admin(plan: Plan) {
    let stand = plan.start().await;
    let caller = stand.caller(stand.builder());
    for _ in 0..3 {
        let answer = get(&caller, &format!("{}/jwt/admin", stand.api_origin)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    assert_eq!(stand.server.token_requests().await, 1);
}
