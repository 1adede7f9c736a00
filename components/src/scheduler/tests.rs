use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use yiqiu_base::{Id, size::Dimension};

use super::*;

const MIB: i64 = 1 << 20;

fn listed() -> NonZeroUsize {
    NonZeroUsize::new(100).unwrap()
}

fn place(name: &str) -> Place {
    Place { id: if name.is_empty() { String::new() } else { format!("id-of-{name}") }, name: name.to_owned() }
}

fn size(cpu: i64, mib: i64) -> Size {
    Size { cpu_millicores: cpu, memory_bytes: mib * MIB, ..Size::ZERO }
}

/// A host of zone z1, rack r1, with this much free.
fn host(name: &str, cpu: i64, mib: i64) -> Host {
    Host {
        id: Id::new(),
        name: name.to_owned(),
        region: place("eu"),
        zone: place("z1"),
        rack: place("r1"),
        node_type: Some(NodeType::Cm),
        state: "online".to_owned(),
        refuses: String::new(),
        clock_mhz: 3000,
        rentable: size(4000, 4096),
        free: size(cpu, mib),
        overhead_per_node: size(0, 8),
    }
}

fn wish(count: u32, cpu: i64, mib: i64) -> Wish {
    Wish {
        count,
        size: size(cpu, mib),
        least: Size { cpu_millicores: 1, memory_bytes: 1, ..Size::ZERO },
        node_type: NodeType::Cm,
        min_clock_mhz: None,
        region: None,
        zone: None,
        spread: Spread::default(),
        held: HashMap::new(),
    }
}

/// What is chosen without hints, or why nothing can be.
fn plan<'a>(wish: &Wish, hosts: &'a [Host], listed: NonZeroUsize) -> Result<Vec<&'a Host>, Box<Explanation>> {
    choose(wish, hosts, &Hints::default()).ok_or_else(|| explain(wish, hosts, listed))
}

fn names(wish: &Wish, hosts: &[Host]) -> Vec<String> {
    plan(wish, hosts, listed()).unwrap().iter().map(|h| h.name.clone()).collect()
}

fn refused(wish: &Wish, hosts: &[Host]) -> Explanation {
    *plan(wish, hosts, listed()).unwrap_err()
}

#[test]
fn components_keep_apart_then_fit_tightly() {
    let mut hosts = vec![host("a", 4000, 4096), host("b", 1000, 1024), host("c", 4000, 4096)];
    // b is the fullest, so one goes there; two more keep apart from it though b had room.
    assert_eq!(names(&wish(1, 100, 100), &hosts), ["b"]);
    let mut spread = names(&wish(4, 100, 100), &hosts);
    assert_eq!(names(&wish(3, 100, 100), &hosts), spread[..3]);
    spread[1..3].sort(); // as good
    assert_eq!(spread, ["b", "a", "c", "b"]);
    // Of hosts that are as good, another rack goes before the same one.
    hosts[2].rack = place("r2");
    assert_eq!(names(&wish(2, 100, 100), &hosts), ["b", "c"]);
    // What a host holds already counts.
    let held = HashMap::from([(hosts[1].id, 1)]);
    assert_eq!(names(&Wish { held, ..wish(1, 100, 100) }, &hosts), ["c"]);
    // A preferred spread gives way to room.
    assert_eq!(names(&wish(3, 300, 300), &[host("only", 1000, 1000)]), ["only", "only", "only"]);
}

#[test]
fn each_contract_has_its_own_order_of_hosts_that_are_as_good() {
    let hosts: Vec<Host> = (0..40).map(|n| host(&format!("h{n}"), 4000, 4096)).collect();
    let first = |seed| choose(&wish(1, 3000, 100), &hosts, &Hints { seed, ..Hints::default() }).unwrap()[0].id;
    assert!((0..40).all(|seed| first(seed) == first(seed)));
    let firsts: HashSet<_> = (0..40).map(first).collect();
    assert!(firsts.len() > 15, "{} of 40", firsts.len());
}

