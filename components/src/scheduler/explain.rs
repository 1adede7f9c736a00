//! Why a wish cannot be placed, as data and as a sentence, with the smallest changes that can.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{Id, Size, id, size::Dimension};

use super::{
    Ground, Host, Place, Wish,
    filter::{Refusal, fixed_refusals, refusals},
};
use crate::model::{Across, Spread};

/// Why a contract cannot be placed. Nothing was recorded and nothing claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlacementExplanation)]
pub struct Explanation {
    /// The same in a sentence.
    pub sentence: String,
    /// How many components were asked for.
    pub count: u32,
    /// The most of them for which there is room, all else as asked.
    pub fits: u32,
    /// What each asked for.
    pub size: Size,
    /// How many hosts there are.
    pub hosts: u64,
    /// How many hosts each filter said no to.
    pub refused_by: BTreeMap<String, u64>,
    /// The hosts, those that come nearest first.
    pub verdicts: Vec<Verdict>,
    /// How many hosts the list leaves out; `refused_by` counts them too.
    pub left_out: u64,
    /// Changes after each of which alone the rest can be placed, the smallest first: what costs nothing, then what
    /// takes away the least part.
    pub changes: Vec<Change>,
}

/// What one host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlacementVerdict)]
pub struct Verdict {
    /// Which host.
    pub host_id: Id<id::Host>,
    /// Its name.
    pub host: String,
    /// How many components it takes when as many as possible are placed.
    pub takes: u32,
    /// Why it takes no more: every filter that says no, and by how much.
    pub refusals: Vec<Refusal>,
}

/// A change of the wish after which it can be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlacementChange)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Prefer the spread rather than require it.
    PreferSpread {
        /// What the components would then only preferably not share.
        across: Across,
    },
    /// Take any zone, all else as asked.
    AnyZone,
    /// Take any region, and any zone in it.
    AnyRegion,
    /// Ask for a slower clock.
    Clock {
        /// As asked.
        from_mhz: i64,
        /// The fastest that can be had.
        to_mhz: i64,
    },
    /// Ask for less of one dimension.
    Reduce {
        /// Of what.
        dimension: Dimension,
        /// As asked.
        from: i64,
        /// The most that fits.
        to: i64,
        /// The difference.
        by: i64,
    },
    /// Ask for fewer.
    Count {
        /// As asked.
        from: u32,
        /// The most that fit.
        to: u32,
    },
}

impl Change {
    /// The wish with this change.
    #[must_use]
    pub fn applied(&self, wish: &Wish) -> Wish {
        let mut wish = wish.clone();
        match self {
            Change::PreferSpread { across } => wish.spread = Spread { across: *across, required: false },
            Change::AnyZone => wish.zone = None,
            Change::AnyRegion => (wish.region, wish.zone) = (None, None),
            Change::Clock { to_mhz, .. } => wish.min_clock_mhz = Some(*to_mhz),
            Change::Reduce { dimension, to, .. } => wish.size = with(wish.size, *dimension, *to),
            Change::Count { to, .. } => wish.count = *to,
        }
        wish
    }

    /// How large it is: what takes nothing away from the component is 0, else the part taken away in millionths.
    fn cost(&self) -> i128 {
        let part = |from: i64, to: i64| i128::from(from.saturating_sub(to)) * 1_000_000 / i128::from(from.max(1));
        match self {
            Change::PreferSpread { .. } | Change::AnyZone | Change::AnyRegion => 0,
            Change::Clock { from_mhz, to_mhz } => part(*from_mhz, *to_mhz),
            Change::Reduce { from, to, .. } => part(*from, *to),
            Change::Count { from, to } => part((*from).into(), (*to).into()),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Change::PreferSpread { across } => write!(f, "prefer the spread across {across}s rather than require it"),
            Change::AnyZone => f.write_str("take any zone"),
            Change::AnyRegion => f.write_str("take any region"),
            Change::Clock { from_mhz, to_mhz } => write!(f, "ask for {to_mhz} MHz rather than {from_mhz}"),
            Change::Reduce { dimension, from, to, by } => write!(
                f,
                "ask for {} less, {} rather than {}",
                dimension.shown(*by),
                dimension.shown(*to),
                dimension.shown(*from)
            ),
            Change::Count { from, to } => write!(f, "ask for {to} rather than {from}"),
        }
    }
}

