use serde_json::json;
use yiqiu_base::{Code, principal::Role, secret::Secret};
use yiqiu_proto::{
    call::{Callee, Caller},
    link,
    projects::{AuthenticateRequest, projects_client::ProjectsClient},
    status::from_status,
};

use crate::{
    on_both,
    world::{Place, START, World, logged},
};

on_both!(
    a_token_is_traded_for_a_principal,
    tokens_end,
    a_tenant_minds_its_own_tokens,
    a_tenants_token_ends_with_the_one_it_was_made_with,
    a_name_is_free_again_when_its_token_ended,
    the_first_token,
    tiers_trade_tokens_by_rpc,
    secrets_are_never_shown_again,
);

async fn refused(world: &World, secret: &str) {
    let refused = world.service.authenticate(&Secret::from_text(secret)).await.unwrap_err();
    assert_eq!(refused.code, Code::Unauthenticated);
    assert!(!refused.detail.contains(secret) || secret.is_empty());
    let (status, _) = world.ask(secret, "GET", "/v1/whoami", None).await;
    assert_eq!(status, 401);
}

async fn a_token_is_traded_for_a_principal(place: Place) {
    let world = World::new(place).await;
    let (shop, alice) = world.tenant("alice", "shop").await;
    let signed = world.service.authenticate(&Secret::from_text(alice)).await.unwrap();
    let principal = world.keyring.verify(&signed, START).unwrap();
    assert_eq!((principal.subject.as_str(), principal.role), ("user:alice", Role::Tenant));
    assert_eq!((principal.owner, principal.expires_ms), (format!("project:{shop}"), START + 60_000));
    let signed = world.service.authenticate(&Secret::from_text(world.root.clone())).await.unwrap();
    let principal = world.keyring.verify(&signed, START).unwrap();
    assert_eq!((principal.role, principal.owner.as_str()), (Role::Ops, ""));
    // Ops may act in the name of a project, too.
    let made = world.root("POST", "/v1/tokens", Some(json!({"role": "ops", "project": "shop"}))).await;
    let signed = world.service.authenticate(&Secret::from_text(made["secret"].as_str().unwrap())).await.unwrap();
    let principal = world.keyring.verify(&signed, START).unwrap();
    assert_eq!((principal.role, principal.owner), (Role::Ops, format!("project:{shop}")));
}

async fn tokens_end(place: Place) {
    let world = World::new(place).await;
    world.tenant("alice", "shop").await;
    let body = json!({"user": "alice", "project": "shop", "ttl_ms": 5_000, "name": "short"});
    let short = world.root("POST", "/v1/tokens", Some(body)).await;
    let short = short["secret"].as_str().unwrap();
    let signed = world.service.authenticate(&Secret::from_text(short)).await.unwrap();
    assert_eq!(world.keyring.verify(&signed, START).unwrap().expires_ms, START + 5_000, "no longer than the token");
    world.advance(4_999);
    assert_eq!(world.ask(short, "GET", "/v1/whoami", None).await.0, 200);
    world.advance(1);
    refused(&world, short).await;
    assert_eq!(world.root("GET", "/v1/tokens/short", None).await["state"], json!("expired"));

    let made =
        world.root("POST", "/v1/tokens", Some(json!({"user": "alice", "project": "shop", "name": "gone"}))).await;
    world.root("DELETE", "/v1/tokens/gone", None).await;
    world.root("DELETE", "/v1/tokens/gone", None).await; // again is the same as once
    refused(&world, made["secret"].as_str().unwrap()).await;
    assert_eq!(world.root("GET", "/v1/tokens/gone", None).await["state"], json!("revoked"));

    for stranger in ["yqt_", "yqt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "nonsense", "yqp1.projects.e30.e30"] {
        refused(&world, stranger).await;
    }
}

