//! The HTTP and gRPC edges, and the tables themselves.

mod common;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use common::{Books, World, ask, ops, tenant};
use http_body_util::BodyExt;
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use tower::ServiceExt;
use yiqiu_base::{Clock, Principal, principal::Keyring, principal::Signer};
use yiqiu_migrations::MigratorTrait;
use yiqiu_proto::{
    call::{Callee, Caller},
    common::{self as wire, EventsRequest},
    components::{ListCContractsRequest, ReleaseCContractRequest, components_client::ComponentsClient},
    link,
    status::from_status,
};

struct Answer {
    status: StatusCode,
    tag: String,
    body: Value,
}

/// One request in the name of someone whom the edge in front has verified.
async fn send(
    world: &World,
    who: &Principal,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let router: Router = yiqiu_components::http::router(world.service.clone()).split_for_parts().0;
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    request.extensions_mut().insert(who.clone());
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let tag = response.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned()).unwrap_or_default();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, tag, body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

fn wanted(name: &str, count: u32) -> Value {
    json!({
        "name": name, "component_type": "container", "count": count,
        "need": {"size": {"cpu_millicores": 100, "memory_bytes": 100 << 20}, "image": "busybox",
            "command": ["httpd", "-f"], "environment": [{"name": "A", "value": "b"}], "ports": [{"node_port": 80}]},
        "spread": {"across": "rack"},
    })
}

