//! The ledger of Projects beside those below, and what the report says of a project's lines.

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use yiqiu_base::{Id, Power, id};
use yiqiu_proto::{
    common::{Finding, FindingsResponse},
    components::Binding,
    resources::HeldLine,
};

use crate::{
    on_both,
    peers::{Line, SIZE},
    world::{Place, START, World},
};

on_both!(
    a_planted_difference_is_told_until_it_is_put_right,
    what_the_meter_has_not_read_is_not_judged,
    a_report_says_what_is_amiss_with_its_own_lines,
);

const TIER: &str = "tier:components";

fn line(n: u128) -> Line {
    uuid::Uuid::from_u128(n).into()
}

fn held(line: Line, owner: &str, power: Power, from_ms: i64) -> HeldLine {
    HeldLine {
        id: line.to_string(),
        rcontract_id: Id::<id::RContract>::from(line.uuid()).to_string(),
        owner: owner.into(),
        name: "n".into(),
        power: power.as_str().into(),
        from_ms,
        metered: Some(SIZE.into()),
        ..HeldLine::default()
    }
}

fn binding(line: Line, component: u128, owner: &str) -> Binding {
    let id = uuid::Uuid::from_u128(component).to_string();
    Binding {
        line_id: line.to_string(),
        rcontract_id: line.to_string(),
        component_id: id.clone(),
        component_name: format!("web-{component}"),
        ccontract_id: id,
        owner: owner.into(),
    }
}

async fn compare(world: &World) -> Value {
    world.root("POST", "/v1/ledgers/projects", None).await
}

fn details(comparison: &Value) -> Vec<&str> {
    comparison["findings"].as_array().unwrap().iter().map(|f| f["detail"].as_str().unwrap()).collect()
}

async fn by_hand(world: &World, text: &str) {
    world.database.read().execute_unprepared(text).await.unwrap();
}

/// Three components' lines and one of a project itself, alike everywhere.
async fn alike(world: &World, owner: &str) -> Vec<Line> {
    let lines: Vec<Line> = (1..=3).map(line).collect();
    for (n, line) in (1..).zip(&lines) {
        world.resources.opened(*line, TIER, Power::On, START);
        world.components.bound(*line, n, owner, START);
    }
    world.resources.opened(line(4), owner, Power::Off, START);
    let mut all: Vec<HeldLine> = lines.iter().map(|line| held(*line, TIER, Power::On, START)).collect();
    all.push(held(line(4), owner, Power::Off, START));
    world.resources.holds(all);
    world.components.binds((1..).zip(&lines).map(|(n, line)| binding(*line, n, owner)).collect());
    lines
}

async fn a_planted_difference_is_told_until_it_is_put_right(place: Place) {
    let world = World::new(place).await;
    let (shop, alice) = world.tenant("alice", "shop").await;
    let owner = format!("project:{shop}");
    alike(&world, &owner).await;
    let clean = compare(&world).await;
    assert_eq!(
        (&clean["clean"], &clean["compared"], &clean["unknown"]),
        (&json!(true), &json!(4), &json!("")),
        "{clean}"
    );

    let second = |column: &str| match world.place.url.starts_with("sqlite:") {
        true => format!("{column} = X'{:032x}'", 2),
        false => format!("{column} = '{}'", uuid::Uuid::from_u128(2)),
    };
    for (wrong, right, told) in [
        ("cpu_millicores = 1", "cpu_millicores = 1500", "and Projects as on, 0.001 cpu"),
        ("power = 'off'", "power = 'on'", "and Projects as off"),
        ("to_ms = from_ms", "to_ms = NULL", "and Projects does not"),
    ] {
        let change = |to: &str| format!("UPDATE segments SET {to} WHERE {}", second("line_id"));
        by_hand(&world, &change(wrong)).await;
        let dirty = compare(&world).await;
        assert_eq!(details(&dirty).len(), 1, "{wrong}: {dirty}");
        assert!(details(&dirty)[0].contains(told), "{wrong}: {dirty}");
        let finding = &dirty["findings"][0];
        assert_eq!((&finding["kind"], &finding["tier"]), (&json!("ledger"), &json!("projects")));
        assert_eq!(finding["owner"], json!(owner), "whose it is, by its binding");
        assert_eq!(world.root("GET", "/v1/ledgers/projects", None).await, dirty, "it is kept");
        by_hand(&world, &change(right)).await;
        assert_eq!(compare(&world).await["clean"], true, "{wrong}");
    }
    by_hand(&world, &format!("UPDATE bindings SET to_ms = 1 WHERE {}", second("line_id"))).await;
    let dirty = compare(&world).await;
    let told = details(&dirty).join("; ");
    assert!(told.contains("and Projects bills it to nobody") && told.contains("it is on no bill"), "{dirty}");
    by_hand(&world, &format!("UPDATE bindings SET to_ms = NULL WHERE {}", second("line_id"))).await;
    assert_eq!(compare(&world).await["clean"], true);

    let (status, refused) = world.ask(&alice, "GET", "/v1/ledgers/projects", None).await;
    assert_eq!((status, &refused["code"]), (403, &json!("permission_denied")));
    assert_eq!(world.ask(&alice, "POST", "/v1/ledgers/projects", None).await.0, 403);
}