/// Explains a plan that came to `chosen` and no further.
pub(super) fn explain(ground: &Ground<'_>, chosen: &[usize], listed: NonZeroUsize) -> Explanation {
    let mut takes = vec![0_u32; ground.hosts.len()];
    for at in chosen {
        takes[*at] += 1;
    }
    let mut refused_by: BTreeMap<String, u64> = BTreeMap::new();
    let mut verdicts: Vec<(usize, Vec<Refusal>)> = Vec::with_capacity(ground.hosts.len());
    for at in 0..ground.hosts.len() {
        let refusals = refusals(ground, at);
        let filters: HashSet<&str> = refusals.iter().map(Refusal::filter).collect();
        for filter in filters {
            *refused_by.entry(filter.to_owned()).or_default() += 1;
        }
        verdicts.push((at, refusals));
    }
    verdicts.sort_by(|(a, a_refusals), (b, b_refusals)| {
        let name = |at: usize| &ground.hosts[at].name;
        takes[*b].cmp(&takes[*a]).then(a_refusals.len().cmp(&b_refusals.len())).then_with(|| name(*a).cmp(name(*b)))
    });
    let left_out = verdicts.len().saturating_sub(listed.get()) as u64;
    verdicts.truncate(listed.get());
    let verdicts: Vec<Verdict> = verdicts
        .into_iter()
        .map(|(at, refusals)| Verdict {
            host_id: ground.hosts[at].id,
            host: ground.hosts[at].name.clone(),
            takes: takes[at],
            refusals,
        })
        .collect();
    let fits = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    let mut explanation = Explanation {
        sentence: String::new(),
        count: ground.wish.count,
        fits,
        size: ground.wish.size,
        hosts: ground.hosts.len() as u64,
        refused_by,
        verdicts,
        left_out,
        changes: changes(ground.wish, ground.hosts, fits),
    };
    explanation.sentence = sentence(&explanation);
    explanation
}

/// Every single change after which the wish fits, found by trying.
fn changes(wish: &Wish, hosts: &[Host], fits: u32) -> Vec<Change> {
    let enough = |wish: &Wish| room(wish, hosts) >= u64::from(wish.count);
    let mut found = Vec::new();
    if wish.spread.required {
        found.push(Change::PreferSpread { across: wish.spread.across });
    }
    if wish.zone.is_some() {
        found.push(Change::AnyZone);
    }
    if wish.region.is_some() {
        found.push(Change::AnyRegion);
    }
    found.retain(|change| enough(&change.applied(wish)));
    found.extend(slower_clock(wish, hosts));
    found.extend(Dimension::ALL.into_iter().filter_map(|dimension| less(wish, hosts, dimension)));
    if fits > 0 {
        found.push(Change::Count { from: wish.count, to: fits });
    }
    found.sort_by_key(Change::cost); // stable: equal ones stay in the order above
    found
}

/// The fastest clock below the one asked with which there is room.
fn slower_clock(wish: &Wish, hosts: &[Host]) -> Option<Change> {
    let from_mhz = wish.min_clock_mhz?;
    let mut clocks: Vec<i64> = hosts.iter().map(|host| host.clock_mhz).filter(|c| (0..from_mhz).contains(c)).collect();
    clocks.sort_unstable();
    clocks.dedup();
    // The slower the clock, the more hosts have it: those that fit are the first ones.
    let fitting = clocks.partition_point(|to_mhz| {
        let change = Change::Clock { from_mhz, to_mhz: *to_mhz };
        room(&change.applied(wish), hosts) >= u64::from(wish.count)
    });
    let to_mhz = *clocks.get(fitting.checked_sub(1)?)?;
    Some(Change::Clock { from_mhz, to_mhz })
}

