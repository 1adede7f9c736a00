//! Amendments: what becomes of a contract's lines, decided as a whole.
//!
//! What grows is claimed at once, what shrinks is given back when its host has confirmed the smaller size, and what goes
//! when its node is verified gone. So an amendment has for room what is free, and nothing of what it gives up.

use std::collections::{HashMap, HashSet};

use yiqiu_base::{Code, Id, NodeState, NodeType, Problem, Size, id::Host, name, size::bytes_shown};

use super::{
    admit_line,
    full::{Asked, host_full},
};
use crate::model::{
    Amendment, ContractModel, ContractState, Forecast, Held, HostForecast, HostModel, LineChange, NewLine, NodeModel,
};

/// The most lines of a contract.
pub const LINES_MOST: usize = 500;

/// A line that stays and changes.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Its node as it is wished from now on, with its new name and size.
    pub node: NodeModel,
    /// Its name before.
    pub was: String,
    /// What it was asked to hold before.
    pub from: Size,
    /// What it held before.
    pub held_before: Size,
    /// What it holds until its host confirms the new size: of each dimension the greater.
    pub held: Size,
}

impl Changed {
    /// Whether its host has to bind it anew.
    pub fn resized(&self) -> bool {
        self.from != self.node.spec.size
    }

    /// What it claims before and after: all it holds, unless its node is parked.
    pub fn claims(&self) -> (Size, Size) {
        (self.node.hold.claims(self.held_before), self.node.hold.claims(self.held))
    }

    /// Whether it is metered under another size or name from now on.
    pub fn remetered(&self) -> bool {
        let (from, to) = self.claims();
        from != to || self.was != self.node.name
    }
}

/// What an amendment comes to.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// New lines.
    pub added: Vec<NewLine>,
    /// Lines that go.
    pub removed: Vec<Held>,
    /// Lines that change.
    pub changed: Vec<Changed>,
    /// How many lines there are then.
    pub lines: i64,
}

/// Decides an amendment against the lines as they stand and the room of hosts, which are left as it leaves them.
pub fn amend(
    contract: &ContractModel,
    lines: &[Held],
    amendment: &Amendment,
    hosts: &mut HashMap<Id<Host>, HostModel>,
) -> Result<Plan, Problem> {
    match contract.state {
        ContractState::Scheduled | ContractState::Active => {}
        ContractState::Ending => {
            let why = format!("rcontract {} has ended: renew it before it is amended", contract.name);
            return Err(Problem::new(Code::WrongState, why));
        }
        state @ (ContractState::Releasing | ContractState::Released) => {
            return Err(Problem::new(Code::WrongState, format!("rcontract {} is {state}", contract.name)));
        }
    }
    let standing: Vec<&Held> = lines.iter().filter(|l| !l.node.removed).collect();
    let mut named: HashSet<Id<_>> = HashSet::new();
    let mut find = |wanted: &str| -> Result<&Held, Problem> {
        let is = |held: &&&Held| held.node.name == wanted || held.node.line_id.to_string() == wanted;
        let Some(found) = standing.iter().find(is) else {
            return Err(Problem::not_found("line", format!("{wanted} of rcontract {}", contract.name)));
        };
        if !named.insert(found.node.line_id) {
            let why = format!("the amendment names line {} twice: say once what becomes of it", found.node.name);
            return Err(Problem::invalid(why));
        }
        Ok(found)
    };
    let mut plan = Plan::default();
    for wanted in &amendment.remove {
        plan.removed.push(find(wanted)?.clone());
    }
    for change in &amendment.change {
        let held = find(&change.line)?;
        if let Some(changed) = changed(held, change)? {
            plan.changed.push(changed);
        }
    }
    plan.added.clone_from(&amendment.add);

    let gone = |held: &&&Held| plan.removed.iter().any(|r| r.node.line_id == held.node.line_id);
    let stays = standing.iter().filter(|held| !gone(held));
    let renamed = |held: &&Held| {
        let changed = plan.changed.iter().find(|c| c.node.line_id == held.node.line_id);
        changed.map_or_else(|| held.node.name.clone(), |c| c.node.name.clone())
    };
    let mut names: Vec<String> = stays.map(renamed).collect();
    names.extend(plan.added.iter().map(|line| line.name.clone()));
    let count = names.len();
    if count == 0 || count > LINES_MOST {
        let why = format!("the contract would have {count} lines: it has 1 to {LINES_MOST}. To end it, release it");
        return Err(Problem::invalid(why));
    }
    plan.lines = i64::try_from(count).unwrap_or(i64::MAX);
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Problem::new(Code::AlreadyExists, format!("two lines would be named `{}`", twice[0])));
    }

    for change in &plan.changed {
        let Some(host) = hosts.get_mut(&change.node.host_id) else {
            return Err(Problem::internal("the host of a line is gone"));
        };
        grow(host, change)?;
    }
    for line in &plan.added {
        let host = hosts.get_mut(&line.host_id).ok_or_else(|| Problem::not_found("host", line.host_id))?;
        admit_line(host, line, amendment.whole_hosts)?;
    }
    Ok(plan)
}

