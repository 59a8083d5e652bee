//! What is made of the lifetime that a server announces, over the life of its tokens.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use tower_oauth2_client_credentials::{Dialect, endpoint::ZeroExpiresIn, testing::Answer};

use crate::kit::{World, pass, secs};

const DAY: u64 = 86_400;

fn zero(meaning: ZeroExpiresIn) -> World {
    World::with(|builder| builder.dialect(Dialect::rfc6749().zero_expires_in(meaning)))
}

/// The number of token requests that a hundred calls cost, one a second.
async fn requests_of_a_hundred_calls(world: &World) -> usize {
    for _ in 0..100 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(1)).await;
    }
    world.server.requests()
}

#[tokio::test(start_paused = true)]
async fn zero_for_the_same_token_again_does_not_cost_a_request_for_each_call() {
    for zero in ["0", "-1", "\"0\""] {
        let world = World::new();
        world.server.repeat_token();
        world.server.announce_expires_in(zero);
        assert_eq!(requests_of_a_hundred_calls(&world).await, 2, "{zero}");
        // And again, each time that the default lifetime ends.
        pass(secs(300)).await;
        assert!(requests_of_a_hundred_calls(&world).await <= 4);
    }
}

#[tokio::test(start_paused = true)]
async fn zero_for_new_tokens_is_for_one_use() {
    let world = World::new();
    world.server.announce_expires_in("0");
    assert_eq!(requests_of_a_hundred_calls(&world).await, 100);
}

#[tokio::test(start_paused = true)]
async fn zero_means_what_is_set() {
    let unknown = zero(ZeroExpiresIn::Unknown);
    unknown.server.announce_expires_in("0");
    assert_eq!(requests_of_a_hundred_calls(&unknown).await, 1);

    let one_use = zero(ZeroExpiresIn::OneUse);
    one_use.server.announce_expires_in("0");
    one_use.server.repeat_token();
    assert_eq!(requests_of_a_hundred_calls(&one_use).await, 100);
}

/// The server keeps tokens itself, and rounds the second that is left of one down.
#[tokio::test(start_paused = true)]
async fn zero_for_what_is_left_of_a_token_is_its_end() {
    let world = World::new();
    world.server.issue_for(secs(120));
    assert_eq!(world.status("/").await, StatusCode::OK);
    let old = world.server.last_token().unwrap();
    let rest = format!(r#"{{"access_token":"{old}","expires_in":0}}"#);
    pass(secs(119)).await;
    world.server.respond_once(Answer::json(StatusCode::OK, rest));
    for _ in 0..100 {
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(1)).await;
    }
    assert_eq!(world.api.rejected(), 0, "an expired token went out");
    assert!(world.server.requests() <= 4, "{}", world.server.requests());
}

/// A token that an API has revoked comes again with zero: the circuit breaker has to see that.
#[tokio::test(start_paused = true)]
async fn zero_for_a_rejected_token_costs_no_more_than_a_lifetime() {
    let mut requests = Vec::new();
    for announced in ["3600", "0"] {
        let world = World::new();
        world.server.repeat_token();
        world.server.announce_expires_in(announced);
        for _ in 0..3 {
            assert_eq!(world.status("/").await, StatusCode::OK);
        }
        world.server.revoke_all();
        let before = world.server.requests();
        for _ in 0..100 {
            assert_eq!(world.status("/").await, StatusCode::UNAUTHORIZED);
            pass(secs(1)).await;
        }
        requests.push(world.server.requests() - before);
        world.server.issue_new_tokens();
        pass(secs(600)).await;
        assert_eq!(world.status("/").await, StatusCode::OK);
    }
    assert!(requests[1] <= requests[0], "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn milliseconds_and_points_in_time_do_not_outlive_the_token() {
    for unit in [1_000, 1] {
        let world = World::new();
        world.server.issue_for(secs(DAY));
        let end = world.clock.wall() + secs(DAY);
        let end = end.duration_since(UNIX_EPOCH).unwrap();
        let announced = if unit == 1 { end.as_secs() } else { DAY * 1_000 - 1 };
        world.server.announce_expires_in(announced.to_string());
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(DAY - 120)).await;
        assert_eq!(world.status("/").await, StatusCode::OK);
        pass(secs(121)).await;
        world.server.announce_expires_in("3600");
        assert_eq!(world.status("/").await, StatusCode::OK);
        assert_eq!(world.api.rejected(), 0, "an expired token went out");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_is_capped_by_max_lifetime() {
    async fn left(world: &World) -> Duration {
        world.server.announce_expires_in((365 * DAY).to_string());
        let token = world.cache().token().await.unwrap();
        token.expires_at().unwrap().duration_since(world.clock.wall()).unwrap()
    }
    assert_eq!(left(&World::new()).await, secs(30 * DAY));
    let capped = World::with(|builder| builder.max_lifetime(secs(60)));
    assert_eq!(left(&capped).await, secs(60));
    let long = World::with(|builder| builder.max_lifetime(Duration::MAX));
    assert_eq!(left(&long).await, secs(365 * DAY));
    // What is assumed if nothing is announced is for the user to say.
    let assumed = World::with(|builder| builder.default_lifetime(secs(90 * DAY)));
    assumed.server.leave_out_expires_in();
    let token = assumed.cache().token().await.unwrap();
    let left = token.expires_at().unwrap().duration_since(assumed.clock.wall()).unwrap();
    assert_eq!(left, secs(90 * DAY));
}

/// The gateway's `expires_in` is that of another kind of token.
#[tokio::test(start_paused = true)]
async fn a_jwt_is_not_used_for_longer_than_its_claims_have_it() {
    let world = World::new();
    let now = world.clock.wall().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let jwt = |iat: u64, exp: u64| {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{iat},"exp":{exp}}}"#));
        let body = format!(r#"{{"access_token":"eyJ9.{claims}.c2ln","expires_in":86400}}"#);
        Answer::json(StatusCode::OK, body)
    };
    for (iat, exp, lifetime) in [
        (now, now + 600, 600),
        // Handed out again, half of it gone.
        (now - 300, now + 300, 300),
        // By our clock, which is ahead, nothing is left: the difference counts.
        (now - 600, now + 60, 660),
        (now - 9000, now - 8400, 600),
    ] {
        let world = World::new();
        world.server.respond_once(jwt(iat, exp));
        let token = world.cache().token().await.unwrap();
        let left = token.expires_at().unwrap().duration_since(world.clock.wall()).unwrap();
        assert_eq!(left, secs(lifetime), "{iat} {exp}");
    }
}
