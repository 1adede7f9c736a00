use std::time::Duration;

use yiqiu_base::{NodeState, NodeType};
use yiqiu_proto::resources::{SegmentClosed, SegmentOpened, UsageRecorded};
use yiqiu_resources::model::{Counters, Sample};

use crate::support::{Tier, line, ops, report, size, tenant};

#[tokio::test]
async fn segments_follow_the_states_to_the_millisecond() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let start = tier.clock.now();
        let lines = [line("one", &agent.host, size(500, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        for (after, state) in [
            (7, NodeState::Preparing),
            (0, NodeState::Starting),
            (13, NodeState::Running),
            (1_000, NodeState::Stopping),
            (50, NodeState::Off),
        ] {
            tier.tick(after);
            service.agent_report(&agent.host, report(&nodes[0], state)).await.unwrap();
        }
        tier.tick(9);
        service.contract_release(&who, "c").await.unwrap();
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Gone)).await.unwrap();

        let events = service.events(&ops(), 0, 1_000, Duration::ZERO).await.unwrap().events;
        let positions: Vec<i64> = events.iter().map(|e| e.position).collect();
        assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>(), "no gap in the outbox");
        let opened: Vec<(String, i64)> = events
            .iter()
            .filter(|e| e.kind == "segment.opened")
            .map(|e| serde_json::from_str::<SegmentOpened>(&e.payload).unwrap())
            .map(|s| (s.power, s.from_ms - start))
            .collect();
        let closed: Vec<(i64, i64)> = events
            .iter()
            .filter(|e| e.kind == "segment.closed")
            .map(|e| serde_json::from_str::<SegmentClosed>(&e.payload).unwrap())
            .map(|s| (s.from_ms - start, s.to_ms - start))
            .collect();
        assert_eq!(opened, [("off".into(), 0), ("on".into(), 20), ("off".into(), 1_070)]);
        assert_eq!(closed, [(0, 20), (20, 1_070), (1_070, 1_079)]);
        tier.books_hold("after a life").await;
        assert!(service.events(&tenant("other"), 0, 1_000, Duration::ZERO).await.unwrap().events.is_empty());
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_no_time_below_zero() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let lines = [line("one", &host, size(500, 1 << 20))];
        tier.service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
        let newest = tier.clock.now();
        // The process begins anew with a wall clock of years ago.
        let behind = Tier { clock: yiqiu_base::Clock::manual(1_000), ..tier }.restart().await;
        assert!(behind.clock.now() >= newest);
        behind.books_hold("with a clock from the past").await;
    }
}

#[tokio::test]
async fn each_reading_counts_once() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &agent.host, size(500, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let sample = |boot, seq, cpu_ns| Sample {
            node_id: nodes[0].id,
            boot,
            seq,
            at_ms: tier.clock.now(),
            counters: Counters { cpu_ns, ..Counters::default() },
            memory_bytes: 0,
        };
        // Twice the same block, one from before, one whose counters run backwards, and a new boot.
        for block in [
            vec![sample(1, 1, 100), sample(1, 2, 250)],
            vec![sample(1, 1, 100), sample(1, 2, 250)],
            vec![sample(1, 3, 200)],
            vec![sample(1, 4, 300), sample(2, 1, 40)],
        ] {
            service.agent_usage(&agent.host, &block).await.unwrap();
        }
        let other = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        service.agent_usage(&other.host, &[sample(3, 1, 1_000_000)]).await.unwrap();
        let events = service.events(&ops(), 0, 1_000, Duration::ZERO).await.unwrap().events;
        let total: i64 = events
            .iter()
            .filter(|e| e.kind == "usage.recorded")
            .flat_map(|e| serde_json::from_str::<UsageRecorded>(&e.payload).unwrap().deltas)
            .map(|d| d.cpu_ns)
            .sum();
        // 250; nothing for 250 to 200, from where it is counted on; 100 to 300; 40 of the new boot.
        assert_eq!(total, 390, "on {}", tier.database.name);
    }
}
