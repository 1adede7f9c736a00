use serde_json::json;

use crate::{
    on_both,
    peers::Line,
    world::{Place, World},
};

on_both!(
    migrations_go_up_and_down,
    names_and_bad_input,
    a_tenant_sees_its_own_and_no_other,
    what_is_in_use_stays,
    the_same_request_again_makes_nothing_new,
    events_tell_what_happened,
    lists_come_in_pages,
);

async fn migrations_go_up_and_down(place: Place) {
    use yiqiu_migrations::{MigratorTrait, projects::Migrator};
    let database = yiqiu_base::database::Database::connect(&place.url).await.unwrap();
    for _ in 0..2 {
        Migrator::up(database.schema(), None).await.unwrap();
        Migrator::down(database.schema(), None).await.unwrap();
    }
}

async fn names_and_bad_input(place: Place) {
    let world = World::new(place).await;
    world.tenant("alice", "shop").await;
    for (path, body, status, code) in [
        ("/v1/users", json!({"name": "alice"}), 409, "already_exists"),
        ("/v1/projects", json!({"name": "shop"}), 409, "already_exists"),
        ("/v1/projects/shop/members", json!({"user": "alice"}), 409, "already_exists"),
        ("/v1/users", json!({"name": "Al ice"}), 422, "invalid_argument"),
        ("/v1/users", json!({"name": "018f2c00-0000-7000-8000-000000000000"}), 422, "invalid_argument"),
        ("/v1/users", json!({"name": "bob", "role": "service"}), 422, "invalid_argument"),
        ("/v1/users", json!({"name": "bob", "role": "king"}), 400, "malformed_body"),
        ("/v1/users", json!({"name": "bob", "age": 3}), 400, "malformed_body"),
        ("/v1/projects", json!({}), 400, "malformed_body"),
        ("/v1/projects/shop/members", json!({"user": "nobody"}), 404, "not_found"),
        ("/v1/projects/none/members", json!({"user": "alice"}), 404, "not_found"),
        ("/v1/projects/shop/members", json!({"user": "ops", "role": "ops"}), 422, "invalid_argument"),
        ("/v1/tokens", json!({"user": "alice", "role": "tenant"}), 422, "invalid_argument"),
        ("/v1/tokens", json!({"user": "alice", "role": "ops"}), 409, "wrong_state"),
        ("/v1/tokens", json!({"user": "ops", "project": "shop"}), 409, "wrong_state"),
        ("/v1/tokens", json!({"user": "alice", "project": "none"}), 404, "not_found"),
        ("/v1/tokens", json!({"user": "alice", "project": "shop", "ttl_ms": 0}), 422, "invalid_argument"),
        (
            "/v1/tokens",
            json!({"user": "alice", "project": "shop", "ttl_ms": 31_536_000_001_i64}),
            422,
            "invalid_argument",
        ),
        ("/v1/tokens", json!({"user": "alice", "project": "shop", "ttl_ms": 1.5}), 400, "malformed_body"),
        ("/v1/tokens", json!({"user": "alice", "project": "shop", "name": "=x"}), 422, "invalid_argument"),
    ] {
        let (got, answer) = world.ask(&world.root, "POST", path, Some(body.clone())).await;
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{path} {body}: {answer}");
    }
    assert_eq!(world.root("GET", "/v1/users", None).await["items"].as_array().unwrap().len(), 2);
    assert_eq!(world.root("GET", "/v1/projects", None).await["items"].as_array().unwrap().len(), 1);
    assert_eq!(world.root("GET", "/v1/tokens", None).await["items"].as_array().unwrap().len(), 2);
    let (status, answer) = world.ask(&world.root, "GET", "/v1/usage/report", None).await;
    assert_eq!(status, 422, "ops act for no project: {answer}");
}

