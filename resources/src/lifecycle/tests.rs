use proptest::prelude::*;
use yiqiu_base::{Health, id::Node, size::Dimension};

use super::*;
use crate::model::{
    Area, DriverStatus, Hold, HostChange, HostSeen, HostState, HostWish, Limit, NewLine, NodeSpec, Overcommit, Runtime,
};

fn size(cpu: i64, memory: i64) -> Size {
    Size { cpu_millicores: cpu, memory_bytes: memory, ..Size::ZERO }
}

pub(super) fn host(node_type: NodeType, capacity: Size) -> HostModel {
    HostModel {
        id: Id::new(),
        name: "h1".into(),
        area: Some(Area { rack_id: Id::new(), unit: 1 }),
        pool_id: None,
        node_type: Some(node_type),
        wish: HostWish::InService,
        seen: HostSeen::Connected,
        clock_mhz: 2_000,
        machine: capacity,
        limit: Limit::default(),
        overcommit: Overcommit::default(),
        overhead: size(100, 100),
        node_overhead: size(10, 10),
        used: Size::ZERO,
        nodes: 0,
        drivers: vec![DriverStatus {
            node_type,
            name: "sim".into(),
            ready: true,
            missing: String::new(),
            overhead_fixed: size(100, 100),
            overhead_per_node: size(10, 10),
            unbound: String::new(),
        }],
        last_seen_ms: 0,
        generation: 1,
        created_ms: 0,
    }
}

fn contract(lines: &[(Id<Host>, Size)]) -> NewContract {
    let line = |(at, (host_id, size)): (usize, &(Id<Host>, Size))| NewLine {
        id: Id::new(),
        name: format!("l{at}"),
        host_id: *host_id,
        node_type: None,
        spec: NodeSpec {
            image_id: None,
            image_sha256: String::new(),
            command: Vec::new(),
            environment: Vec::new(),
            ports: Vec::new(),
            size: *size,
            runtime: Runtime::default(),
        },
        power: Power::On,
        release_while_off: false,
    };
    NewContract {
        id: Id::new(),
        name: "c".into(),
        owner: "project:1".into(),
        created_by: "user:t".into(),
        reason: String::new(),
        term: crate::model::Term::default(),
        whole_hosts: true,
        lines: lines.iter().enumerate().map(line).collect(),
    }
}

fn decide(host: HostModel, lines: &[Size]) -> (Result<(), Problem>, HostModel) {
    let id = host.id;
    let mut hosts = HashMap::from([(id, host)]);
    let contract = contract(&lines.iter().map(|s| (id, *s)).collect::<Vec<_>>());
    let verdict = admit(&[&contract], &mut hosts).remove(0);
    (verdict, hosts.remove(&id).unwrap())
}

#[test]
fn a_contract_fits_whole_or_not_at_all() {
    // 1000 less 100 for the cut; each node costs 10 beside its size.
    let (verdict, left) = decide(host(NodeType::Cm, size(1_000, 1_000)), &[size(440, 440), size(440, 440)]);
    assert!(verdict.is_ok());
    assert_eq!((left.used, left.nodes), (size(900, 900), 2));

    let (verdict, left) = decide(host(NodeType::Cm, size(1_000, 1_000)), &[size(440, 440), size(441, 440)]);
    let problem = verdict.unwrap_err();
    assert_eq!(problem.code, Code::HostFull);
    assert!(problem.detail.contains("0.441 cpu asked, 0.44 cpu free, 0.001 cpu too much"), "{}", problem.detail);
    assert!(problem.detail.contains("0.44 cpu, 440 B memory would fit"), "{}", problem.detail);
    assert_eq!((left.used, left.nodes), (Size::ZERO, 0), "nothing of a refused contract stays");
}

