//! What must be refused is refused with a stable code, and nothing changes.

use reqwest::Method;
use serde_json::{Value, json};
use yiqiu_base::{
    Principal,
    principal::{Role, Signer},
};

use crate::platform::{Platform, Server, place_r};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn raw(server: &Server, path: &str, body: &[u8]) -> crate::platform::Answer {
    server.send(Method::POST, path, &[JSON], Some(body.to_vec())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_and_change_nothing() {
    let platform = Platform::together(&["--no-agent".into()], &[]).await;
    let ops = &platform.server;
    place_r(ops).await;
    let host = json!({ "name": "h", "rack": "r", "unit": 1, "node_type": "vm" });
    let token = ops.post("/v1/hosts", &host).await.good()["join_token"].as_str().unwrap().to_owned();
    let alice = platform.tenant("alice").await;
    let before = [ops.events("resources").await.len(), ops.events("components").await.len()];

    // Bodies.
    raw(ops, "/v1/regions", b"{").await.refused(400, "malformed_body");
    raw(ops, "/v1/regions", b"").await.refused(400, "malformed_body");
    raw(ops, "/v1/regions", br#"{"name":"x","nmae":"y"}"#).await.refused(400, "malformed_body");
    raw(ops, "/v1/regions", br#"{"name":7}"#).await.refused(400, "malformed_body");
    raw(ops, "/v1/regions", &[b' '; 3 << 20]).await.refused(413, "body_too_large");
    let plain = ops.send(Method::POST, "/v1/regions", &[], Some(br#"{"name":"x"}"#.to_vec())).await.unwrap();
    plain.refused(400, "malformed_body");

    // Sizes, on a contract of either tier.
    let line = |size: Value| json!({ "name": "c", "lines": [{ "name": "l", "host": "h", "command": ["true"], "size": size }] });
    let need = |size: Value| json!({ "name": "c", "component_type": "container", "count": 1, "need": { "size": size, "image": "web" } });
    for size in [
        json!({ "cpu_millicores": 0, "memory_bytes": 1 }),
        json!({ "cpu_millicores": -1, "memory_bytes": 1 }),
        json!({ "cpu_millicores": 1, "memory_bytes": i64::MAX }),
        json!({ "cpu_millicores": 1, "memory_bytes": 1, "disk_bytes": i64::MIN }),
    ] {
        alice.post("/v1/rcontracts", &line(size.clone())).await.refused(422, "invalid_argument");
        alice.post("/v1/ccontracts", &need(size)).await.refused(422, "invalid_argument");
    }
    for size in [
        json!({ "cpu_millicores": 1.5, "memory_bytes": 1 }),
        json!({ "cpu_millicores": "1", "memory_bytes": 1 }),
        json!({ "cpu_millicores": 1e30, "memory_bytes": 1 }),
        json!({ "cpus": 1, "memory_bytes": 1 }),
    ] {
        alice.post("/v1/rcontracts", &line(size.clone())).await.refused(400, "malformed_body");
        alice.post("/v1/ccontracts", &need(size)).await.refused(400, "malformed_body");
    }
    // A host that is there but has no agent yet, one that is not there, one cut otherwise.
    let good = json!({ "cpu_millicores": 1, "memory_bytes": 1 });
    alice.post("/v1/rcontracts", &line(good.clone())).await.refused(409, "wrong_state");
    let unknown = json!({ "name": "c", "lines": [{ "name": "l", "host": "nowhere", "size": good }] });
    alice.post("/v1/rcontracts", &unknown).await.refused(404, "not_found");
    // Names and paths.
    ops.post("/v1/regions", &json!({ "name": "../../etc" })).await.refused(422, "invalid_argument");
    ops.post("/v1/regions", &json!({ "name": "r" })).await.refused(409, "already_exists");
    ops.delete("/v1/regions/r").await.refused(409, "in_use");
    ops.get("/v1/regions/nowhere").await.refused(404, "not_found");
    ops.get("/v1/nodes/not-an-id").await.refused(422, "invalid_argument");
    ops.get("/v1/regions?limit=many").await.refused(422, "invalid_argument");
    // Generations.
    let place = json!({ "rack": "r", "unit": 2, "node_type": "vm" });
    let stale = [JSON, ("if-match", "\"99\"")];
    let body = Some(serde_json::to_vec(&place).unwrap());
    ops.send(Method::PUT, "/v1/hosts/h/place", &stale, body.clone()).await.unwrap().refused(412, "stale_generation");
    let odd = [JSON, ("if-match", "new")];
    ops.send(Method::PUT, "/v1/hosts/h/place", &odd, body).await.unwrap().refused(422, "invalid_argument");
    // Nothing of this left a trace.
    assert_eq!(before, [ops.events("resources").await.len(), ops.events("components").await.len()]);

    // A key that was used for another request.
    let with_key = [JSON, ("idempotency-key", "k1")];
    let one = Some(br#"{"name":"one"}"#.to_vec());
    ops.send(Method::POST, "/v1/regions", &with_key, one.clone()).await.unwrap().good();
    ops.send(Method::POST, "/v1/regions", &with_key, one).await.unwrap().good();
    let two = Some(br#"{"name":"two"}"#.to_vec());
    ops.send(Method::POST, "/v1/regions", &with_key, two).await.unwrap().refused(422, "idempotency_key_reused");

    // Secrets are nowhere in the log.
    let log = platform.logged("up");
    for secret in [&token, &ops.token, &alice.token] {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
    }
    ops.books_hold("after bad requests").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_not_good_are_refused() {
    let platform = Platform::together(&["--no-agent".into()], &[]).await;
    let ops = &platform.server;
    let alice = platform.tenant("alice").await;
    let as_token = |token: &str| Server { token: token.to_owned(), ..ops.clone() };

    as_token("").get("/v1/whoami").await.refused(401, "unauthenticated");
    as_token("yqt_made-up").get("/v1/whoami").await.refused(401, "unauthenticated");
    as_token("a b").get("/v1/regions").await.refused(401, "unauthenticated");

    // A principal that someone else signed, one that a tier's key signed for more than itself, and one that expired.
    let ops_principal = |expires_ms| Principal {
        subject: "user:ops".into(),
        role: Role::Ops,
        owner: String::new(),
        expires_ms,
        token: None,
    };
    let (stranger, _) = Signer::generate("projects").unwrap();
    as_token(&stranger.sign(&ops_principal(i64::MAX))).get("/v1/regions").await.refused(401, "unauthenticated");
    let key = |name: &str| {
        let document = std::fs::read(platform.data().join(format!("keys/{name}.key"))).unwrap();
        Signer::from_pkcs8(name, &document).unwrap()
    };
    let overreaching = key("components").sign(&ops_principal(i64::MAX));
    as_token(&overreaching).get("/v1/regions").await.refused(401, "unauthenticated");
    let expired = key("projects").sign(&ops_principal(1));
    as_token(&expired).get("/v1/regions").await.refused(401, "unauthenticated");
    as_token(&key("projects").sign(&ops_principal(i64::MAX))).get("/v1/regions").await.good();

    // A tenant is not ops.
    for path in ["/v1/hosts", "/v1/regions", "/v1/users", "/v1/resources/books"] {
        let answer = alice.get(path).await;
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.body);
    }
    alice.post("/v1/regions", &json!({ "name": "mine" })).await.refused(403, "permission_denied");
    alice.post("/v1/users", &json!({ "name": "mine" })).await.refused(403, "permission_denied");

    // Guessing is slowed down for whoever guesses, and nobody else.
    let mut limited = None;
    for n in 0..200 {
        let answer = as_token(&format!("yqt_guess-{n}")).get("/v1/whoami").await;
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("guesses are limited");
    assert!(limited.headers.contains_key("retry-after"));
    limited.refused(429, "rate_limited");
    alice.get("/v1/whoami").await.good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_haste_is_limited_and_slows_nobody_else() {
    let platform = Platform::together(&["--no-agent".into(), "--rate-limit".into(), "20".into()], &[]).await;
    let alice = platform.tenant("alice").await;
    let bob = platform.tenant("bob").await;
    let mut limited = false;
    for _ in 0..200 {
        let answer = alice.get("/v1/whoami").await;
        limited |= answer.status == 429 && answer.headers.contains_key("retry-after");
    }
    assert!(limited, "200 requests at once are more than 20 a second");
    bob.get("/v1/whoami").await.good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_that_need_no_credential_answer() {
    let platform = Platform::together(&["--no-agent".into()], &[]).await;
    let nobody = Server { token: String::new(), ..platform.server.clone() };
    for path in ["/healthz", "/readyz", "/metrics", "/docs", "/v1/endpoints"] {
        assert_eq!(nobody.get(path).await.status, 200, "{path}");
    }
    let openapi = nobody.get("/openapi.json").await.good();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1"), "{}", openapi["openapi"]);
    for path in ["/v1/rcontracts", "/v1/ccontracts", "/v1/usage/report", "/v1/events/resources"] {
        assert!(openapi["paths"].get(path).is_some(), "{path} is described");
    }
}