/// The least reduction of one dimension with which there is room.
fn less(wish: &Wish, hosts: &[Host], dimension: Dimension) -> Option<Change> {
    let from = wish.size.get(dimension);
    let least = wish.least.get(dimension);
    // Only hosts that lack nothing else matter: what no reduction of this dimension lifts need not be tried 50 times.
    let smallest = with(wish.size, dimension, least);
    let mut open = Open::of(wish, hosts);
    open.hosts.retain(|host| capacity(smallest, host) > 0);
    let enough = |amount: i64| open.room(wish, with(wish.size, dimension, amount)) >= u64::from(wish.count);
    if from <= least || !enough(least) {
        return None;
    }
    let (mut fits, mut too_much) = (least, from);
    while too_much - fits > 1 {
        let middle = fits + (too_much - fits) / 2;
        *if enough(middle) { &mut fits } else { &mut too_much } = middle;
    }
    Some(Change::Reduce { dimension, from, to: fits, by: from - fits })
}

/// For how many components of a wish there is room. The same as filling the hosts, without choosing.
fn room(wish: &Wish, hosts: &[Host]) -> u64 {
    Open::of(wish, hosts).room(wish, wish.size)
}

/// The hosts that only lack of room could exclude.
struct Open<'a> {
    hosts: Vec<&'a Host>,
    /// The areas that hold one of this contract already.
    taken: HashSet<&'a str>,
}

impl<'a> Open<'a> {
    fn of(wish: &Wish, hosts: &'a [Host]) -> Self {
        Self {
            hosts: hosts.iter().filter(|host| fixed_refusals(wish, host).is_empty()).collect(),
            taken: hosts
                .iter()
                .filter(|host| wish.held.get(&host.id).is_some_and(|held| *held > 0))
                .filter_map(|host| area(wish.spread.across, host))
                .collect(),
        }
    }

    fn room(&self, wish: &Wish, size: Size) -> u64 {
        if !wish.spread.required {
            return self.hosts.iter().fold(0, |sum: u64, host| sum.saturating_add(capacity(size, host)));
        }
        let with_room = self.hosts.iter().filter(|host| capacity(size, host) > 0);
        let areas: HashSet<&str> =
            with_room.filter_map(|host| area(wish.spread.across, host)).filter(|a| !self.taken.contains(a)).collect();
        areas.len() as u64
    }
}

fn area(across: Across, host: &Host) -> Option<&str> {
    let place = match across {
        Across::Host => return Some(&host.name),
        Across::Rack => &host.rack,
        Across::Zone => &host.zone,
    };
    let Place { id, name: _ } = place;
    (!id.is_empty()).then_some(id)
}

/// How many of this size a host takes.
fn capacity(size: Size, host: &Host) -> u64 {
    let cost = size.plus(host.overhead_per_node);
    if !cost.within(host.free) {
        return 0;
    }
    Dimension::ALL
        .into_iter()
        .filter(|d| cost.get(*d) > 0)
        .map(|d| (host.free.get(d) / cost.get(d)).unsigned_abs())
        .min()
        .unwrap_or(u64::MAX)
}

fn with(size: Size, dimension: Dimension, amount: i64) -> Size {
    match dimension {
        Dimension::CpuMillicores => Size { cpu_millicores: amount, ..size },
        Dimension::MemoryBytes => Size { memory_bytes: amount, ..size },
        Dimension::DiskBytes => Size { disk_bytes: amount, ..size },
        Dimension::DiskIops => Size { disk_iops: amount, ..size },
    }
}

/// How many hosts the sentence names; the data has more.
const NAMED: usize = 3;

fn sentence(explanation: &Explanation) -> String {
    let Explanation { count, fits, size, hosts, verdicts, changes, .. } = explanation;
    if *hosts == 0 {
        return format!("{count} of {size} cannot be placed: there is no host at all");
    }
    let room = match fits {
        0 => "no host takes one".to_owned(),
        n => format!("there is room for {n}"),
    };
    let mut text = format!("{count} of {size} cannot be placed: {room}");
    for verdict in verdicts.iter().take(NAMED) {
        let taken = if verdict.takes > 0 { format!(" takes {} and then", verdict.takes) } else { String::new() };
        let why: Vec<String> = verdict.refusals.iter().map(ToString::to_string).collect();
        text += &format!("; host {}{taken} {}", verdict.host, why.join(" and "));
    }
    if *hosts > NAMED as u64 {
        text += &format!("; and {} more hosts", hosts - NAMED as u64);
    }
    match changes.first() {
        Some(change) => text + &format!(". The smallest change that fits: {change}"),
        None => text + ". No single change would fit",
    }
}