async fn a_tenant_minds_its_own_tokens(place: Place) {
    let world = World::new(place).await;
    let (_, alice) = world.tenant("alice", "shop").await;
    let (_, bob) = world.tenant("bob", "bank").await;
    world.root("POST", "/v1/projects/shop/members", Some(json!({"user": "bob"}))).await;
    let body = json!({"user": "bob", "project": "shop", "name": "bobs"});
    let bobs_id = world.root("POST", "/v1/tokens", Some(body)).await["id"].as_str().unwrap().to_owned();

    let (status, made) = world.ask(&alice, "POST", "/v1/tokens", Some(json!({"name": "ci"}))).await;
    assert_eq!(status, 201, "{made}");
    let ci = made["secret"].as_str().unwrap();
    assert_eq!(world.ask(ci, "GET", "/v1/projects/shop", None).await.0, 200);
    let (_, listed) = world.ask(&alice, "GET", "/v1/tokens", None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");

    // Not one of the same project, nor one's own of another project.
    for (who, token) in [(&alice, "bobs"), (&alice, bobs_id.as_str()), (&bob, "bobs"), (&bob, "ci")] {
        assert_eq!(world.ask(who, "GET", &format!("/v1/tokens/{token}"), None).await.0, 404, "{token}");
        assert_eq!(world.ask(who, "DELETE", &format!("/v1/tokens/{token}"), None).await.0, 404, "{token}");
    }
    assert_eq!(world.ask(&alice, "DELETE", "/v1/tokens/ci", None).await.0, 204);
    let revoked = world.service.authenticate(&Secret::from_text(ci)).await;
    assert_eq!(revoked.unwrap_err().code, Code::Unauthenticated);
}

async fn a_tenants_token_ends_with_the_one_it_was_made_with(place: Place) {
    let world = World::new(place).await;
    world.tenant("alice", "shop").await;
    let body = json!({"user": "alice", "project": "shop", "ttl_ms": 600_000, "name": "short"});
    let made = world.root("POST", "/v1/tokens", Some(body)).await;
    let short = made["secret"].as_str().unwrap();
    let year = 365 * 86_400_000_i64;
    for body in [json!({"name": "a", "ttl_ms": year}), json!({"name": "b"}), json!({"name": "c", "ttl_ms": 600_001})] {
        let (status, child) = world.ask(short, "POST", "/v1/tokens", Some(body)).await;
        assert_eq!((status, &child["expires_ms"]), (201, &json!(START + 600_000)), "{child}");
    }
    let (_, child) = world.ask(short, "POST", "/v1/tokens", Some(json!({"name": "d", "ttl_ms": 5_000}))).await;
    assert_eq!(child["expires_ms"], json!(START + 5_000), "a shorter one stays so");
    let (_, child) = world.ask(short, "POST", "/v1/tokens", Some(json!({"name": "child"}))).await;
    let child = child["secret"].as_str().unwrap().to_owned();
    let (_, grandchild) = world.ask(&child, "POST", "/v1/tokens", Some(json!({"name": "grandchild"}))).await;
    assert_eq!(grandchild["expires_ms"], json!(START + 600_000));
    // What ops make outlives the token that they ask with: it is how a token of theirs is renewed.
    let body = json!({"role": "ops", "ttl_ms": year, "name": "next"});
    assert_eq!(world.root("POST", "/v1/tokens", Some(body)).await["expires_ms"], json!(START + year));

    // The principal of a revoked token holds on for a minute, but makes no token any more.
    let signed = world.service.authenticate(&Secret::from_text(child.clone())).await.unwrap();
    world.root("DELETE", "/v1/tokens/short", None).await;
    let (status, late) = world.ask(&signed, "POST", "/v1/tokens", Some(json!({"name": "late"}))).await;
    assert_eq!(status, 401, "{late}");
    for name in ["a", "b", "c", "d", "child", "grandchild"] {
        let token = world.root("GET", &format!("/v1/tokens/{name}"), None).await;
        assert_eq!(token["state"], json!("revoked"), "{token}");
    }
    for secret in [&child, grandchild["secret"].as_str().unwrap()] {
        let refused = world.service.authenticate(&Secret::from_text(secret.to_owned())).await.unwrap_err();
        assert_eq!(refused.code, Code::Unauthenticated);
    }
    let told = world.root("GET", "/v1/events/projects?limit=1000", None).await;
    let told = told["items"].as_array().unwrap().iter().filter(|event| event["kind"] == "token.revoked").count();
    assert_eq!(told, 7);
}

async fn a_name_is_free_again_when_its_token_ended(place: Place) {
    let world = World::new(place).await;
    world.tenant("alice", "shop").await;
    world.tenant("bob", "bank").await;
    let body = |user: &str, project: &str| json!({"user": user, "project": project, "name": "ci", "ttl_ms": 1_000});
    let first = world.root("POST", "/v1/tokens", Some(body("alice", "shop"))).await;
    let (status, again) = world.ask(&world.root, "POST", "/v1/tokens", Some(body("alice", "shop"))).await;
    assert_eq!((status, &again["code"]), (409, &json!("already_exists")), "{again}");
    world.root("DELETE", "/v1/tokens/ci", None).await;
    let second = world.root("POST", "/v1/tokens", Some(body("alice", "shop"))).await;
    assert_eq!(world.root("GET", "/v1/tokens/ci", None).await["id"], second["id"], "the good one");
    world.advance(1_000);
    assert_eq!(world.root("GET", "/v1/tokens/ci", None).await["id"], second["id"], "the newest");
    let third = world.root("POST", "/v1/tokens", Some(body("bob", "bank"))).await;
    assert_eq!(world.root("GET", "/v1/tokens/ci", None).await["id"], third["id"], "the good one, whosever");
    world.root("POST", "/v1/tokens", Some(body("alice", "shop"))).await;
    let (status, several) = world.ask(&world.root, "GET", "/v1/tokens/ci", None).await;
    assert_eq!(status, 422, "{several}");
    let by_id = format!("/v1/tokens/{}", first["id"].as_str().unwrap());
    assert_eq!(world.root("GET", &by_id, None).await["state"], json!("revoked"));
}

async fn the_first_token(place: Place) {
    let world = World::new(place).await;
    assert!(world.service.bootstrap(None).await.unwrap().is_none(), "somebody can act as ops");
    let world = world.again().await;
    assert_eq!(world.ask(&world.root, "GET", "/v1/whoami", None).await.0, 200, "the same secret after a restart");

    let only = world.root("GET", "/v1/tokens", None).await["items"][0]["id"].as_str().unwrap().to_owned();
    world.root("DELETE", &format!("/v1/tokens/{only}"), None).await;
    let used = world.service.bootstrap(Some(Secret::from_text(world.root.clone()))).await.unwrap_err();
    assert_eq!(used.code, Code::AlreadyExists, "a revoked one does not come back");
    let short = world.service.bootstrap(Some(Secret::from_text("yqt_short"))).await.unwrap_err();
    assert_eq!(short.code, Code::InvalidArgument);
    let fresh = world.service.bootstrap(None).await.unwrap().expect("nobody can act as ops any more");
    assert!(fresh.reveal().starts_with("yqt_") && fresh.reveal().len() > 40);
    assert_eq!(world.ask(fresh.reveal(), "GET", "/v1/users", None).await.0, 200);
}

async fn tiers_trade_tokens_by_rpc(place: Place) {
    let world = World::new(place).await;
    let (_, alice) = world.tenant("alice", "shop").await;
    let (signer, _) = yiqiu_base::principal::Signer::generate("resources").unwrap();
    let mut keyring = world.keyring.clone();
    keyring.trust("resources", signer.public());
    let callee = Callee::new(keyring, world.clock.clone());
    let server = yiqiu_projects::rpc::server(world.service.clone(), callee);
    let mut client = ProjectsClient::new(link::local(server));
    let caller = Caller::new(signer, world.clock.clone());
    let request = || AuthenticateRequest { token: alice.clone() };
    let answer = client.authenticate(caller.request(request())).await.unwrap().into_inner();
    assert_eq!(world.keyring.verify(&answer.principal, START).unwrap().subject, "user:alice");
    let bad = client.authenticate(caller.request(AuthenticateRequest { token: "yqt_x".into() })).await;
    assert_eq!(from_status(bad.unwrap_err()).code, Code::Unauthenticated);
    let unsigned = client.authenticate(request()).await;
    assert_eq!(from_status(unsigned.unwrap_err()).code, Code::Unauthenticated);
    let as_tenant = client.authenticate(yiqiu_proto::call::signed(request(), &answer.principal)).await;
    assert_eq!(from_status(as_tenant.unwrap_err()).code, Code::PermissionDenied);
}

async fn secrets_are_never_shown_again(place: Place) {
    let world = World::new(place).await;
    let (_, alice) = world.tenant("alice", "shop").await;
    world.ask(&alice, "GET", "/v1/whoami", None).await;
    world.ask(&format!("{alice}x"), "GET", "/v1/whoami", None).await;
    world.root("DELETE", "/v1/projects/shop/members/alice", None).await;

    let mut seen = world.root("GET", "/v1/tokens", None).await.to_string();
    seen += &world.root("GET", "/v1/events/projects", None).await.to_string();
    seen += &logged();
    assert!(seen.contains("/v1/whoami"), "the log is there");
    for secret in [&alice, &world.root] {
        assert!(!seen.contains(secret.as_str()));
        assert!(!seen.contains(&Secret::from_text(secret.clone()).hash()));
    }
}