#[test]
fn refusals_have_their_own_codes() {
    let whole = size(1_000, 1_000);
    let cm = host(NodeType::Cm, whole);
    let cases: [(&str, HostModel, Size, Code); 10] = [
        ("unplaced", HostModel { area: None, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("joining", HostModel { seen: HostSeen::Never, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("unreachable", HostModel { seen: HostSeen::Lost, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("draining", HostModel { wish: HostWish::Draining, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("in maintenance", HostModel { wish: HostWish::Maintenance, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("retired", HostModel { wish: HostWish::Retired, ..cm.clone() }, size(1, 1), Code::WrongState),
        ("no driver", HostModel { drivers: Vec::new(), ..cm.clone() }, size(1, 1), Code::DriverMissing),
        ("short", HostModel { machine: size(50, 50), ..cm.clone() }, size(1, 1), Code::HostFull),
        ("part of a bm", host(NodeType::Bm, whole), size(1, 1), Code::InvalidArgument),
        ("too large", cm, size(1_001, 1), Code::HostFull),
    ];
    for (what, host, asked, code) in cases {
        assert_eq!(decide(host, &[asked]).0.unwrap_err().code, code, "{what}");
    }
}

#[test]
fn a_bm_host_is_claimed_whole_and_once() {
    let bm = host(NodeType::Bm, size(1_000, 1_000));
    let (verdict, left) = decide(bm, &[size(890, 890)]);
    assert!(verdict.is_ok(), "{verdict:?}");
    assert_eq!(decide(left, &[size(890, 890)]).0.unwrap_err().code, Code::HostFull);
}

proptest! {
    /// Book 1 on the pure decision: whatever is asked in whatever order, no host is over its room, and what is used is
    /// the sum of what was admitted.
    #[test]
    fn no_host_is_over_its_room(
        capacities in prop::collection::vec((0..2_000_i64, 0..2_000_i64), 1..4),
        asks in prop::collection::vec(prop::collection::vec((0..4_usize, 1..900_i64, 1..900_i64), 1..4), 0..30),
    ) {
        let all: Vec<HostModel> = capacities.iter().map(|(c, m)| host(NodeType::Cm, size(*c, *m))).collect();
        let contracts: Vec<NewContract> = asks
            .iter()
            .map(|lines| contract(&lines.iter().map(|(h, c, m)| (all[h % all.len()].id, size(*c, *m))).collect::<Vec<_>>()))
            .collect();
        let mut hosts: HashMap<_, _> = all.iter().map(|h| (h.id, h.clone())).collect();
        let verdicts = admit(&contracts.iter().collect::<Vec<_>>(), &mut hosts);
        for first in &all {
            let lines = contracts.iter().zip(&verdicts).filter(|(_, v)| v.is_ok()).flat_map(|(c, _)| &c.lines);
            let held: Vec<Size> = lines.filter(|l| l.host_id == first.id).map(|l| l.spec.size.plus(size(10, 10))).collect();
            let host = &hosts[&first.id];
            prop_assert_eq!(host.used, held.iter().fold(Size::ZERO, |a, b| a.plus(*b)));
            prop_assert_eq!(host.nodes, held.len() as i64);
            prop_assert!(held.is_empty() || host.used.within(host.rentable()));
        }
    }
}

#[test]
fn ops_lower_what_a_machine_says_and_promise_more_than_it_only_in_so_many_words() {
    let cpu = Dimension::CpuMillicores;
    let limit = |amount| HostChange { limit: [(cpu, amount)].into(), ..HostChange::default() };
    let promise = |ratio| HostChange { overcommit: [(cpu, ratio)].into(), ..HostChange::default() };
    let used = HostModel { used: size(500, 500), nodes: 1, ..host(NodeType::Cm, size(1_000, 1_000)) };
    let joining = HostModel { seen: HostSeen::Never, machine: Size::ZERO, used: Size::ZERO, ..used.clone() };
    let whole = HostModel { node_type: Some(NodeType::Bm), ..used.clone() };
    // What is rentable is capacity times overcommit, less 100 for the cut.
    for (what, host, change, rentable) in [
        ("lowered", &used, limit(Some(800)), Ok(700)),
        ("to the last that is used", &used, limit(Some(600)), Ok(500)),
        ("below what is used", &used, limit(Some(599)), Err(Code::InUse)),
        ("to what the machine says", &used, limit(Some(1_000)), Ok(900)),
        ("above what the machine says", &used, limit(Some(1_001)), Err(Code::InvalidArgument)),
        ("to less than nothing", &used, limit(Some(-1)), Err(Code::InvalidArgument)),
        ("to the edge of 64 bits", &used, limit(Some(i64::MAX)), Err(Code::InvalidArgument)),
        ("lifted", &HostModel { limit: Limit::default().with(cpu, Some(700)), ..used.clone() }, limit(None), Ok(900)),
        ("above what is not known yet", &joining, limit(Some(5_000)), Ok(-100)),
        ("promised twice", &used, promise(2_000), Ok(1_900)),
        ("with a part set aside", &used, promise(900), Ok(800)),
        ("with more set aside than is left", &used, promise(599), Err(Code::InUse)),
        ("promised never", &used, promise(0), Err(Code::InvalidArgument)),
        ("promised without bounds", &used, promise(i64::MAX), Err(Code::InvalidArgument)),
        ("the whole of it twice", &whole, promise(1_001), Err(Code::InvalidArgument)),
        ("less than the whole of it", &whole, promise(800), Ok(700)),
    ] {
        let after = host_changed(host, &change).map(|h| h.rentable().cpu_millicores).map_err(|p| p.code);
        assert_eq!(after, rentable, "{what}");
    }
    // A host that lost something is short already: ops may still change what makes that no worse.
    let short = HostModel { machine: size(400, 1_000), ..used };
    assert!(host_changed(&short, &promise(1_500)).is_ok());
    assert_eq!(host_changed(&short, &promise(900)).unwrap_err().code, Code::InUse);
}

proptest! {
    /// However large a machine and however it is promised, nothing wraps: what is rentable is the exact product.
    #[test]
    fn what_is_rentable_never_wraps(
        machine in 0..=yiqiu_base::size::MOST,
        limit in prop::option::of(0..=yiqiu_base::size::MOST),
        ratio in 1..=crate::model::OVERCOMMIT_MOST,
    ) {
        let cpu = Dimension::CpuMillicores;
        let host = HostModel {
            limit: Limit::default().with(cpu, limit),
            overcommit: Overcommit::default().with(cpu, ratio),
            overhead: Size::ZERO,
            ..host(NodeType::Cm, size(machine, 1))
        };
        let capacity = machine.min(limit.unwrap_or(machine));
        prop_assert_eq!(i128::from(host.rentable().cpu_millicores), i128::from(capacity) * i128::from(ratio) / 1000);
    }
}

pub(super) fn node(state: NodeState, removed: bool) -> NodeModel {
    NodeModel {
        id: Id::<Node>::new(),
        line_id: Id::new(),
        rcontract_id: Id::new(),
        host_id: Id::new(),
        host_name: "h1".into(),
        host_state: HostState::Online,
        node_type: NodeType::Vm,
        owner: "project:1".into(),
        name: "n".into(),
        spec: contract(&[(Id::new(), size(1, 1))]).lines.remove(0).spec,
        power: Power::On,
        generation: 2,
        reboot: false,
        grace_ms: None,
        state,
        carried: 1,
        boot: 1,
        detail: String::new(),
        ports: Vec::new(),
        health: Health::None,
        removed,
        resumes: false,
        hold: Hold::Always,
        resizing: None,
        revision: 1,
        request_id: String::new(),
        changed_ms: 0,
    }
}

#[test]
fn every_report_about_every_state() {
    for before in NodeState::ALL {
        for after in NodeState::ALL {
            for removed in [false, true] {
                let node = node(*before, removed);
                let report = Report {
                    node_id: node.id,
                    state: *after,
                    generation: 1,
                    boot: 1,
                    detail: String::new(),
                    ports: Vec::new(),
                    health: Health::None,
                    revision: node.revision,
                    sized: 0,
                };
                let before_tombstone = Report { revision: node.revision - 1, ..report.clone() };
                if removed && *after == NodeState::Gone {
                    assert_eq!(observe(&node, &before_tombstone), Observed::Nothing, "it may have been made since");
                }
                let was = matches!(before, NodeState::Running | NodeState::Stopping);
                let is = matches!(after, NodeState::Running | NodeState::Stopping);
                let hibernated = [*before, *after].contains(&NodeState::Hibernated);
                match observe(&node, &report) {
                    Observed::Gone => assert!(removed && *after == NodeState::Gone),
                    Observed::Lost => assert!(!removed && *after == NodeState::Gone),
                    Observed::Nothing => assert!(before == after || *after == NodeState::Gone, "{before} {after}"),
                    Observed::Seen { metered_as } => {
                        assert!(before != after);
                        assert!(hibernated || metered_as.is_some() == (was != is), "{before} {after}");
                    }
                }
                for (boot, generation) in [(0, 1), (1, 0)] {
                    let old = Report { boot, generation, ..report.clone() };
                    assert_eq!(observe(&node, &old), Observed::Nothing, "a report from before changes nothing");
                }
            }
        }
    }
}

#[test]
fn what_is_settled_needs_no_reminder() {
    for power in Power::ALL {
        for state in NodeState::ALL {
            assert_eq!(settled(*power, 1, 1, *state, true), *state == NodeState::Gone);
            if settled(*power, 1, 1, *state, false) {
                assert!(!matches!(state, NodeState::Starting | NodeState::Stopping | NodeState::Removing));
            }
        }
        assert!(!settled(Power::On, 2, 1, NodeState::Running, false), "a newer power-on is to be carried out");
    }
}

#[test]
fn hosts_and_contracts_follow_their_diagrams() {
    for (seen, connected, after) in [
        (HostSeen::Never, true, HostSeen::Connected),
        (HostSeen::Never, false, HostSeen::Never),
        (HostSeen::Connected, true, HostSeen::Connected),
        (HostSeen::Connected, false, HostSeen::Lost),
        (HostSeen::Lost, true, HostSeen::Connected),
        (HostSeen::Lost, false, HostSeen::Lost),
    ] {
        assert_eq!(seen_after(seen, connected), after);
    }
    for state in ContractState::ALL {
        for left in [0, 1] {
            let after = contract_after_release(*state, left);
            let ended = *state == ContractState::Released || left == 0;
            assert_eq!(after, if ended { ContractState::Released } else { ContractState::Releasing });
        }
    }
}

/// Every pair of wishes, of a host that is empty and of one that is not.
#[test]
fn what_ops_may_wish_of_a_host_in_which_order() {
    // The rows are what is wished, the columns what is asked, in the order of `HostWish::ALL`: in service, draining,
    // maintenance, retired. `=` stays, `>` goes, `e` goes only if it is empty, `x` never.
    let table = ["=>ee", ">=ee", ">x=e", "xxx="];
    for (is, row) in HostWish::ALL.iter().zip(table) {
        for (asked, expected) in HostWish::ALL.iter().zip(row.chars()) {
            for empty in [true, false] {
                let turn = host_turn(*is, *asked, empty);
                let good = match expected {
                    '=' => turn == Turn::Stays,
                    '>' => turn == Turn::Goes,
                    'e' => turn == if empty { Turn::Goes } else { Turn::CarriesNodes },
                    _ => matches!(turn, Turn::NoWay(_)),
                };
                assert!(good, "{is} to {asked}, empty: {empty}: {turn:?}");
            }
        }
    }
}

/// A host takes claims in one state only, and that state is shown so.
#[test]
fn a_host_takes_claims_only_while_it_is_online() {
    for wish in HostWish::ALL {
        for seen in HostSeen::ALL {
            let host = HostModel { wish: *wish, seen: *seen, ..host(NodeType::Cm, size(1_000, 1_000)) };
            assert_eq!(host.refuses().is_none(), host.state() == HostState::Online, "{wish}, {seen}");
            assert_eq!(host.state() == HostState::Online, *wish == HostWish::InService && *seen == HostSeen::Connected);
        }
    }
}

#[test]
fn counters_never_run_backwards() {
    let known = Counters { cpu_ns: 10, net_rx_bytes: 5, ..Counters::default() };
    let more = Counters { cpu_ns: 15, net_rx_bytes: 5, ..Counters::default() };
    assert_eq!(usage_since(known, more), Counters { cpu_ns: 5, ..Counters::default() });
    assert_eq!(usage_since(more, known), Counters::default());
    let before = Counters { memory_byte_ms: i64::MAX - 5, ..Counters::default() };
    let wrapped = Counters { memory_byte_ms: i64::MIN + 4, ..Counters::default() };
    assert_eq!(usage_since(before, wrapped).memory_byte_ms, 10, "counters wrap");
}