async fn a_tenant_sees_its_own_and_no_other(place: Place) {
    let world = World::new(place).await;
    let (shop, alice) = world.tenant("alice", "shop").await;
    let (bank, _) = world.tenant("bob", "bank").await;
    for (method, path, body, status) in [
        ("GET", "/v1/projects/shop".to_owned(), None, 200),
        ("GET", format!("/v1/projects/{shop}"), None, 200),
        ("GET", "/v1/projects/shop/members".into(), None, 200),
        ("GET", "/v1/usage/report".into(), None, 200),
        ("GET", "/v1/usage/report?project=shop&format=csv".into(), None, 200),
        ("GET", "/v1/projects/bank".into(), None, 404),
        ("GET", format!("/v1/projects/{bank}"), None, 404),
        ("GET", "/v1/projects/bank/members".into(), None, 404),
        ("GET", "/v1/usage/report?project=bank".into(), None, 404),
        ("GET", format!("/v1/usage/report?project={bank}"), None, 404),
        ("GET", "/v1/users".into(), None, 403),
        ("GET", "/v1/users/bob".into(), None, 403),
        ("GET", "/v1/events/projects".into(), None, 403),
        ("POST", "/v1/users".into(), Some(json!({"name": "eve"})), 403),
        ("POST", "/v1/projects".into(), Some(json!({"name": "mine"})), 403),
        ("POST", "/v1/projects/shop/members".into(), Some(json!({"user": "bob"})), 403),
        ("DELETE", "/v1/projects/shop".into(), None, 403),
        ("DELETE", "/v1/projects/shop/members/alice".into(), None, 403),
        ("POST", "/v1/tokens".into(), Some(json!({"role": "ops"})), 403),
        ("POST", "/v1/tokens".into(), Some(json!({"user": "bob"})), 403),
        ("POST", "/v1/tokens".into(), Some(json!({"user": "nobody"})), 403),
        ("POST", "/v1/tokens".into(), Some(json!({"project": "bank"})), 404),
        ("POST", "/v1/tokens".into(), Some(json!({"project": "shop", "name": "second"})), 201),
    ] {
        let (got, answer) = world.ask(&alice, method, &path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
    }
    // "Not yours" and "not there" are the same words.
    let (_, foreign) = world.ask(&alice, "GET", "/v1/projects/bank", None).await;
    let (_, absent) = world.ask(&alice, "GET", "/v1/projects/none", None).await;
    assert_eq!(foreign["detail"].as_str().unwrap().replace("bank", "none"), absent["detail"].as_str().unwrap());

    let (_, own) = world.ask(&alice, "GET", "/v1/projects", None).await;
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    let (_, me) = world.ask(&alice, "GET", "/v1/whoami", None).await;
    assert_eq!(
        (&me["subject"], &me["role"], &me["project"]["name"]),
        (&json!("user:alice"), &json!("tenant"), &json!("shop"))
    );
}

async fn what_is_in_use_stays(place: Place) {
    let world = World::new(place).await;
    let (shop, alice) = world.tenant("alice", "shop").await;
    let (direct, bound) = (Line::new(), Line::new());
    world.resources.opened(direct, &format!("project:{shop}"), yiqiu_base::Power::On, 0);
    world.resources.opened(bound, "tier:components", yiqiu_base::Power::On, 0);
    world.components.bound(bound, 1, &format!("project:{shop}"), 0);
    world.metered().await;

    let (status, answer) = world.ask(&world.root, "DELETE", "/v1/projects/shop", None).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("in_use")), "{answer}");
    assert_eq!(answer["data"], json!({"members": 1, "tokens": 1, "claims_of_contracts": 2}));
    let (status, answer) = world.ask(&world.root, "DELETE", "/v1/users/alice", None).await;
    assert_eq!((status, &answer["data"]), (409, &json!({"memberships": 1, "tokens": 1})), "{answer}");

    world.root("DELETE", "/v1/projects/shop/members/alice", None).await;
    let fresh = world.service.authenticate(&yiqiu_base::secret::Secret::from_text(alice)).await;
    assert_eq!(fresh.unwrap_err().code, yiqiu_base::Code::Unauthenticated, "its token went with the membership");
    world.root("DELETE", "/v1/users/alice", None).await;
    let (status, answer) = world.ask(&world.root, "DELETE", "/v1/projects/shop", None).await;
    assert_eq!((status, &answer["data"]), (409, &json!({"claims_of_contracts": 2})), "{answer}");

    world.resources.closed(direct, 0, 10);
    world.resources.closed(bound, 0, 20);
    world.metered().await;
    world.root("DELETE", "/v1/projects/shop", None).await;
    let (status, _) = world.ask(&world.root, "GET", "/v1/projects/shop", None).await;
    assert_eq!(status, 404);
    // Its past can be reported, by its id; its name is free again.
    let report = world.root("GET", &format!("/v1/usage/report?project={shop}&from=0"), None).await;
    assert_eq!((&report["totals"]["on_ms"], &report["project"]["state"]), (&json!(30), &json!("deleted")));
    let again = world.root("POST", "/v1/projects", Some(json!({"name": "shop"}))).await;
    assert_ne!(again["id"], json!(shop));
}

