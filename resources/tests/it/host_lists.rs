//! Labels, pools, and lists of hosts by them.

use std::collections::BTreeMap;

use yiqiu_base::{Code, NodeType, Size, http::Paging};
use yiqiu_resources::{
    model::{HostChange, HostState, LABELS_MOST},
    service::host::HostQuery,
    store::{HostOrder, HostSort},
};

use crate::support::{Tier, facts, line, ops, size, tenant};

const BY_NAME: HostOrder = HostOrder { by: HostSort::Name, descending: false };

fn labels(pairs: &[(&str, Option<&str>)]) -> HostChange {
    let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
    HostChange { labels, ..HostChange::default() }
}

/// The names of all that a query finds, by pages of two.
async fn found(tier: &Tier, query: &HostQuery, order: HostOrder) -> Vec<String> {
    let mut paging = Paging { cursor: None, limit: Some(2) };
    let mut names = Vec::new();
    loop {
        let page = tier.service.host_list(&ops(), query, order, &paging).await.unwrap();
        names.extend(page.items.into_iter().map(|host| host.name));
        match page.next {
            Some(next) => paging.cursor = Some(next),
            None => return names,
        }
    }
}

#[tokio::test]
async fn labels_are_set_taken_away_and_end_somewhere() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, id) = (&tier.service, agent.host.id);
        let set = async |change: HostChange| service.host_change(&ops(), "a", change, None, None).await;
        let shown = async || service.surroundings(&ops(), &[id]).await.unwrap().labels.remove(&id).unwrap();
        set(labels(&[("env", Some("prod")), ("ssd", Some(""))])).await.unwrap();
        let same = set(labels(&[("env", Some("prod"))])).await.unwrap();
        assert_eq!(same.generation, agent.host.generation + 1, "nothing changed the second time");
        set(labels(&[("ssd", None), ("never-there", None)])).await.unwrap();
        let labelled = shown().await;
        assert_eq!(labelled.labels, BTreeMap::from([("env".to_owned(), "prod".to_owned())]));
        assert_eq!(labelled.features["arch"], "played", "its agent found that");

        let many: Vec<String> = (0..LABELS_MOST).map(|n| format!("k{n}")).collect();
        let many: Vec<_> = many.iter().map(|key| (key.as_str(), Some("x"))).collect();
        assert_eq!(set(labels(&many)).await.unwrap_err().code, Code::InvalidArgument, "one more than there may be");
        for (key, value) in [("../x", "y"), ("a", "b c"), ("", ""), ("a", &*"v".repeat(64))] {
            let refused = set(labels(&[(key, Some(value))])).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{key}={value}");
        }
        assert_eq!(shown().await, labelled, "what was refused changed nothing");

        // A machine that was changed tells so; what ops set stays.
        let mut told = facts(NodeType::Vm, size(1_000, 1 << 30));
        told.features = BTreeMap::from([("kvm".to_owned(), "yes".to_owned())]);
        service.agent_facts(&agent.host, &told).await.unwrap();
        let now = shown().await;
        assert_eq!((now.features, now.labels), (told.features, labelled.labels));
        service.host_delete(&ops(), "a").await.unwrap();
        assert!(service.surroundings(&ops(), &[id]).await.unwrap().labels.is_empty());
    }
}

#[tokio::test]
async fn a_host_is_in_one_pool_and_pools_add_up() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        tier.host("b", 2, NodeType::Vm, size(2_000, 1 << 30)).await;
        let (service, ops) = (&tier.service, ops());
        let fast = service.pool_create(&ops, "fast", "the new ones", Some("k")).await.unwrap();
        assert_eq!(service.pool_create(&ops, "fast", "the new ones", Some("k")).await.unwrap(), fast);
        assert_eq!(service.pool_create(&ops, "fast", "", None).await.unwrap_err().code, Code::AlreadyExists);
        assert_eq!(service.pool_create(&ops, "x", "a\nb", None).await.unwrap_err().code, Code::InvalidArgument);
        assert_eq!(service.pool_create(&tenant("t"), "y", "", None).await.unwrap_err().code, Code::PermissionDenied);
        service.pool_create(&ops, "slow", "", None).await.unwrap();
        let put = async |host: &str, pool: Option<&str>| {
            service.host_change(&ops, host, HostChange::default(), Some(pool), None).await.map(|h| h.pool_id)
        };
        assert_eq!(put("a", Some("none")).await.unwrap_err().code, Code::NotFound);
        put("a", Some("slow")).await.unwrap();
        assert_eq!(put("a", Some("fast")).await.unwrap(), Some(fast.id), "out of one, into the other");
        put("b", Some(&fast.id.to_string())).await.unwrap();
        let lines = [line("one", &host, size(100, 1 << 20))];
        service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
        let sum = service.pool_sums(&ops, &[fast.id]).await.unwrap()[&fast.id];
        assert_eq!((sum.hosts, sum.nodes), (2, 1));
        assert_eq!((sum.rentable.cpu_millicores, sum.used.cpu_millicores), (900 + 1_900, 105));

        let renamed = service.pool_change(&ops, "fast", Some("quick".into()), None, Some(1)).await.unwrap();
        assert_eq!((&*renamed.name, &*renamed.description, renamed.generation), ("quick", "the new ones", 2));
        let stale = service.pool_change(&ops, "quick", None, Some(String::new()), Some(1)).await.unwrap_err();
        assert_eq!(stale.code, Code::StaleGeneration);
        let taken = service.pool_change(&ops, "quick", Some("slow".into()), None, None).await.unwrap_err();
        assert_eq!(taken.code, Code::AlreadyExists);
        assert_eq!(service.pool_delete(&ops, "quick").await.unwrap_err().code, Code::InUse);
        assert_eq!(put("a", None).await.unwrap(), None);
        put("b", None).await.unwrap();
        service.pool_delete(&ops, "quick").await.unwrap();
    }
}