#[test]
fn hints_change_where_and_never_whether() {
    let hosts = [host("a", 1000, 1024), host("b", 2000, 2048)];
    let names = |count, hints: &Hints| {
        let chosen = choose(&wish(count, 600, 100), &hosts, hints)?;
        Some(chosen.iter().map(|h| h.name.clone()).collect::<Vec<_>>())
    };
    let claimed = |at: usize, cpu| HashMap::from([(hosts[at].id, size(cpu, 0))]);
    let taken = Hints { claimed: claimed(0, 600), ..Hints::default() };
    let refused = Hints { refused: [hosts[0].id].into(), ..Hints::default() };
    assert_eq!(names(1, &Hints::default()).unwrap(), ["a"]);
    assert_eq!(names(1, &taken).unwrap(), ["b"]);
    assert_eq!(names(1, &refused).unwrap(), ["b"]);
    // Spread goes before what refused; room before all.
    assert_eq!(names(2, &refused).unwrap(), ["b", "a"]);
    assert_eq!(names(4, &taken).unwrap().len(), 4);
    assert_eq!(names(5, &taken), None);
}

#[test]
fn each_filter_says_no_with_its_reason() {
    let ask = |change: fn(&mut Wish)| {
        let mut wish = wish(1, 1000, 512);
        change(&mut wish);
        wish
    };
    let on = |change: fn(&mut Host)| {
        let mut host = host("h", 2000, 1024);
        change(&mut host);
        host
    };
    let cases: [(&str, Wish, Host, Refusal); 8] = [
        (
            "state",
            ask(|_| {}),
            on(|h| h.refuses = "host h is unreachable".into()),
            Refusal::State { why: "host h is unreachable".into() },
        ),
        (
            "node type",
            ask(|_| {}),
            on(|h| h.node_type = Some(NodeType::Vm)),
            Refusal::NodeType { asked: NodeType::Cm, is: Some(NodeType::Vm) },
        ),
        ("no node type", ask(|_| {}), on(|h| h.node_type = None), Refusal::NodeType { asked: NodeType::Cm, is: None }),
        (
            "region",
            ask(|w| w.region = Some("us".into())),
            on(|_| {}),
            Refusal::Region { asked: "us".into(), is: "eu".into() },
        ),
        (
            "zone",
            ask(|w| w.zone = Some("z2".into())),
            on(|_| {}),
            Refusal::Zone { asked: "z2".into(), is: "z1".into() },
        ),
        (
            "clock",
            ask(|w| w.min_clock_mhz = Some(3200)),
            on(|_| {}),
            Refusal::Clock { asked_mhz: 3200, is_mhz: 3000, missing_mhz: 200 },
        ),
        (
            "memory, with what the platform needs",
            ask(|_| {}),
            on(|h| h.free.memory_bytes = 516 * MIB),
            Refusal::Room { dimension: Dimension::MemoryBytes, asked: 520 * MIB, free: 516 * MIB, missing: 4 * MIB },
        ),
        (
            "a dimension that is not asked for, on a host that is short of it",
            ask(|_| {}),
            on(|h| h.free.disk_iops = -5),
            Refusal::Room { dimension: Dimension::DiskIops, asked: 0, free: -5, missing: 5 },
        ),
    ];
    for (what, wish, host, refusal) in cases {
        let explanation = refused(&wish, std::slice::from_ref(&host));
        assert_eq!(explanation.verdicts.len(), 1, "{what}");
        assert_eq!(explanation.verdicts[0].refusals, [refusal], "{what}");
        assert_eq!(explanation.verdicts[0].takes, 0, "{what}");
        assert!(explanation.sentence.contains(&explanation.verdicts[0].refusals[0].to_string()), "{what}");
    }
}

#[test]
fn places_are_named_by_name_or_id() {
    let hosts = [host("h", 2000, 1024)];
    for zone in ["z1", "id-of-z1"] {
        assert!(plan(&Wish { zone: Some(zone.into()), ..wish(1, 1, 1) }, &hosts, listed()).is_ok(), "{zone}");
    }
}

