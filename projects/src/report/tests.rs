use proptest::prelude::*;

use super::*;

const P: &str = "project:p";
const TIER: &str = "tier:components";
const SIZE: Size = Size { cpu_millicores: 500, memory_bytes: 1 << 50, disk_bytes: 3, disk_iops: 7 };

fn segment(line: LineId, owner: &str, power: Power, from_ms: Ms, to_ms: Option<Ms>) -> Segment {
    Segment {
        line,
        rcontract: Id::from(Uuid::nil()),
        owner: owner.into(),
        node_name: "n".into(),
        power,
        size: SIZE,
        from_ms,
        to_ms,
    }
}

fn binding(line: LineId, component: u128, owner: &str, from_ms: Ms) -> Binding {
    Binding {
        line,
        component: Uuid::from_u128(component).into(),
        component_name: format!("c{component}"),
        ccontract: Uuid::nil().into(),
        ccontract_name: "web".into(),
        owner: owner.into(),
        from_ms,
    }
}

fn unmeasured(shares: Vec<Share>) -> Vec<(Share, Actual)> {
    shares.into_iter().map(|share| (share, Actual::default())).collect()
}

#[test]
fn a_segment_is_clipped_to_the_period_and_to_now() {
    let line = LineId::new();
    for (what, from, to, period, now, ms) in [
        ("inside", 10, Some(20), (0, 100), 1000, 10),
        ("no length", 10, Some(10), (0, 100), 1000, 0),
        ("open, period over", 10, None, (0, 100), 1000, 90),
        ("open, period not over", 10, None, (0, 100), 50, 40),
        ("over the start", -5, Some(20), (0, 100), 1000, 20),
        ("over the end", 90, Some(120), (0, 100), 1000, 10),
        ("over both", 0, None, (40, 60), 1000, 20),
        ("before", 0, Some(40), (40, 60), 1000, 0),
        ("after", 60, None, (40, 60), 1000, 0),
        ("empty period", 0, None, (50, 50), 1000, 0),
        ("begins later than now", 60, None, (0, 100), 50, 0),
        ("ends of time", i64::MIN, Some(i64::MAX), (i64::MIN, i64::MAX), 0, i128::from(u64::MAX)),
    ] {
        let segment = segment(line, P, Power::On, from, to);
        assert_eq!(overlap(&segment, period.0, period.1, now), ms, "{what}");
    }
}

#[test]
fn time_and_size_by_power_state() {
    let line = LineId::new();
    let segments = [
        segment(line, TIER, Power::Off, 0, Some(3)),
        segment(line, TIER, Power::On, 3, Some(13)),
        segment(line, TIER, Power::Hibernated, 13, Some(13)),
        segment(line, TIER, Power::Off, 13, None),
    ];
    let shares = shares(P, &[], &[binding(line, 1, P, 2)]);
    let report = report(0, 100, 20, unmeasured(shares), &segments);
    let [item] = report.items.as_slice() else { panic!("{:?}", report.items) };
    assert_eq!((item.holder.kind, item.holder.name.as_str()), (HolderKind::Component, "c1"));
    assert_eq!(item.figures.power_ms, ByPower { on: 10, off: 10, hibernated: 0 });
    assert_eq!(
        item.figures.preset.on,
        Reserved { cpu_millicore_ms: 5000, memory_byte_ms: 10 << 50, disk_byte_ms: 30, disk_iops_ms: 70 }
    );
    assert_eq!(report.totals, item.figures);
}

#[test]
fn a_line_belongs_to_whom_it_names_or_else_to_its_binding() {
    let [bound, held, foreign] = [LineId::new(), LineId::new(), LineId::new()];
    let held_lines = [HeldLine { line: held, rcontract: Id::from(Uuid::nil()), node_name: "mine".into() }];
    let bindings = [binding(bound, 1, P, 50), binding(held, 2, P, 50), binding(foreign, 3, "project:q", 50)];
    let shares = shares(P, &held_lines, &bindings);
    let named: Vec<_> = shares.iter().map(|s| (s.line, s.holder.name.as_str(), s.is_whole())).collect();
    assert_eq!(named, [(held, "mine", true), (bound, "c1", true)]);
}

#[test]
fn a_line_that_changes_hands_is_split_where_it_does() {
    let line = LineId::new();
    let bindings = [binding(line, 1, P, 10), binding(line, 2, "project:q", 40), binding(line, 3, P, 60)];
    let segments = [segment(line, TIER, Power::On, 0, Some(100))];
    let of = |owner: &str| report(0, 100, 200, unmeasured(shares(owner, &[], &bindings)), &segments);
    let on: Vec<_> = of(P).items.iter().map(|i| (i.holder.name.clone(), i.figures.power_ms.on)).collect();
    assert_eq!(on, [("c1".to_owned(), 40), ("c3".to_owned(), 40)]);
    assert_eq!(of("project:q").totals.power_ms.on, 20);
}