/// What becomes of one line; `None` if nothing.
fn changed(held: &Held, change: &LineChange) -> Result<Option<Changed>, Problem> {
    let mut node = held.node.clone();
    if let Some(to) = &change.name {
        name::check("line", to)?;
        node.name.clone_from(to);
    }
    if let Some(size) = change.size {
        node.spec.size = size.of(node.spec.size);
        node.spec.size.check(&format!("line {}", held.node.name))?;
    }
    let (from, to) = (held.node.spec.size, node.spec.size);
    if from == to && node.name == held.node.name {
        return Ok(None);
    }
    if from != to && node.node_type == NodeType::Bm {
        return Err(Problem::invalid(format!(
            "line {} holds the whole of host {}, which is cut as bm: it cannot be resized",
            held.node.name, node.host_name
        )));
    }
    if to.memory_bytes < from.memory_bytes && node.state == NodeState::Running && to.memory_bytes < held.memory_used {
        return Err(Problem::new(
            Code::InUse,
            format!(
                "line {} cannot shrink to {} of memory: its node uses {} now. Power it off, or ask for more",
                held.node.name,
                bytes_shown(to.memory_bytes),
                bytes_shown(held.memory_used)
            ),
        )
        .with_data(serde_json::json!({
            "line": held.node.name, "dimension": "memory_bytes", "asked": to.memory_bytes, "used": held.memory_used,
        })));
    }
    let was = held.node.name.clone();
    Ok(Some(Changed { node, was, from, held_before: held.size, held: held.size.zip(to, i64::max) }))
}

/// Claims what a line grows by.
fn grow(host: &mut HostModel, change: &Changed) -> Result<(), Problem> {
    let (from, to) = change.claims();
    if from == to {
        return Ok(());
    }
    if let Some(why) = host.refuses() {
        return Err(Problem::new(Code::WrongState, why));
    }
    match host_full(host, &change.was, Asked::Growth { from, to }) {
        Some(problem) => Err(problem),
        None => {
            host.used = host.used.plus(to.minus(from));
            Ok(())
        }
    }
}

/// What a decision does to hosts, for people to look at before they ask for it.
pub fn forecast(
    before: &HashMap<Id<Host>, HostModel>,
    after: &HashMap<Id<Host>, HostModel>,
    plan: Option<&Plan>,
) -> Forecast {
    let mut hosts: Vec<HostForecast> = before
        .values()
        .filter_map(|host| {
            let then = after.get(&host.id)?;
            let nodes = then.nodes - host.nodes;
            let overhead = host.node_overhead.times(nodes);
            let shrinks = |c: &&Changed| c.node.host_id == host.id;
            let back = plan.map_or(Size::ZERO, |plan| {
                let shrunk = plan.changed.iter().filter(shrinks).map(|c| {
                    let hold = c.node.hold;
                    hold.claims(c.held).minus(hold.claims(c.node.spec.size))
                });
                let gone = plan.removed.iter().filter(|held| held.node.host_id == host.id);
                shrunk
                    .chain(gone.map(|held| held.node.hold.claims(held.size).plus(host.node_overhead)))
                    .fold(Size::ZERO, Size::plus)
            });
            Some(HostForecast {
                host_id: host.id,
                host: host.name.clone(),
                nodes,
                asked: then.used.minus(host.used).minus(overhead),
                overhead,
                free_before: host.free(),
                free_after: then.free(),
                returns: back,
            })
        })
        .collect();
    hosts.sort_by(|a, b| a.host.cmp(&b.host));
    Forecast { hosts }
}