#[tokio::test]
async fn lists_of_hosts_are_filtered_ordered_and_paged() {
    for tier in Tier::both().await {
        tier.place("r").await;
        tier.place("s").await;
        let service = &tier.service;
        let mut agents = Vec::new();
        for (unit, (name, cpu)) in
            [("a", 4_000), ("b", 1_000), ("c", 4_000), ("d", 2_000), ("e", 500)].into_iter().enumerate()
        {
            let node_type = if name == "e" { NodeType::Cm } else { NodeType::Vm };
            agents.push(tier.host(name, unit as i64 + 1, node_type, size(cpu, 1 << 30)).await);
        }
        service.host_place(&ops(), "e", "s", 1, NodeType::Cm, None).await.unwrap();
        service.agent_lost(&agents[3].host, agents[3].number).await;
        let change = labels(&[("env", Some("prod")), ("ssd", Some(""))]);
        service.host_change(&ops(), "a", change, None, None).await.unwrap();
        service.host_change(&ops(), "b", labels(&[("env", Some("test"))]), None, None).await.unwrap();
        service.pool_create(&ops(), "p", "", None).await.unwrap();
        service.host_change(&ops(), "b", HostChange::default(), Some(Some("p")), None).await.unwrap();

        let text = |text: &str| Some(text.to_owned());
        let all = HostQuery::default();
        for (what, query, names) in [
            ("all", all.clone(), "abcde"),
            ("online", HostQuery { state: Some(HostState::Online), ..all.clone() }, "abce"),
            ("unreachable", HostQuery { state: Some(HostState::Unreachable), ..all.clone() }, "d"),
            ("a region", HostQuery { region: text("s"), ..all.clone() }, "e"),
            ("a zone", HostQuery { zone: text("r"), ..all.clone() }, "abcd"),
            ("a rack", HostQuery { rack: text("s"), ..all.clone() }, "e"),
            ("a pool", HostQuery { pool: text("p"), ..all.clone() }, "b"),
            ("a cut", HostQuery { node_type: Some(NodeType::Cm), ..all.clone() }, "e"),
            ("a label", HostQuery { label: text("env"), ..all.clone() }, "ab"),
            ("a label's value", HostQuery { label: text("env=prod,ssd="), ..all.clone() }, "a"),
            ("labels that no host has together", HostQuery { label: text("env=test,ssd"), ..all.clone() }, ""),
            ("a feature", HostQuery { feature: text("arch=played"), ..all.clone() }, "abcde"),
            ("a feature that is a label", HostQuery { feature: text("env"), ..all.clone() }, ""),
            ("room", HostQuery { free: size(1_900, 0), ..all.clone() }, "acd"),
            ("room at the edge", HostQuery { free: size(i64::MAX, 0), ..all.clone() }, ""),
            ("several", HostQuery { free: size(900, 0), zone: text("r"), label: text("env"), ..all.clone() }, "ab"),
        ] {
            assert_eq!(found(&tier, &query, BY_NAME).await.concat(), names, "{what} on {}", tier.database.name);
        }
        let order = |by, descending| HostOrder { by, descending };
        for (order, names) in [
            (order(HostSort::Name, true), "edcba"),
            (order(HostSort::FreeCpu, false), "ebdac"),
            (order(HostSort::FreeCpu, true), "acdbe"),
            (order(HostSort::Nodes, true), "abcde"),
        ] {
            assert_eq!(found(&tier, &all, order).await.concat(), names, "{order:?}");
        }
        for (query, code) in [
            (HostQuery { zone: text("nowhere"), ..all.clone() }, Code::NotFound),
            (HostQuery { label: text("a b"), ..all.clone() }, Code::InvalidArgument),
        ] {
            let refused = service.host_list(&ops(), &query, BY_NAME, &Paging::default()).await.unwrap_err();
            assert_eq!(refused.code, code);
        }
        for cursor in ["a", "x.a", ".a", "99999999999999999999.a"] {
            let paging = Paging { cursor: text(cursor), limit: None };
            let refused = service.host_list(&ops(), &all, order(HostSort::Nodes, false), &paging).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{cursor}");
        }
        let refused = service.host_list(&tenant("t"), &all, BY_NAME, &Paging::default()).await.unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);

        // A page goes on where the last one ended, also when what it is ordered by changed meanwhile.
        let by_free = order(HostSort::FreeCpu, true);
        let first = service.host_list(&ops(), &all, by_free, &Paging { cursor: None, limit: Some(2) }).await.unwrap();
        let lines = [line("one", &agents[0].host, Size { cpu_millicores: 3_000, ..size(0, 1) })];
        service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
        let rest = service.host_list(&ops(), &all, by_free, &Paging { cursor: first.next, limit: None }).await.unwrap();
        let rest: String = rest.items.into_iter().map(|host| host.name).collect();
        assert_eq!(rest, "dbae", "nobody is left out; the one that moved behind the cursor comes again");
    }
}