#[test]
fn a_refusal_offers_the_smallest_changes() {
    // Two hosts, each with room for one of 512 MiB: three do not fit.
    let hosts = [host("a", 2000, 600), host("b", 2000, 700)];
    let explanation = refused(&wish(3, 100, 512), &hosts);
    assert_eq!((explanation.fits, explanation.hosts, explanation.left_out), (2, 2, 0));
    assert_eq!(explanation.refused_by, [("room".to_owned(), 2)].into());
    // Two on b and one on a: (700 - 2 * 8) / 2 = 342 MiB, a third less; two rather than three is a third less too.
    let reduce = Change::Reduce { dimension: Dimension::MemoryBytes, from: 512 * MIB, to: 342 * MIB, by: 170 * MIB };
    assert_eq!(explanation.changes, [reduce, Change::Count { from: 3, to: 2 }]);
    assert_eq!(
        explanation.sentence,
        "3 of 0.1 cpu, 512 MiB memory cannot be placed: there is room for 2; host a takes 1 and then has 80 MiB \
         memory left for 520 MiB memory: 440 MiB memory missing; host b takes 1 and then has 180 MiB memory left for \
         520 MiB memory: 340 MiB memory missing. The smallest change that fits: ask for 170 MiB memory less, 342 MiB \
         memory rather than 512 MiB memory"
    );

    // A required spread over one rack: what costs nothing goes first.
    let required = Spread { across: Across::Rack, required: true };
    let explanation = refused(&Wish { spread: required, ..wish(2, 100, 100) }, &hosts);
    assert_eq!(explanation.changes, [Change::PreferSpread { across: Across::Rack }, Change::Count { from: 2, to: 1 }]);
    // A slower clock, another zone, another region.
    let far = Wish { min_clock_mhz: Some(4000), ..wish(1, 100, 100) };
    assert_eq!(refused(&far, &hosts).changes, [Change::Clock { from_mhz: 4000, to_mhz: 3000 }]);
    let zone = Wish { zone: Some("z9".into()), region: Some("eu".into()), ..wish(1, 100, 100) };
    assert_eq!(refused(&zone, &hosts).changes, [Change::AnyZone, Change::AnyRegion]);
    // Nothing is offered that is too small to be run.
    let small = Wish { least: size(1, 400), ..wish(3, 100, 512) };
    assert_eq!(refused(&small, &hosts).changes, [Change::Count { from: 3, to: 2 }]);
    // No single change helps.
    let both = Wish { zone: Some("z9".into()), ..wish(1, 9000, 100) };
    let explanation = refused(&both, &hosts);
    assert_eq!(explanation.changes, []);
    assert!(explanation.sentence.ends_with("No single change would fit"), "{}", explanation.sentence);
}

#[test]
fn no_hosts_are_explained_too() {
    let explanation = refused(&wish(2, 500, 128), &[]);
    assert_eq!((explanation.fits, explanation.hosts), (0, 0));
    assert!(explanation.changes.is_empty() && explanation.verdicts.is_empty());
    assert_eq!(explanation.sentence, "2 of 0.5 cpu, 128 MiB memory cannot be placed: there is no host at all");
}

#[test]
fn an_unplaced_host_is_no_place_to_keep_apart_on() {
    let mut nowhere = host("n", 2000, 1024);
    nowhere.rack = Place::default();
    let wish = Wish { spread: Spread { across: Across::Rack, required: true }, ..wish(1, 1, 1) };
    let explanation = refused(&wish, &[nowhere]);
    assert_eq!(explanation.verdicts[0].refusals, [Refusal::Spread { across: Across::Rack, area: String::new() }]);
}

#[test]
fn many_hosts_are_counted_and_the_nearest_listed() {
    let mut hosts: Vec<Host> = (0..20_000).map(|n| host(&format!("h{n:05}"), 100, 100)).collect();
    hosts[12_345].free = size(900, 4000);
    hosts[7].node_type = None;
    let explanation = refused(&wish(100, 1000, 512), &hosts);
    assert_eq!((explanation.verdicts.len(), explanation.left_out), (100, 19_900));
    assert_eq!(explanation.refused_by, [("room".to_owned(), 20_000), ("node_type".to_owned(), 1)].into());
    assert_eq!(explanation.verdicts[0].host, "h12345"); // it lacks one thing only
    assert!(plan(&wish(100, 10, 10), &hosts, listed()).is_ok());
}

fn any_host() -> impl Strategy<Value = Host> {
    (0..4_i64, -50..400_i64, -50..400_i64, 0..20_i64, 0..4_u8, 0..3_u8, prop::bool::weighted(0.1)).prop_map(
        |(rack, cpu, mib, overhead, clock, node_type, refuses)| Host {
            rack: if rack == 0 { Place::default() } else { place(&format!("r{rack}")) },
            zone: if rack == 0 { Place::default() } else { place(&format!("z{}", rack % 2)) },
            region: if rack == 0 { Place::default() } else { place("eu") },
            clock_mhz: i64::from(clock) * 1000,
            node_type: if node_type == 0 { Some(NodeType::Vm) } else { Some(NodeType::Cm) },
            refuses: if refuses { "no".to_owned() } else { String::new() },
            overhead_per_node: size(0, overhead),
            ..host("", cpu, mib)
        },
    )
}