async fn what_the_meter_has_not_read_is_not_judged(place: Place) {
    let world = World::new(place).await;
    let (shop, _) = world.tenant("alice", "shop").await;
    alike(&world, &format!("project:{shop}")).await;
    assert_eq!(compare(&world).await["clean"], true);
    // An event that it cannot understand stops it.
    world.resources.closed(line(1), START, START - 5);
    world.error_of("projects.meter.resources", "cannot be metered").await;
    world.resources.holds(Vec::new());
    let behind = compare(&world).await;
    assert_eq!((&behind["clean"], details(&behind).len()), (&json!(false), 0), "{behind}");
    assert!(behind["unknown"].as_str().unwrap().contains("1 events of resources behind"), "{behind}");
}

async fn a_report_says_what_is_amiss_with_its_own_lines(place: Place) {
    let world = World::new(place).await;
    let (shop, alice) = world.tenant("alice", "shop").await;
    let (_, bob) = world.tenant("bob", "other").await;
    let owner = format!("project:{shop}");
    let lines = alike(&world, &owner).await;
    world.metered().await;
    world.advance(60_000);
    let report = async |token: &str| {
        let (status, report) = world.ask(token, "GET", "/v1/usage/report", None).await;
        assert_eq!(status, 200, "{report}");
        report
    };
    let amiss = |line: Line, kind: &str, host: &str| Finding {
        kind: kind.into(),
        line_id: line.to_string(),
        host_name: host.into(),
        name: "n".into(),
        detail: format!("it is a {kind}"),
        at_ms: START + 7,
    };

    let silent = report(&alice).await;
    let unknown = silent["audit"]["unknown"].as_str().unwrap();
    assert!(unknown.starts_with("Resources could not be asked: ") && unknown.contains("the link is cut"), "{silent}");
    assert_eq!(silent["items"].as_array().unwrap().len(), 4, "and the bill is there all the same");
    world.components.finds(Some(FindingsResponse { at_ms: START, findings: vec![amiss(lines[2], "ledger", "")] }));
    world.resources.finds(Some(FindingsResponse::default()));
    assert!(report(&alice).await["audit"]["unknown"].as_str().unwrap().starts_with("no audit of every host"));

    let findings = vec![amiss(lines[0], "ghost", "h1"), amiss(line(4), "over", "h2"), amiss(line(99), "ghost", "h3")];
    world.resources.finds(Some(FindingsResponse { at_ms: START + 9, findings }));
    let seen = report(&alice).await;
    assert_eq!(seen["audit"], json!({"at_ms": START + 9, "unknown": ""}));
    let found: Vec<(&str, String)> = seen["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let list = item["findings"].as_array().unwrap().iter();
            let told: Vec<String> =
                list.map(|f| format!("{} {} {}", f["tier"], f["kind"], f["host_name"]).replace('"', "")).collect();
            (item["name"].as_str().unwrap(), told.join(", "))
        })
        .collect();
    let node = format!("node-{}", &line(4).to_string()[32..]);
    let expected =
        [("web-1", "resources ghost h1"), ("web-2", ""), ("web-3", "components ledger "), (&node, "resources over h2")];
    assert_eq!(found, expected.map(|(name, told)| (name, told.to_owned())));
    let (_, csv) = world.ask(&alice, "GET", "/v1/usage/report?format=csv", None).await;
    let csv = csv.as_str().unwrap();
    assert!(csv.lines().next().unwrap().ends_with(",findings") && csv.contains(",ghost: it is a ghost\n"), "{csv}");
    // Whatever another tier answers, a tenant sees what is its own.
    let other = report(&bob).await;
    assert_eq!((other["items"].as_array().unwrap().len(), other.to_string().contains("ghost")), (0, false), "{other}");
}
