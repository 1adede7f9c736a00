use std::time::Duration;

use serde_json::json;
use yiqiu_base::Id;
use yiqiu_projects::model::owner_label;

use crate::{
    on_both,
    world::{Place, START, World},
};

on_both!(what_nobody_holds_is_released_after_a_grace);

async fn what_nobody_holds_is_released_after_a_grace(place: Place) {
    let world = World::new(place).await;
    let (shop, _) = world.tenant("alice", "shop").await;
    let gone = world.root("POST", "/v1/projects", Some(json!({"name": "gone"}))).await;
    let gone = gone["id"].as_str().unwrap().to_owned();
    world.root("DELETE", "/v1/projects/gone", None).await;
    let peer = &world.components;
    let held = peer.contract(&format!("project:{shop}"), START);
    let left = peer.contract(&format!("project:{gone}"), START);
    let unknown = peer.contract(&owner_label(Id::new()), START);
    let of_a_tier = peer.contract("tier:paas", START);
    let older = peer.contract(&owner_label(Id::new()), START - 1);

    world.advance(60_000);
    let error = world.error_of("projects.sweep", "1 contracts").await;
    assert!(error.contains("older than this database"), "{error}");
    assert_eq!(peer.state_of(&left), "placed", "the grace is not over");
    world.advance(1);
    for _ in 0..1_000 {
        if [&left, &unknown].iter().all(|id| peer.state_of(id) == "releasing") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (id, state) in
        [(left, "releasing"), (unknown, "releasing"), (held, "placed"), (of_a_tier, "placed"), (older, "placed")]
    {
        assert_eq!(peer.state_of(&id), state);
    }
}
