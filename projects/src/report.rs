//! What a project reserved and used in a period, as pure functions over what the meter kept.
//!
//! - A period is half open: `[from_ms, to_ms)`. What is open still counts up to now. A period may be split anywhere:
//!   the sums of the parts are the sums of the whole.
//! - *Preset* is exact to the millisecond: time in each power state, and size times time.
//! - *Actual* is exact to the minute: a sample counts in the minute that its end lies in, and a minute counts in the
//!   period that its first millisecond lies in. Periods that begin and end on whole minutes cut no minute.
//! - A line belongs to whom its segments name. Where they name a tier, it belongs to the component that it is bound to:
//!   to the first one also before the binding began, and to each one until the next begins, so that nothing of a line
//!   belongs to nobody.

use std::collections::BTreeMap;

use uuid::Uuid;
use yiqiu_base::{Id, Power, Size, clock::Ms, id};

use crate::model::{Actual, Binding, LineId, Segment};

pub mod csv;

/// What a row of the report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HolderKind {
    /// A component, which a CContract keeps.
    Component,
    /// A node that the project leased itself, by an RContract.
    Node,
}

impl HolderKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            HolderKind::Component => "component",
            HolderKind::Node => "node",
        }
    }
}

/// Whose figures a row shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// A component or a node.
    pub kind: HolderKind,
    /// The component, or the line that holds the node.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The CContract or the RContract.
    pub contract: Uuid,
    /// The name of the CContract; empty for an RContract, whose name is not metered.
    pub contract_name: String,
}

/// A line that a project leased itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// The line.
    pub line: LineId,
    /// The contract that holds it.
    pub rcontract: Id<id::RContract>,
    /// The name of its node.
    pub node_name: String,
}

/// A line, or a stretch of it, that a row of the report takes: `[from_ms, to_ms)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which row.
    pub holder: Holder,
    /// The line.
    pub line: LineId,
    /// Since when; [`Ms::MIN`] for ever.
    pub from_ms: Ms,
    /// Until when; [`Ms::MAX`] for ever.
    pub to_ms: Ms,
}

impl Share {
    /// Whether it is all of the line.
    pub fn is_whole(&self) -> bool {
        self.from_ms == Ms::MIN && self.to_ms == Ms::MAX
    }
}

/// A value for each power state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByPower<T> {
    /// While on.
    pub on: T,
    /// While off.
    pub off: T,
    /// While hibernated.
    pub hibernated: T,
}

impl<T> ByPower<T> {
    fn of(&mut self, power: Power) -> &mut T {
        match power {
            Power::On => &mut self.on,
            Power::Off => &mut self.off,
            Power::Hibernated => &mut self.hibernated,
        }
    }
}

/// A size over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Millicores times milliseconds.
    pub cpu_millicore_ms: i128,
    /// Bytes of memory times milliseconds.
    pub memory_byte_ms: i128,
    /// Bytes of disk times milliseconds.
    pub disk_byte_ms: i128,
    /// Disk operations a second, times milliseconds.
    pub disk_iops_ms: i128,
}

impl Reserved {
    fn add(&mut self, size: Size, ms: i128) {
        let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
        self.cpu_millicore_ms += i128::from(cpu_millicores) * ms;
        self.memory_byte_ms += i128::from(memory_bytes) * ms;
        self.disk_byte_ms += i128::from(disk_bytes) * ms;
        self.disk_iops_ms += i128::from(disk_iops) * ms;
    }

    fn plus(&mut self, other: Reserved) {
        let Reserved { cpu_millicore_ms, memory_byte_ms, disk_byte_ms, disk_iops_ms } = other;
        self.cpu_millicore_ms += cpu_millicore_ms;
        self.memory_byte_ms += memory_byte_ms;
        self.disk_byte_ms += disk_byte_ms;
        self.disk_iops_ms += disk_iops_ms;
    }
}

/// Preset and actual, side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Milliseconds of claims in each power state.
    pub power_ms: ByPower<i128>,
    /// What was reserved.
    pub preset: ByPower<Reserved>,
    /// What was measured.
    pub actual: Actual,
}

impl Figures {
    fn plus(&mut self, other: &Figures) {
        let Figures { power_ms, preset, actual } = *other;
        self.power_ms.on += power_ms.on;
        self.power_ms.off += power_ms.off;
        self.power_ms.hibernated += power_ms.hibernated;
        self.preset.on.plus(preset.on);
        self.preset.off.plus(preset.off);
        self.preset.hibernated.plus(preset.hibernated);
        self.actual += actual;
    }
}

/// What is known to be amiss with a line now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `ghost`, `over`, `unknown` or `ledger`.
    pub kind: String,
    /// Which tier says it.
    pub tier: &'static str,
    /// When it was found.
    pub at_ms: Ms,
    /// On which host; empty where it is not about a host.
    pub host_name: String,
    /// What is wrong, in a sentence.
    pub detail: String,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whose.
    pub holder: Holder,
    /// How much.
    pub figures: Figures,
    /// What the newest audit and the comparisons of the ledgers say of the line that it has now.
    pub findings: Vec<Finding>,
}