async fn the_same_request_again_makes_nothing_new(place: Place) {
    let world = World::new(place).await;
    world.tenant("alice", "shop").await;
    world.root("POST", "/v1/users", Some(json!({"name": "bob"}))).await;
    let root = &world.root;
    let key = [("idempotency-key", "k1")];
    for (path, body, other) in [
        ("/v1/users", json!({"name": "carol"}), json!({"name": "dave"})),
        ("/v1/projects", json!({"name": "bank"}), json!({"name": "farm"})),
        ("/v1/projects/shop/members", json!({"user": "bob"}), json!({"user": "ops"})),
        ("/v1/tokens", json!({"user": "alice", "project": "shop"}), json!({"user": "bob", "project": "shop"})),
    ] {
        let (status, mut first) = world.ask_with(root, "POST", path, Some(body.clone()), &key).await;
        assert_eq!(status, 201, "{first}");
        let (status, second) = world.ask_with(root, "POST", path, Some(body.clone()), &key).await;
        if path == "/v1/tokens" {
            assert_eq!((status, second.get("secret")), (200, None), "a secret is shown once");
            first.as_object_mut().unwrap().remove("secret").unwrap();
        }
        assert_eq!(first, second);
        let (status, answer) = world.ask_with(root, "POST", path, Some(other), &key).await;
        assert_eq!((status, answer["code"].as_str()), (422, Some("idempotency_key_reused")), "{answer}");
    }
    // At once, too.
    let body = Some(json!({"name": "race"}));
    let ask = || world.ask_with(root, "POST", "/v1/projects", body.clone(), &[("idempotency-key", "k2")]);
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    assert_eq!((a.0, &a.1, &b.1), (201, &b.1, &c.1));
}

async fn events_tell_what_happened(place: Place) {
    let world = World::new(place).await;
    let (_, secret) = world.tenant("alice", "shop").await;
    world.root("DELETE", "/v1/projects/shop/members/alice", None).await;
    let events = world.root("GET", "/v1/events/projects", None).await;
    let kinds: Vec<_> = events["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "user.created",
            "token.created",
            "user.created",
            "project.created",
            "member.added",
            "token.created",
            "token.revoked",
            "member.removed"
        ]
    );
    let text = events.to_string();
    for secret in [&secret, &world.root] {
        let hash = yiqiu_base::secret::Secret::from_text(secret.clone()).hash();
        assert!(!text.contains(secret.as_str()) && !text.contains(&hash), "{text}");
    }
    let rest = world.root("GET", "/v1/events/projects?after=7", None).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
}

async fn lists_come_in_pages(place: Place) {
    let world = World::new(place).await;
    for n in 0..5 {
        world.root("POST", "/v1/projects", Some(json!({"name": format!("p{n}")}))).await;
        world.root("POST", "/v1/tokens", Some(json!({}))).await;
    }
    for (path, key, total) in [("/v1/projects", "name", 5), ("/v1/tokens", "id", 6)] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = world.root("GET", &format!("{path}?limit=2{cursor}"), None).await;
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()));
            let Some(next) = page.get("next") else { break };
            cursor = format!("&cursor={}", next.as_str().unwrap());
        }
        assert!(seen.is_sorted() && seen.len() == total, "{path}: {seen:?}");
    }
}
