use yiqiu_base::{Code, NodeType, http::Paging};
use yiqiu_resources::{model::Limit, service::host::HostRequest};

use crate::support::{Tier, facts, ops, size, tenant};

fn unplaced(name: &str) -> HostRequest {
    HostRequest { name: name.to_owned(), rack: None, unit: None, node_type: None, limit: Limit::default() }
}

#[tokio::test]
async fn places_are_named_once_and_deleted_when_empty() {
    for tier in Tier::both().await {
        let (service, ops) = (&tier.service, ops());
        tier.place("r").await;
        let again = service.region_create(&ops, "r", None).await.unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists, "{again}");
        for name in ["", "A", "../etc", "a b", &"x".repeat(64)] {
            assert_eq!(service.region_create(&ops, name, None).await.unwrap_err().code, Code::InvalidArgument);
        }
        assert_eq!(service.zone_create(&ops, "z", "nowhere", None).await.unwrap_err().code, Code::NotFound);
        assert_eq!(service.rack_create(&ops, "q", "r", 0, None).await.unwrap_err().code, Code::InvalidArgument);
        assert_eq!(service.region_delete(&ops, "r").await.unwrap_err().code, Code::InUse);
        assert_eq!(service.region_create(&tenant("t"), "t", None).await.unwrap_err().code, Code::PermissionDenied);
        service.rack_delete(&ops, "r").await.unwrap();
        service.zone_delete(&ops, "r").await.unwrap();
        service.region_delete(&ops, "r").await.unwrap();
        assert_eq!(service.region_get(&ops, "r").await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn a_key_makes_a_request_once_and_holds_for_that_request_only() {
    for tier in Tier::both().await {
        let (service, ops) = (&tier.service, ops());
        let first = service.region_create(&ops, "a", Some("k1")).await.unwrap();
        assert_eq!(service.region_create(&ops, "a", Some("k1")).await.unwrap(), first);
        let other = service.region_create(&ops, "b", Some("k1")).await.unwrap_err();
        assert_eq!(other.code, Code::IdempotencyKeyReused);
        assert_eq!(service.region_list(&ops, &Paging::default()).await.unwrap().items.len(), 1);
    }
}

#[tokio::test]
async fn hosts_are_placed_in_units_of_racks_and_cut_once() {
    for tier in Tier::both().await {
        let (service, ops) = (&tier.service, ops());
        tier.place("r").await;
        let (host, _) = service.host_create(&ops, &unplaced("h1"), None).await.unwrap();
        assert!(host.refuses().unwrap().contains("not placed"));
        for (unit, rack, code) in
            [(0, "r", Code::InvalidArgument), (101, "r", Code::InvalidArgument), (1, "none", Code::NotFound)]
        {
            let refused = service.host_place(&ops, "h1", rack, unit, NodeType::Cm, None).await.unwrap_err();
            assert_eq!(refused.code, code);
        }
        let placed = service.host_place(&ops, "h1", "r", 1, NodeType::Cm, Some(host.generation)).await.unwrap();
        assert_eq!(placed.generation, host.generation + 1);
        let stale = service.host_place(&ops, "h1", "r", 2, NodeType::Cm, Some(host.generation)).await.unwrap_err();
        assert_eq!(stale.code, Code::StaleGeneration);
        service.host_create(&ops, &unplaced("h2"), None).await.unwrap();
        let taken = service.host_place(&ops, "h2", "r", 1, NodeType::Cm, None).await.unwrap_err();
        assert_eq!(taken.code, Code::AlreadyExists);
        assert_eq!(service.rack_delete(&ops, "r").await.unwrap_err().code, Code::InUse);
        service.host_delete(&ops, "h1").await.unwrap();
        service.host_delete(&ops, "h2").await.unwrap();
        service.rack_delete(&ops, "r").await.unwrap();
    }
}

#[tokio::test]
async fn a_rack_shows_what_stands_in_it_from_top_to_bottom() {
    for tier in Tier::both().await {
        tier.place("r").await;
        tier.place("s").await;
        tier.host("low", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        tier.host("high", 100, NodeType::Vm, size(1_000, 1 << 30)).await;
        tier.service.host_create(&ops(), &unplaced("nowhere"), None).await.unwrap();
        let rack = tier.service.rack_elevation(&ops(), "r").await.unwrap();
        let shown: Vec<_> =
            rack.units.iter().filter_map(|(unit, host)| Some((*unit, host.as_ref()?.name.as_str()))).collect();
        assert_eq!((rack.units.len(), shown), (100, vec![(100, "high"), (1, "low")]));
        assert_eq!((rack.place.zone.0.as_str(), rack.units[0].0), ("r", 100));
        let empty = tier.service.rack_elevation(&ops(), "s").await.unwrap();
        assert!(empty.units.iter().all(|(_, host)| host.is_none()));
        assert_eq!(tier.service.rack_elevation(&tenant("t"), "r").await.unwrap_err().code, Code::PermissionDenied);
        assert_eq!(tier.service.rack_elevation(&ops(), "q").await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn a_machine_without_the_driver_is_refused_in_the_drivers_words() {
    for tier in Tier::both().await {
        let (service, ops) = (&tier.service, ops());
        tier.place("r").await;
        let mut lacking = facts(NodeType::Cm, size(4_000, 4 << 30));
        lacking.drivers[0].ready = false;
        lacking.drivers[0].missing = "Docker does not answer: install docker.io".to_owned();

        // Cut first, joined later: the token is not used up by the refusal.
        let cut =
            HostRequest { rack: Some("r".into()), unit: Some(1), node_type: Some(NodeType::Cm), ..unplaced("h1") };
        let (_, token) = service.host_create(&ops, &cut, None).await.unwrap();
        let refused = service.agent_join(&token, &lacking).await.unwrap_err();
        assert_eq!(refused.code, Code::DriverMissing);
        assert!(refused.detail.ends_with("played: Docker does not answer: install docker.io"), "{}", refused.detail);
        service.agent_join(&token, &facts(NodeType::Cm, size(4_000, 4 << 30))).await.unwrap();

        // Joined first, cut later.
        let (_, token) = service.host_create(&ops, &unplaced("h2"), None).await.unwrap();
        let (host, credential) = service.agent_join(&token, &lacking).await.unwrap();
        let hello = yiqiu_resources::service::Hello { host_id: host.id, facts: lacking, epoch: 0, nodes: Vec::new() };
        let _session = service.agent_connect(&credential, hello).await.unwrap();
        let refused = service.host_place(&ops, "h2", "r", 2, NodeType::Cm, None).await.unwrap_err();
        assert_eq!(refused.code, Code::DriverMissing);
        assert!(refused.detail.ends_with("played: Docker does not answer: install docker.io"), "{}", refused.detail);
    }
}