/// The report of one project and period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its first millisecond.
    pub from_ms: Ms,
    /// The first millisecond after it.
    pub to_ms: Ms,
    /// When it was made: what is open counts up to here.
    pub now_ms: Ms,
    /// Everything that claimed or used something in the period, by contract and name.
    pub items: Vec<Item>,
    /// The sums.
    pub totals: Figures,
}

/// What of which line belongs to an owner. `held` are the lines whose segments carry its label; `bindings` all bindings
/// of the lines that were ever bound in its name.
pub fn shares(owner: &str, held: &[HeldLine], bindings: &[Binding]) -> Vec<Share> {
    let mut by_line: BTreeMap<LineId, Vec<&Binding>> = BTreeMap::new();
    for binding in bindings {
        by_line.entry(binding.line).or_default().push(binding);
    }
    let mut shares = Vec::new();
    for HeldLine { line, rcontract, node_name } in held {
        by_line.remove(line); // whom its segments name goes first
        let holder = Holder {
            kind: HolderKind::Node,
            id: line.uuid(),
            name: node_name.clone(),
            contract: rcontract.uuid(),
            contract_name: String::new(),
        };
        shares.push(Share { holder, line: *line, from_ms: Ms::MIN, to_ms: Ms::MAX });
    }
    for (line, mut bindings) in by_line {
        bindings.sort_by_key(|binding| binding.from_ms);
        for (at, binding) in bindings.iter().enumerate() {
            if binding.owner != owner {
                continue;
            }
            let holder = Holder {
                kind: HolderKind::Component,
                id: binding.component.uuid(),
                name: binding.component_name.clone(),
                contract: binding.ccontract.uuid(),
                contract_name: binding.ccontract_name.clone(),
            };
            let from_ms = if at == 0 { Ms::MIN } else { binding.from_ms };
            let to_ms = bindings.get(at + 1).map_or(Ms::MAX, |next| next.from_ms);
            shares.push(Share { holder, line, from_ms, to_ms });
        }
    }
    shares
}

/// Milliseconds of a segment within `[from_ms, to_ms)`; an open one lasts until now.
pub fn overlap(segment: &Segment, from_ms: Ms, to_ms: Ms, now_ms: Ms) -> i128 {
    let end = segment.to_ms.unwrap_or(now_ms).min(to_ms);
    let start = segment.from_ms.max(from_ms);
    (i128::from(end) - i128::from(start)).max(0)
}

/// The report: each share with what was measured in it (see [`Share`]), and the segments of their lines.
pub fn report(from_ms: Ms, to_ms: Ms, now_ms: Ms, shares: Vec<(Share, Actual)>, segments: &[Segment]) -> Report {
    let mut by_line: BTreeMap<LineId, Vec<&Segment>> = BTreeMap::new();
    for segment in segments {
        by_line.entry(segment.line).or_default().push(segment);
    }
    let mut items: BTreeMap<(HolderKind, Uuid), Item> = BTreeMap::new();
    let mut totals = Figures::default();
    for (share, actual) in shares {
        let Share { holder, line, from_ms: since, to_ms: until } = share;
        let mut figures = Figures { actual, ..Figures::default() };
        for segment in by_line.get(&line).into_iter().flatten() {
            let ms = overlap(segment, since.max(from_ms), until.min(to_ms), now_ms);
            *figures.power_ms.of(segment.power) += ms;
            figures.preset.of(segment.power).add(segment.size, ms);
        }
        if figures == Figures::default() {
            continue;
        }
        totals.plus(&figures);
        let item = items.entry((holder.kind, holder.id)).or_insert_with(|| Item {
            holder: holder.clone(),
            figures: Figures::default(),
            findings: Vec::new(),
        });
        item.figures.plus(&figures);
        item.holder = holder;
    }
    let mut items: Vec<Item> = items.into_values().collect();
    items.sort_by(|a, b| {
        let key = |i: &Item| (i.holder.kind, i.holder.contract_name.clone(), i.holder.name.clone(), i.holder.id);
        key(a).cmp(&key(b))
    });
    Report { from_ms, to_ms, now_ms, items, totals }
}

/// Which row has each line now.
pub fn holders(shares: &[Share]) -> BTreeMap<LineId, (HolderKind, Uuid)> {
    let now = shares.iter().filter(|share| share.to_ms == Ms::MAX);
    now.map(|share| (share.line, (share.holder.kind, share.holder.id))).collect()
}

impl Report {
    /// Puts each finding to the row that has its line now. One of a line that no row has is not this report's.
    pub fn attach(&mut self, holders: &BTreeMap<LineId, (HolderKind, Uuid)>, findings: Vec<(LineId, Finding)>) {
        for (line, finding) in findings {
            let holder = holders.get(&line);
            let item = self.items.iter_mut().find(|item| Some(&(item.holder.kind, item.holder.id)) == holder);
            if let Some(item) = item {
                item.findings.push(finding);
            }
        }
    }
}

#[cfg(test)]
mod tests;