fn any_hosts() -> impl Strategy<Value = Vec<Host>> {
    prop::collection::vec(any_host(), 0..12).prop_map(|mut hosts| {
        for (at, host) in hosts.iter_mut().enumerate() {
            host.name = format!("h{at}");
        }
        hosts
    })
}

fn any_wish() -> impl Strategy<Value = (Wish, Option<usize>)> {
    let spread = (prop::sample::select(Across::ALL), any::<bool>());
    let filters = (
        prop::option::weighted(0.3, 0..3_i64),
        prop::option::weighted(0.3, prop::sample::select(vec!["z0", "z1", "z9"])),
    );
    (1..7_u32, 1..300_i64, 1..300_i64, spread, filters, prop::option::of(0..12_usize)).prop_map(
        |(count, cpu, mib, (across, required), (clock, zone), held)| {
            let wish = Wish {
                min_clock_mhz: clock.map(|c| c * 1000 + 500),
                zone: zone.map(str::to_owned),
                spread: Spread { across, required },
                ..wish(count, cpu, mib)
            };
            (wish, held)
        },
    )
}

/// Checks placements against the plain meaning of the wish.
fn check(wish: &Wish, hosts: &[Host], placed: &[&Host]) -> Result<(), TestCaseError> {
    prop_assert_eq!(placed.len(), wish.count as usize);
    for host in hosts {
        let here = placed.iter().filter(|p| p.id == host.id).count() as i64;
        if here > 0 {
            let cost = wish.size.plus(host.overhead_per_node).times(here);
            prop_assert!(cost.within(host.free), "{} beyond what is free", host.name);
            prop_assert!(host.refuses.is_empty() && host.node_type == Some(wish.node_type));
            prop_assert!(wish.min_clock_mhz.is_none_or(|c| host.clock_mhz >= c));
            prop_assert!(wish.zone.as_deref().is_none_or(|z| host.zone.name == z));
        }
    }
    if wish.spread.required {
        let area = |host: &Host| match wish.spread.across {
            Across::Host => host.name.clone(),
            Across::Rack => host.rack.id.clone(),
            Across::Zone => host.zone.id.clone(),
        };
        let mut seen: HashSet<String> = hosts.iter().filter(|h| wish.held.contains_key(&h.id)).map(area).collect();
        for host in placed {
            prop_assert!(!area(host).is_empty());
            prop_assert!(seen.insert(area(host)), "two in {}", area(host));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn plans_hold_and_refusals_tell_the_truth((mut wish, held) in any_wish(), hosts in any_hosts()) {
        if let Some(host) = held.and_then(|at| hosts.get(at)) {
            wish.held.insert(host.id, 1);
        }
        match plan(&wish, &hosts, listed()) {
            Ok(placed) => check(&wish, &hosts, &placed)?,
            Err(explanation) => {
                prop_assert!(explanation.fits < wish.count);
                // Every host says why it takes no more, and what it takes adds up.
                prop_assert!(explanation.verdicts.iter().all(|v| !v.refusals.is_empty()));
                prop_assert_eq!(explanation.verdicts.iter().map(|v| v.takes).sum::<u32>(), explanation.fits);
                for change in &explanation.changes {
                    let changed = change.applied(&wish);
                    let placed = plan(&changed, &hosts, listed());
                    prop_assert!(placed.is_ok(), "{} does not fit", change);
                    check(&changed, &hosts, &placed.unwrap())?;
                    // And nothing smaller of the same kind would do.
                    let smaller = match change {
                        Change::Reduce { dimension: Dimension::CpuMillicores, to, .. } => {
                            Some(Wish { size: Size { cpu_millicores: to + 1, ..wish.size }, ..wish.clone() })
                        }
                        Change::Reduce { dimension: Dimension::MemoryBytes, to, .. } => {
                            Some(Wish { size: Size { memory_bytes: to + 1, ..wish.size }, ..wish.clone() })
                        }
                        Change::Count { to, .. } => Some(Wish { count: to + 1, ..wish.clone() }),
                        Change::Clock { to_mhz, .. } => Some(Wish { min_clock_mhz: Some(to_mhz + 1), ..wish.clone() }),
                        Change::Reduce { .. } | Change::PreferSpread { .. } | Change::AnyZone | Change::AnyRegion => None,
                    };
                    if let Some(smaller) = smaller {
                        prop_assert!(plan(&smaller, &hosts, listed()).is_err(), "less than {} would do", change);
                    }
                }
                // The same question has the same answer.
                prop_assert_eq!(plan(&wish, &hosts, listed()).unwrap_err(), explanation);
            }
        }
    }
}