on_both! {
    async fn people_talk_json(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        let post = |path: &'static str, headers: &'static [(&'static str, &'static str)], body: String| {
            let (world, who) = (&world, &who);
            async move { send(world, who, Method::POST, path, headers, &body).await }
        };
        let plan = post("/v1/ccontracts?dry_run=true", &[], wanted("web", 2).to_string()).await;
        assert_eq!((plan.status, &plan.body["placements"][1]["component"]), (StatusCode::OK, &json!("web-1")));
        assert_eq!(plan.body["placements"][1]["host"], "h1");

        let made = post("/v1/ccontracts", &[("idempotency-key", "k")], wanted("web", 2).to_string()).await;
        assert_eq!((made.status, &made.body["state"], made.tag.as_str()), (StatusCode::CREATED, &json!("placed"), "\"2\""));
        let again = post("/v1/ccontracts", &[("idempotency-key", "k")], wanted("web", 2).to_string()).await;
        assert_eq!((again.status, &again.body["id"]), (StatusCode::CREATED, &made.body["id"]));
        let component = &made.body["components"][0];
        assert_eq!(component["preset"]["size"]["memory_bytes"], 100 << 20);
        assert_eq!(component["actual"]["host"], "h1");
        assert_eq!((&component["state"], &component["host"]), (&json!("pending"), &json!("h1")));

        let power = "/v1/components/web-0/power";
        let off = post(power, &[("if-match", "\"1\"")], json!({"power": "off"}).to_string()).await;
        assert_eq!((off.status, off.tag.as_str(), &off.body["power"]), (StatusCode::OK, "\"2\"", &json!("off")));
        for (what, path, headers, body, status, code) in [
            ("a stale generation", power, &[("if-match", "\"1\"")][..], json!({"power": "on"}), 412, "stale_generation"),
            ("no generation", power, &[("if-match", "x")][..], json!({"power": "on"}), 422, "invalid_argument"),
            ("hibernated", power, &[][..], json!({"power": "hibernated"}), 422, "invalid_argument"),
            ("a state that is none", power, &[][..], json!({"power": "up"}), 400, "malformed_body"),
            ("another request under the key", "/v1/ccontracts", &[("idempotency-key", "k")][..], wanted("x", 1), 422, "idempotency_key_reused"),
            ("a name that is taken", "/v1/ccontracts", &[][..], wanted("web", 1), 409, "already_exists"),
            ("no room", "/v1/ccontracts", &[][..], wanted("big", 100), 409, "no_placement"),
            ("no room, asked dryly", "/v1/ccontracts?dry_run=true", &[][..], wanted("big", 100), 409, "no_placement"),
            ("a count below zero", "/v1/ccontracts", &[][..], { let mut b = wanted("x", 1); b["count"] = json!(-1); b }, 400, "malformed_body"),
            ("a size with a fraction", "/v1/ccontracts", &[][..],
                { let mut b = wanted("x", 1); b["need"]["size"]["cpu_millicores"] = json!(0.5); b }, 400, "malformed_body"),
            ("a field that is none", "/v1/ccontracts", &[][..], { let mut b = wanted("x", 1); b["sprad"] = json!({}); b }, 400, "malformed_body"),
            ("a type that is none", "/v1/ccontracts", &[][..],
                { let mut b = wanted("x", 1); b["component_type"] = json!("vm"); b }, 400, "malformed_body"),
        ] {
            let answer = post(path, headers, body.to_string()).await;
            assert_eq!((answer.status.as_u16(), &answer.body["code"]), (status, &json!(code)), "{what}: {}", answer.body);
        }
        let refused = post("/v1/ccontracts", &[], wanted("big", 100).to_string()).await;
        assert_eq!((&refused.body["data"]["fits"], &refused.body["data"]["verdicts"][0]["host"]), (&json!(8), &json!("h1")));

        let get = |who: Principal, path: &'static str| {
            let world = &world;
            async move { send(world, &who, Method::GET, path, &[], "").await }
        };
        assert_eq!(get(who.clone(), "/v1/ccontracts").await.body["items"].as_array().unwrap().len(), 1);
        assert_eq!(get(who.clone(), "/v1/ccontracts/web").await.body["components"].as_array().unwrap().len(), 2);
        assert_eq!(get(who.clone(), "/v1/components?ccontract=web&limit=1").await.body["items"][0]["name"], "web-0");
        assert_eq!(get(who.clone(), "/v1/component-types").await.body["items"][0]["distribution"], "cell");
        for path in ["/v1/ccontracts/web", "/v1/components/web-0", "/v1/components?ccontract=web"] {
            let answer = get(tenant("b"), path).await;
            assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{path}");
        }
        let events = get(who.clone(), "/v1/events/components?limit=2").await.body;
        assert_eq!((&events["items"][0]["kind"], &events["next"]), (&json!("ccontract.created"), &json!("2")));
        assert_eq!(events["items"][1]["payload"]["component_name"], "web-0");
        assert_eq!(get(tenant("b"), "/v1/events/components").await.body["items"], json!([]));

        let path = "/v1/ccontracts/web";
        assert_eq!(send(&world, &tenant("b"), Method::DELETE, path, &[], "").await.status, StatusCode::NOT_FOUND);
        assert_eq!(send(&world, &who, Method::DELETE, path, &[], "").await.status, StatusCode::ACCEPTED);
        world.peer.finish_releases();
        common::eventually("released", || async {
            (send(&world, &who, Method::DELETE, path, &[], "").await.status == StatusCode::OK).then_some(())
        })
        .await;
    }

    async fn a_host_that_is_not_heard_is_shown(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let who = tenant("a");
        let whole = world.service.create(&who, ask("web", 1), None).await.unwrap();
        let line = whole.components[0].line_id.to_string();
        let shown = |host_state: &'static str, state: &'static str| {
            let (world, who) = (&world, &who);
            common::eventually("shown", move || async move {
                let body = send(world, who, Method::GET, "/v1/components/web-0", &[], "").await.body;
                (body["actual"]["host_state"] == host_state && body["state"] == state).then_some(body["detail"].clone())
            })
        };
        world.peer.report(&line, wire::NodeState::Running, &[]);
        assert_eq!(shown("online", "running").await, "");
        world.peer.host_becomes("h1", "unreachable");
        let detail = shown("unreachable", "running").await;
        assert!(detail.as_str().unwrap().starts_with("host h1 is unreachable: "), "{detail}");
        // An answer that says nothing of the host takes nothing back.
        world.peer.lock().leases.values_mut().for_each(|lease| lease.nodes[0].host_state.clear());
        world.peer.report(&line, wire::NodeState::Failed, &[]);
        shown("unreachable", "failed").await;
        world.peer.host_becomes("h1", "online");
        assert_eq!(shown("online", "failed").await, "");
    }

    async fn tiers_ask_over_their_link(books: Books) {
        let world = World::new(books).await;
        world.peer.host("h1", 1000, 1000);
        let whole = world.service.create(&tenant("a"), ask("web", 1), None).await.unwrap();
        let other = world.service.create(&tenant("b"), ask("web", 1), None).await.unwrap();
        let clock = Clock::system();
        let (projects, _) = Signer::generate("projects").unwrap();
        let mut keyring = Keyring::default();
        keyring.trust("projects", projects.public());
        let callee = Callee::new(keyring, clock.clone());
        let link = link::local(yiqiu_components::rpc::server(world.service.clone(), callee));
        let mut client = ComponentsClient::new(link);
        let caller = Caller::new(projects.clone(), clock.clone());

        let listed = |message| caller.request(message);
        let all = client.list_c_contracts(listed(ListCContractsRequest::default())).await.unwrap().into_inner().contracts;
        assert_eq!(all.iter().map(|c| c.id.clone()).collect::<Vec<_>>(), [whole.contract.id.to_string(), other.contract.id.to_string()]);
        for (what, message, count) in [
            ("of one owner", ListCContractsRequest { owner: "project:b".into(), ..Default::default() }, 1),
            ("after the first", ListCContractsRequest { after_id: all[0].id.clone(), ..Default::default() }, 1),
            ("long ago", ListCContractsRequest { created_before_ms: 1, ..Default::default() }, 0),
            ("one", ListCContractsRequest { limit: 1, ..Default::default() }, 1),
        ] {
            let page = client.list_c_contracts(listed(message)).await.unwrap().into_inner();
            assert_eq!(page.contracts.len(), count, "{what}");
        }
        let events = client.events(caller.request(EventsRequest { after: 0, limit: 100, wait_ms: 0 })).await.unwrap();
        assert!(events.get_ref().epoch > 0 && events.get_ref().events.len() == 6);
        let ask = ReleaseCContractRequest { id: whole.contract.id.to_string() };
        let released = client.release_c_contract(caller.request(ask.clone())).await.unwrap().into_inner();
        assert_eq!(released.state, "releasing");

        // A tenant's principal, however good, opens none of these.
        let tenant = projects.sign(&Principal { expires_ms: clock.now() + 60_000, ..tenant("a") });
        let refused = client.release_c_contract(yiqiu_proto::call::signed(ask, &tenant)).await.unwrap_err();
        assert_eq!(from_status(refused).code, yiqiu_base::Code::PermissionDenied);
        let refused = client.events(yiqiu_proto::call::signed(EventsRequest::default(), &tenant)).await.unwrap_err();
        assert_eq!(from_status(refused).code, yiqiu_base::Code::PermissionDenied);
        let refused = client.events(tonic::Request::new(EventsRequest::default())).await.unwrap_err();
        assert_eq!(from_status(refused).code, yiqiu_base::Code::Unauthenticated);
        assert!(world.service.events(&ops(), 0, 10, Duration::ZERO).await.is_ok());
    }

    async fn tables_come_and_go(books: Books) {
        let database = books.open().await;
        let connection = database.schema();
        for _ in 0..2 {
            yiqiu_migrations::components::Migrator::up(connection, None).await.unwrap();
            yiqiu_migrations::components::Migrator::down(connection, None).await.unwrap();
        }
        let text = match database.backend() {
            sea_orm::DbBackend::Postgres => "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'",
            _ => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        };
        let rows = connection.query_all_raw(Statement::from_string(database.backend(), text)).await.unwrap();
        let left: Vec<String> = rows.iter().map(|row| row.try_get("", "name").unwrap()).collect();
        assert_eq!(left, ["components_migrations"]);
    }
}

#[test]
fn the_description_names_every_route() {
    // Without a service there is nothing to serve, but the description stands.
    let books = Books::sqlite();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new(books));
    let (_, openapi) = yiqiu_components::http::router(world.service.clone()).split_for_parts();
    let document = serde_json::to_value(&openapi).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/v1/ccontracts",
            "/v1/ccontracts/{ccontract}",
            "/v1/component-types",
            "/v1/components",
            "/v1/components/{component}",
            "/v1/components/{component}/power",
            "/v1/events/components",
            "/v1/ledgers/components",
        ]
    );
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in ["CContract", "Component", "PlacementExplanation", "NewCContract"] {
        assert!(schemas.contains_key(name), "{name} is not among {:?}", schemas.keys().collect::<Vec<_>>());
    }
    runtime.block_on(async { drop(world) });
}
