//! What should be, kept apart from the service and in other words: who holds what, what is metered, what is refused.

mod decide;

use std::collections::BTreeMap;

use yiqiu_base::{
    Code, Id, NodeState, Power, Size,
    clock::Ms,
    id::{Command, Host, Line, Node, RContract},
};
use yiqiu_resources::{
    model::{ContractState, HostWish, NodeModel, Report, Wish},
    service::{AmendRequest, ContractRequest, LineRequest},
};

use crate::support::size;

/// The one who is ops; before it come the tenants.
pub(super) const OPS: usize = 3;

#[derive(Debug, Clone)]
pub(super) struct HostM {
    pub(super) id: Id<Host>,
    pub(super) name: String,
    pub(super) bm: bool,
    pub(super) machine: Size,
    pub(super) wish: HostWish,
    pub(super) connected: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ContractM {
    pub(super) id: Id<RContract>,
    pub(super) owner: usize,
    pub(super) name: String,
    pub(super) state: ContractState,
    pub(super) starts: Option<Ms>,
    pub(super) ends: Option<Ms>,
    pub(super) grace: Ms,
    pub(super) due: Option<Ms>,
    pub(super) generation: i64,
    pub(super) lines: i64,
}

/// A stretch of a claim that is metered as one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: Ms,
    pub(super) to: Option<Ms>,
    pub(super) power: Power,
    pub(super) size: Size,
    pub(super) name: String,
}

#[derive(Debug, Clone)]
pub(super) struct LineM {
    pub(super) contract: usize,
    pub(super) host: usize,
    pub(super) line_id: Id<Line>,
    pub(super) node_id: Id<Node>,
    pub(super) name: String,
    /// What is wished, and what is held: more while the host has not confirmed less.
    pub(super) spec: Size,
    pub(super) held: Size,
    pub(super) power: Power,
    pub(super) generation: i64,
    pub(super) carried: i64,
    pub(super) boot: i64,
    pub(super) state: NodeState,
    pub(super) removed: bool,
    pub(super) resumes: bool,
    pub(super) stopped: bool,
    pub(super) resizing: Option<i64>,
    pub(super) revision: i64,
    /// Its claim stands.
    pub(super) live: bool,
    pub(super) meter: Vec<Stretch>,
    /// The newest reading of each boot: its number and its counter.
    pub(super) read: BTreeMap<i64, (i64, i64)>,
}

/// Something that was asked for, with everything that names it: asking again is asking the same.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Claim { owner: usize, request: ContractRequest, key: Option<String> },
    Amend { contract: usize, request: AmendRequest, seen: Option<i64>, key: String },
    Renew { contract: usize, ends: Option<Ms>, key: String },
    Release { contract: usize },
    Power { line: usize, wish: Wish, command: Option<Id<Command>>, seen: Option<i64> },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) hosts: Vec<HostM>,
    pub(super) contracts: Vec<ContractM>,
    pub(super) lines: Vec<LineM>,
}

/// The overheads that the agents of these tests tell of: see `support::facts`.
fn fixed() -> Size {
    size(100, 1 << 20)
}

pub(super) fn each() -> Size {
    size(5, 1 << 10)
}

impl HostM {
    fn rentable(&self) -> Size {
        self.machine.minus(fixed())
    }

    /// All that its one node can be.
    pub(super) fn whole(&self) -> Size {
        self.rentable().minus(each())
    }

    fn takes_claims(&self) -> bool {
        self.connected && self.wish == HostWish::InService
    }
}

impl LineM {
    fn meter_as(&mut self, now: Ms, change: impl FnOnce(&mut Stretch)) {
        let last = self.meter.last_mut().expect("a line that stands is metered");
        let to = now.max(last.from);
        last.to = Some(to);
        let mut next = Stretch { from: to, to: None, ..last.clone() };
        change(&mut next);
        self.meter.push(next);
    }

    /// A new wish for its power, after everything that its host carried out.
    fn wished(&mut self, power: Power) {
        self.power = power;
        self.generation = self.generation.max(self.carried) + 1;
        self.revision += 1;
    }

    fn tombstone(&mut self) {
        (self.removed, self.power) = (true, Power::Off);
        self.revision += 1;
    }
}

impl Model {
    pub(super) fn used(&self, host: usize) -> (Size, i64) {
        let on = self.lines.iter().filter(|line| line.live && line.host == host);
        on.fold((Size::ZERO, 0), |(used, nodes), line| (used.plus(line.held).plus(each()), nodes + 1))
    }

    pub(super) fn is_short(&self, host: usize) -> bool {
        let (used, nodes) = self.used(host);
        nodes > 0 && !used.within(self.hosts[host].rentable())
    }

