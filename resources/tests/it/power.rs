use yiqiu_base::{Code, Id, NodeState, NodeType, Power, id::Command};
use yiqiu_resources::{
    model::{Mount, Runtime, Wish},
    service::LineRequest,
};

use crate::support::{Tier, line, ops, report_of, size, tenant};

#[tokio::test]
async fn a_reboot_is_one_power_on_by_its_command_id_and_needs_a_node_that_is_on() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &agent.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let node = nodes[0].id;
        service.agent_report(&agent.host, report_of(node, NodeState::Running, 1, 1)).await.unwrap();
        let command = Some(Id::<Command>::new());
        let wish = Wish::reboot(Some(2_000));
        let (first, again) = tokio::join!(
            service.node_power(&who, node, wish, command, None),
            service.node_power(&who, node, wish, command, None)
        );
        for told in [first.unwrap(), again.unwrap()] {
            assert_eq!((told.power, told.reboot, told.grace_ms, told.generation), (Power::On, true, Some(2_000), 2));
        }
        let reused = service.node_power(&who, node, Power::On, command, None).await.unwrap_err();
        assert_eq!(reused.code, Code::IdempotencyKeyReused, "a reboot is not a power-on");

        // Seen in a restart as stopping, off and running: billed by what is seen, and on without a gap in the books.
        for (state, generation, boot) in
            [(NodeState::Stopping, 1, 1), (NodeState::Off, 1, 1), (NodeState::Running, 2, 2)]
        {
            tier.tick(10);
            service.agent_report(&agent.host, report_of(node, state, generation, boot)).await.unwrap();
        }
        let seen = service.node_get(&who, node).await.unwrap();
        assert_eq!((seen.state, seen.carried, seen.boot), (NodeState::Running, 2, 2));
        let off = service.node_power(&who, node, Power::Off, None, None).await.unwrap();
        assert_eq!((off.reboot, off.grace_ms), (false, None), "a wish says anew how it is to be done");
        let refused = service.node_power(&who, node, wish, None, None).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongState);
        assert!(refused.detail.contains("power it on"), "{refused}");
        let late = service.node_power(&who, node, wish, command, None).await.unwrap();
        assert_eq!((late.power, late.generation), (Power::Off, 3), "what was carried out is not done again");
        for grace in [-1, 600_001, i64::MAX, i64::MIN] {
            let wish = Wish { grace_ms: Some(grace), ..Power::Off.into() };
            assert_eq!(service.node_power(&who, node, wish, None, None).await.unwrap_err().code, Code::InvalidArgument);
        }
        let other = service.node_power(&tenant("u"), node, wish, None, None).await.unwrap_err();
        assert_eq!(other.code, Code::NotFound);
        tier.books_hold("after a reboot").await;
    }
}

#[tokio::test]
async fn how_a_node_runs_is_checked_kept_and_told() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let with = |runtime: Runtime| [LineRequest { runtime, ..line("one", &agent.host, size(100, 1 << 20)) }];
        let volume = |path: &str| Mount::Volume { name: "data".into(), path: path.into(), read_only: false };
        for bad in [
            Runtime { mounts: vec![volume("/proc/1")], ..Runtime::default() },
            Runtime { mounts: vec![volume("../../etc")], ..Runtime::default() },
            Runtime {
                mounts: vec![Mount::Tmpfs { path: "/t".into(), size_bytes: (1 << 20) + 1 }],
                ..Runtime::default()
            },
            Runtime { pids: Some(0), ..Runtime::default() },
        ] {
            let refused = service.contract_create(&who, None, "c", &with(bad), None).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument);
            assert!(refused.detail.starts_with("line one: "), "{refused}");
        }
        let runtime = Runtime {
            pids: Some(10),
            read_only_root: true,
            mounts: vec![volume("/data")],
            stop_grace_ms: Some(5),
            ..Runtime::default()
        };
        let (_, nodes) = service.contract_create(&who, None, "c", &with(runtime.clone()), None).await.unwrap();
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().spec.runtime, runtime);
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().nodes, 1, "what was refused holds nothing");
    }
}