#[test]
fn one_component_on_two_lines_is_one_row() {
    let [a, b] = [LineId::new(), LineId::new()];
    let bindings = [binding(a, 1, P, 0), binding(b, 1, P, 50)];
    let segments = [segment(a, TIER, Power::On, 0, Some(50)), segment(b, TIER, Power::On, 50, None)];
    let actual = Actual { cpu_ns: 5, net_tx_bytes: 2, ..Actual::default() };
    let shares = shares(P, &[], &bindings).into_iter().map(|s| (s, actual)).collect();
    let report = report(0, 80, 200, shares, &segments);
    assert_eq!(report.items.len(), 1);
    assert_eq!(report.totals.power_ms.on, 80);
    assert_eq!((report.totals.actual.cpu_ns, report.totals.actual.net_tx_bytes), (10, 4));
}

#[test]
fn cells_are_never_formulas() {
    for (cell, written) in [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM", "'@SUM"),
        ("\t=1", "'\t=1"),
        ("web-1", "web-1"),
        ("", ""),
    ] {
        assert_eq!(csv::safe(cell), written);
    }
    let line = LineId::new();
    let mut bound = binding(line, 1, P, 0);
    bound.component_name = "=cmd|' /C calc'!A0,\"x\"".into();
    let shares = unmeasured(shares(P, &[], &[bound]));
    let report = report(0, 100, 200, shares, &[segment(line, TIER, Power::On, 0, None)]);
    let text = csv::csv("shop", &report).unwrap();
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(&rows[0][5], "'=cmd|' /C calc'!A0,\"x\"");
    assert_eq!((&rows[0][3], &rows[0][8]), ("component", "100"));
    assert_eq!((&rows[1][3], &rows[1][8], &rows[1][12]), ("total", "100", "112589990684262400"));
}

/// Lines whose segments follow each other without a gap, in random states, the last of them open or not, and bindings
/// of random owners at random times.
fn books() -> impl Strategy<Value = (Vec<Segment>, Vec<Binding>)> {
    let cuts = prop::collection::vec((0_i64..50, 0_usize..3), 1..8);
    let bound = prop::collection::btree_map(0_i64..300, 0_u128..3, 1..4);
    prop::collection::vec((0_i64..100, cuts, any::<bool>(), bound), 1..4).prop_map(|lines| {
        let (mut segments, mut bindings) = (Vec::new(), Vec::new());
        for (at, (start, cuts, open, bound)) in lines.into_iter().enumerate() {
            let line = LineId::from(Uuid::from_u128(at as u128 + 1));
            let mut from = start;
            let last = cuts.len() - 1;
            for (n, (length, power)) in cuts.into_iter().enumerate() {
                let to = if n == last && open { None } else { Some(from + length) };
                segments.push(segment(line, TIER, Power::ALL[power], from, to));
                from += length;
            }
            for (from, who) in bound {
                let owner = if who == 0 { "project:q" } else { P };
                bindings.push(binding(line, at as u128 * 10 + who, owner, from));
            }
        }
        (segments, bindings)
    })
}

proptest! {
    #[test]
    fn splitting_a_period_anywhere_gives_the_same_sums(
        (segments, bindings) in books(), from in 0_i64..200, a in 0_i64..200, b in 0_i64..200, now in 0_i64..600,
    ) {
        let of = |from, to| report(from, to, now, unmeasured(shares(P, &[], &bindings)), &segments);
        let (middle, to) = (from + a, from + a + b);
        let whole = of(from, to);
        let mut sum = of(from, middle).totals;
        sum.plus(&of(middle, to).totals);
        prop_assert_eq!(sum, whole.totals);
        for item in &whole.items {
            let mut sum = Figures::default();
            for part in [of(from, middle), of(middle, to)] {
                for part in part.items.iter().filter(|p| p.holder.id == item.holder.id) {
                    sum.plus(&part.figures);
                }
            }
            prop_assert_eq!(sum, item.figures);
        }
    }

    #[test]
    fn every_millisecond_of_every_claim_is_counted_once_over_all_owners(
        (segments, bindings) in books(), from in 0_i64..200, length in 0_i64..400, now in 0_i64..600,
    ) {
        let to = from + length;
        let mut counted = Figures::default();
        for owner in [P, "project:q"] {
            counted.plus(&report(from, to, now, unmeasured(shares(owner, &[], &bindings)), &segments).totals);
        }
        // By hand, a millisecond at a time.
        let mut expected = ByPower::<i128>::default();
        for ms in from..to {
            for s in &segments {
                if s.from_ms <= ms && ms < s.to_ms.unwrap_or(now) {
                    *expected.of(s.power) += 1;
                }
            }
        }
        prop_assert_eq!(counted.power_ms, expected);
        prop_assert_eq!(counted.preset.on.memory_byte_ms, expected.on << 50);
    }
}