    pub(super) fn standing(&self, contract: usize) -> impl Iterator<Item = usize> + '_ {
        let stands = move |line: &LineM| line.contract == contract && line.live && !line.removed;
        self.lines.iter().enumerate().filter(move |(_, line)| stands(line)).map(|(at, _)| at)
    }

    /// Who asks for what is done with a contract.
    pub(super) fn owner(&self, contract: usize) -> usize {
        self.contracts[contract].owner
    }

    fn host_of(&self, line: &LineRequest) -> usize {
        self.hosts.iter().position(|h| h.id.to_string() == line.host).expect("a host of this history")
    }

    /// Does what was decided. `nodes` is what the service answered with: from there come the ids of nodes.
    pub(super) fn carry_out(&mut self, request: &Request, nodes: &[NodeModel], now: Ms) -> Result<(), String> {
        match request {
            Request::Claim { owner, request, key: _ } => {
                let scheduled = request.starts_ms.is_some_and(|starts| starts > now);
                self.contracts.push(ContractM {
                    id: request.id.expect("minted by the test"),
                    owner: *owner,
                    name: request.name.clone(),
                    state: if scheduled { ContractState::Scheduled } else { ContractState::Active },
                    starts: request.starts_ms,
                    ends: request.ends_ms,
                    grace: request.grace_ms.expect("given by the test"),
                    due: if scheduled { request.starts_ms } else { request.ends_ms },
                    generation: 1,
                    lines: i64::try_from(request.lines.len()).unwrap(),
                });
                self.add(self.contracts.len() - 1, &request.lines, nodes, now)?;
            }
            Request::Amend { contract, request, seen: _, key: _ } => self.amend(*contract, request, nodes, now)?,
            Request::Renew { contract: at, ends, key: _ } => {
                let contract = &mut self.contracts[*at];
                contract.ends = *ends;
                contract.generation += 1;
                let resumed = contract.state == ContractState::Ending;
                if contract.state == ContractState::Scheduled {
                    contract.due = contract.starts;
                } else {
                    (contract.state, contract.due) = (ContractState::Active, *ends);
                }
                if resumed {
                    self.resume(*at);
                }
            }
            Request::Release { contract } => self.release(*contract),
            Request::Power { line, wish, command: _, seen: _ } => {
                let line = &mut self.lines[*line];
                line.resumes = false;
                line.wished(wish.power);
            }
        }
        Ok(())
    }

    fn add(&mut self, contract: usize, lines: &[LineRequest], nodes: &[NodeModel], now: Ms) -> Result<(), String> {
        let scheduled = self.contracts[contract].starts.is_some_and(|starts| starts > now);
        for line in lines {
            let host = self.host_of(line);
            let line_id = line.id.expect("minted by the test");
            let node = nodes.iter().find(|n| n.line_id == line_id).ok_or("a claim that was granted has no node")?;
            let spec = line.size.unwrap_or_else(|| self.hosts[host].whole());
            let wished = line.power.unwrap_or(Power::On);
            self.lines.push(LineM {
                contract,
                host,
                line_id,
                node_id: node.id,
                name: line.name.clone(),
                spec,
                held: spec,
                power: if scheduled { Power::Off } else { wished },
                generation: 1,
                carried: 0,
                boot: 0,
                state: NodeState::Pending,
                removed: false,
                resumes: scheduled && wished == Power::On,
                stopped: false,
                resizing: None,
                revision: 1,
                live: true,
                meter: vec![Stretch { from: now, to: None, power: Power::Off, size: spec, name: line.name.clone() }],
                read: BTreeMap::new(),
            });
        }
        Ok(())
    }

    fn amend(&mut self, at: usize, request: &AmendRequest, nodes: &[NodeModel], now: Ms) -> Result<(), String> {
        let by_id = |model: &Self, wanted: &str| model.lines.iter().position(|l| l.line_id.to_string() == wanted);
        let changes: Vec<(usize, String, Size)> = request
            .change
            .iter()
            .filter_map(|change| {
                let line = by_id(self, &change.line)?;
                let (name, size) = self.then(line, change);
                let is = &self.lines[line];
                (name != is.name || size != is.spec).then_some((line, name, size))
            })
            .collect();
        let contract = &mut self.contracts[at];
        let name = request.name.clone().unwrap_or_else(|| contract.name.clone());
        if name == contract.name && changes.is_empty() && request.add.is_empty() && request.remove.is_empty() {
            return Ok(());
        }
        contract.name = name;
        contract.generation += 1;
        for (line, name, size) in changes {
            let line = &mut self.lines[line];
            line.revision += 1;
            if size != line.spec {
                line.resizing = Some(line.revision);
            }
            let held = line.held.zip(size, i64::max);
            if held != line.held || name != line.name {
                line.meter_as(now, |next| (next.size, next.name) = (held, name.clone()));
            }
            (line.spec, line.held, line.name) = (size, held, name);
        }
        for wanted in &request.remove {
            let line = by_id(self, wanted).ok_or("a line that went was never there")?;
            self.lines[line].tombstone();
        }
        self.add(at, &request.add, nodes, now)?;
        self.contracts[at].lines = i64::try_from(self.standing(at).count()).unwrap();
        Ok(())
    }

    fn resume(&mut self, contract: usize) {
        for line in self.standing(contract).collect::<Vec<_>>() {
            let line = &mut self.lines[line];
            if line.resumes {
                line.resumes = false;
                line.wished(Power::On);
            }
        }
    }

    fn release(&mut self, at: usize) {
        let contract = &mut self.contracts[at];
        if matches!(contract.state, ContractState::Releasing | ContractState::Released) {
            return;
        }
        (contract.state, contract.due) = (ContractState::Releasing, None);
        contract.generation += 1;
        for line in self.standing(at).collect::<Vec<_>>() {
            self.lines[line].tombstone();
        }
        self.close_if_empty(at);
    }

    fn close_if_empty(&mut self, at: usize) {
        let left = self.lines.iter().any(|line| line.contract == at && line.live);
        let contract = &mut self.contracts[at];
        if contract.state == ContractState::Releasing && !left {
            contract.state = ContractState::Released;
            contract.generation += 1;
        }
    }

    /// What time does to contracts.
    pub(super) fn terms(&mut self, now: Ms) {
        for at in 0..self.contracts.len() {
            while self.contracts[at].due.is_some_and(|due| due <= now) {
                let contract = &mut self.contracts[at];
                let ended = contract.ends.is_some_and(|ends| ends <= now);
                match (contract.state, ended) {
                    (ContractState::Scheduled, false) => {
                        (contract.state, contract.due) = (ContractState::Active, contract.ends);
                        contract.generation += 1;
                        self.resume(at);
                    }
                    (ContractState::Scheduled | ContractState::Active, _) => {
                        (contract.state, contract.due) = (ContractState::Ending, Some(now + contract.grace));
                        contract.generation += 1;
                        for line in self.standing(at).collect::<Vec<_>>() {
                            let line = &mut self.lines[line];
                            if line.power == Power::On {
                                line.wished(Power::Off);
                                line.resumes = true;
                            }
                        }
                    }
                    (ContractState::Ending | ContractState::Releasing | ContractState::Released, _) => self.release(at),
                }
            }
        }
    }

    /// What ops may wish of a host, and what comes of it.
    pub(super) fn wish(&mut self, at: usize, wish: HostWish) -> Result<(), Code> {
        let empty = self.used(at).1 == 0;
        let is = self.hosts[at].wish;
        match (is, wish) {
            (HostWish::Maintenance, HostWish::Draining) => return Err(Code::WrongState),
            (HostWish::InService | HostWish::Draining, HostWish::Maintenance) if !empty => return Err(Code::InUse),
            _ => {}
        }
        self.hosts[at].wish = wish;
        if is == HostWish::Draining && wish != is {
            self.lines.iter_mut().filter(|line| line.live && line.host == at).for_each(|line| line.stopped = false);
        }
        Ok(())
    }

    /// Ops stop a node.
    pub(super) fn stop(&mut self, host: usize, line: usize) -> Result<(), Code> {
        if self.hosts[host].wish != HostWish::Draining {
            return Err(Code::WrongState);
        }
        let line = &mut self.lines[line];
        if !line.live || line.host != host {
            return Err(Code::NotFound);
        }
        if !line.removed && !line.stopped {
            (line.resumes, line.stopped) = (false, true);
            line.wished(Power::Off);
        }
        Ok(())
    }

    /// An agent said something of a node.
    pub(super) fn observe(&mut self, at: usize, report: &Report, now: Ms) {
        let line = &mut self.lines[at];
        if !line.live {
            return;
        }
        let from_before = report.boot < line.boot || report.generation < line.carried;
        let from_before =
            from_before || (report.state == NodeState::Gone && line.removed && report.revision < line.revision);
        if !from_before && report.state == NodeState::Gone && line.removed {
            let last = line.meter.last_mut().expect("a line that stands is metered");
            last.to = Some(now.max(last.from));
            line.live = false;
            let contract = line.contract;
            self.close_if_empty(contract);
            return;
        }
        if !from_before {
            let never = matches!(line.state, NodeState::Pending | NodeState::Failed);
            let state = match report.state {
                NodeState::Gone if never => line.state,
                NodeState::Gone => NodeState::Failed,
                state => {
                    (line.carried, line.boot) = (report.generation, report.boot);
                    state
                }
            };
            if state.metered_as() != line.state.metered_as() {
                line.meter_as(now, |next| next.power = state.metered_as());
            }
            line.state = state;
        }
        if line.resizing.is_some_and(|wanted| report.sized >= wanted) {
            line.resizing = None;
            if line.held != line.spec {
                let spec = line.spec;
                line.held = spec;
                line.meter_as(now, |next| next.size = spec);
            }
        }
    }

    /// An agent read a counter: only what is new counts.
    pub(super) fn read(&mut self, line: usize, boot: i64, seq: i64, cpu: i64) {
        let line = &mut self.lines[line];
        let newest = line.read.entry(boot).or_insert((i64::MIN, 0));
        if line.live && seq > newest.0 {
            *newest = (seq, cpu);
        } else if newest.0 == i64::MIN {
            line.read.remove(&boot);
        }
    }
}
