use std::collections::BTreeMap;

use sea_orm::ConnectionTrait;
use yiqiu_base::{Code, NodeType, Size, database::sql, size::Dimension, size::MOST};
use yiqiu_resources::model::{HostChange, HostModel, OVERCOMMIT_MOST};

use crate::support::{Tier, facts, line, ops, size, tenant};

fn limit(dimension: Dimension, amount: Option<i64>) -> HostChange {
    HostChange { limit: BTreeMap::from([(dimension, amount)]), ..HostChange::default() }
}

fn promise(dimension: Dimension, ratio: i64) -> HostChange {
    HostChange { overcommit: BTreeMap::from([(dimension, ratio)]), ..HostChange::default() }
}

const CPU: Dimension = Dimension::CpuMillicores;

/// What the database keeps as rentable beside the row of a host.
async fn rentable_kept(tier: &Tier, name: &str) -> Size {
    let database = tier.database.open().await;
    let text = "SELECT rentable_cpu, rentable_memory, rentable_disk, rentable_iops FROM host WHERE name = ?";
    let row = database.read().query_one_raw(sql(database.backend(), text, [name.into()])).await.unwrap().unwrap();
    let column = |name: &str| row.try_get::<i64>("", name).unwrap();
    Size {
        cpu_millicores: column("rentable_cpu"),
        memory_bytes: column("rentable_memory"),
        disk_bytes: column("rentable_disk"),
        disk_iops: column("rentable_iops"),
    }
}

#[tokio::test]
async fn a_host_is_lowered_and_overcommitted_for_claims() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, tenant("t"));
        let change = async |change: &HostChange| service.host_change(&ops(), "a", change.clone(), None, None).await;
        assert_eq!(
            service.host_change(&who, "a", limit(CPU, Some(1)), None, None).await.unwrap_err().code,
            Code::PermissionDenied
        );
        let refused = change(&limit(CPU, Some(1_001))).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
        assert!(refused.detail.contains("the machine says 1 cpu"), "{}", refused.detail);

        // 100 for the cut, 5 beside each node.
        let lowered = change(&limit(CPU, Some(500))).await.unwrap();
        assert_eq!((lowered.generation, lowered.free().cpu_millicores), (host.generation + 1, 400));
        let stale = service.host_change(&ops(), "a", promise(CPU, 1), None, Some(host.generation)).await.unwrap_err();
        assert_eq!(stale.code, Code::StaleGeneration);
        let ask = async |name: &str, cpu| {
            let lines = [line("one", &host, size(cpu, 1 << 20))];
            service.contract_create(&who, None, name, &lines, None).await.map(|_| ()).map_err(|p| p.code)
        };
        assert_eq!(ask("c1", 396).await, Err(Code::HostFull));
        assert_eq!(ask("c1", 395).await, Ok(()));
        assert_eq!(change(&limit(CPU, Some(499))).await.unwrap_err().code, Code::InUse, "claims hold all of it");
        assert_eq!(change(&limit(CPU, Some(500))).await.unwrap().generation, lowered.generation, "nothing changed");

        // Twice 0.5 cpu: 0.5 more.
        change(&promise(CPU, 2_000)).await.unwrap();
        assert_eq!(ask("c2", 496).await, Err(Code::HostFull));
        assert_eq!(ask("c2", 495).await, Ok(()));
        tier.books_hold("when overcommitted and full").await;
        assert_eq!(change(&promise(CPU, 1_000)).await.unwrap_err().code, Code::InUse);
        assert_eq!(change(&limit(CPU, None)).await.unwrap().free().cpu_millicores, 1_000);

        // The machine loses a processor: the limit does not hide that, and the host is short.
        service.agent_facts(&host, &facts(NodeType::Vm, size(200, 1 << 30))).await.unwrap();
        let short = service.host_get(&ops(), "a").await.unwrap();
        assert_eq!(short.free().cpu_millicores, 2 * 200 - 100 - 900);
        assert_eq!(ask("c3", 1).await, Err(Code::HostFull));
        assert_eq!(service.books(&ops()).await.unwrap().short, ["a"]);
        assert_eq!(rentable_kept(&tier, "a").await, short.rentable());
    }
}

#[tokio::test]
async fn sizes_at_the_edges_of_64_bits_are_refused_or_exact() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let all = Size { cpu_millicores: MOST, memory_bytes: MOST, disk_bytes: MOST, disk_iops: MOST };
        let agent = tier.host("a", 1, NodeType::Vm, all).await;
        let (service, who) = (&tier.service, tenant("t"));
        for amount in [i64::MIN, -1, MOST + 1, i64::MAX] {
            for d in Dimension::ALL {
                for change in [limit(d, Some(amount)), promise(d, amount)] {
                    let refused = service.host_change(&ops(), "a", change, None, None).await.unwrap_err();
                    assert_eq!(refused.code, Code::InvalidArgument, "{d} {amount}");
                }
            }
        }
        for d in Dimension::ALL {
            service.host_change(&ops(), "a", promise(d, OVERCOMMIT_MOST), None, None).await.unwrap();
        }
        let host = service.host_get(&ops(), "a").await.unwrap();
        assert_eq!(host.rentable().disk_bytes, MOST * 100);
        assert_eq!(rentable_kept(&tier, "a").await, host.rentable(), "on {}", tier.database.name);
        for n in 0..3 {
            let lines = [line("one", &agent.host, all)];
            service.contract_create(&who, None, &format!("c{n}"), &lines, None).await.unwrap();
        }
        for (d, odd) in Dimension::ALL.into_iter().zip([1_001, 1_499, 333, 99_999]) {
            let odd = HostChange {
                overcommit: [(d, odd.max(4_001))].into(),
                limit: [(d, Some(MOST - 7))].into(),
                ..HostChange::default()
            };
            service.host_change(&ops(), "a", odd, None, None).await.unwrap();
        }
        let host: HostModel = service.host_get(&ops(), "a").await.unwrap();
        assert_eq!(rentable_kept(&tier, "a").await, host.rentable(), "on {}", tier.database.name);
        tier.books_hold("at the edges").await;
    }
}

#[tokio::test]
async fn a_limit_given_before_the_machine_is_known_holds_when_it_is() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Bm, size(1_000, 1 << 30)).await;
        let service = &tier.service;
        let refused = service.host_change(&ops(), "a", promise(CPU, 1_001), None, None).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "a whole host is not overcommitted");
        let request = yiqiu_resources::service::host::HostRequest {
            name: "b".into(),
            rack: None,
            unit: None,
            node_type: None,
            limit: yiqiu_resources::model::Limit::default()
                .with(CPU, Some(4_000))
                .with(Dimension::MemoryBytes, Some(5)),
        };
        let (_, token) = service.host_create(&ops(), &request, None).await.unwrap();
        service.host_change(&ops(), "b", promise(CPU, 1_001), None, None).await.unwrap();
        let (host, credential) = service.agent_join(&token, &facts(NodeType::Bm, size(2_000, 1 << 30))).await.unwrap();
        let host = HostModel { node_type: Some(NodeType::Bm), machine: size(2_000, 1 << 30), ..host };
        let agent_b = tier.dial(host, credential).await;
        assert_eq!(agent_b.host.capacity(), size(2_000, 5), "the least of both, in each dimension");
        let cut = service.host_place(&ops(), "b", "r", 2, NodeType::Bm, None).await.unwrap_err();
        assert_eq!(cut.code, Code::InvalidArgument, "overcommitted, so it cannot be cut as a whole");
        drop(agent);
    }
}
