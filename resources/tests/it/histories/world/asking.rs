//! Requests: named once, sent however often, and compared with what the model decides.

use std::pin::pin;

use futures::poll;
use yiqiu_base::{Code, Id, Power, Problem, http::Paging};
use yiqiu_resources::{
    Service,
    model::{ContractState, LineChange, NodeModel, SizeChange, Wish},
    service::{AmendRequest, ContractRequest, LineRequest},
};

use super::{
    super::{
        model::{ContractM, Model, OPS, Request},
        script::{Ask, Pick, Switch, Wanted},
    },
    World, who,
};
use crate::support::{line, size};

const ALL: Paging = Paging { cursor: None, limit: Some(1000) };

impl World {
    pub(super) fn picked_line(&self, pick: Pick) -> Option<usize> {
        let live: Vec<usize> = (0..self.model.lines.len()).filter(|line| self.model.lines[*line].live).collect();
        let stay: Vec<usize> = live.iter().copied().filter(|line| !self.model.lines[*line].removed).collect();
        rather(pick, &stay, &live)
    }

    fn picked_contract(&self, pick: Pick) -> Option<usize> {
        let over = |state| matches!(state, ContractState::Releasing | ContractState::Released);
        let all: Vec<usize> = (0..self.model.contracts.len()).collect();
        let stand: Vec<usize> = all.iter().copied().filter(|at| !over(self.model.contracts[*at].state)).collect();
        rather(pick, &stand, &all)
    }

    fn wanted(&self, owner: usize, wanted: &Wanted) -> LineRequest {
        // A tenant rarely asks for a whole host: the one that is cut as `bm` comes last.
        let shared = owner != OPS && !wanted.host.is_multiple_of(16);
        let host = if shared { wanted.host as usize % (self.model.hosts.len() - 1) } else { self.host(wanted.host) };
        let host = &self.model.hosts[host];
        LineRequest {
            id: Some(Id::new()),
            host: host.id.to_string(),
            size: (!host.bm || owner != OPS).then(|| size(wanted.cpu, wanted.memory)),
            power: Some(if wanted.on { Power::On } else { Power::Off }),
            ..line(&format!("l{}", wanted.name), &self.template, size(1, 1))
        }
    }

    /// A request as it will be sent, however often.
    pub(super) fn named(&self, ask: &Ask) -> Option<Request> {
        let (now, key) = (self.now(), format!("k{}", self.asked.len()));
        Some(match ask {
            Ask::Claim { owner, name, lines, starts, ends, grace, key: keyed } => {
                let owner = *owner as usize % (OPS + 1);
                let mut names = std::collections::HashSet::new();
                let lines = lines.iter().filter(|line| names.insert(line.name));
                let lines: Vec<LineRequest> = lines.map(|line| self.wanted(owner, line)).collect();
                let request = ContractRequest {
                    starts_ms: starts.map(|starts| now + starts),
                    ends_ms: ends.map(|ends| now + ends),
                    grace_ms: Some(*grace),
                    ..ContractRequest::open(Some(Id::new()), &format!("c{name}"), &lines)
                };
                Request::Claim { owner, request, key: keyed.then_some(key) }
            }
            Ask::Amend { contract, remove, change, add, name, stale } => {
                let contract = self.picked_contract(*contract)?;
                let standing: Vec<usize> = self.model.standing(contract).collect();
                let line = |pick: &Pick| {
                    let line = standing.get(*pick as usize % standing.len().max(1))?;
                    Some(self.model.lines[*line].line_id.to_string())
                };
                let change = change.iter().filter_map(|other| {
                    let (cpu_millicores, memory_bytes) = other.size.unzip();
                    let size = SizeChange { cpu_millicores, memory_bytes, ..SizeChange::default() };
                    let size = other.size.map(|_| size);
                    let name = other.name.map(|name| format!("l{name}"));
                    let changes = size.is_some() || name.is_some();
                    changes.then(|| Some(LineChange { line: line(&other.line)?, name, size })).flatten()
                });
                let mut change: Vec<LineChange> = change.collect();
                let mut remove: Vec<String> = remove.iter().filter_map(line).collect();
                if !stale {
                    // A line that is named twice refuses all of it.
                    let mut named = std::collections::HashSet::new();
                    change.retain(|change| named.insert(change.line.clone()));
                    remove.retain(|line| named.insert(line.clone()));
                }
                let owner = self.model.owner(contract);
                let request = AmendRequest {
                    name: name.map(|name| format!("c{name}")),
                    remove,
                    change,
                    add: add.iter().map(|wanted| self.wanted(owner, wanted)).collect(),
                    ..AmendRequest::default()
                };
                let empty = request.name.is_none() && request.remove.is_empty();
                if empty && request.change.is_empty() && request.add.is_empty() {
                    return None;
                }
                let seen = stale.then(|| self.model.contracts[contract].generation - 1);
                Request::Amend { contract, request, seen, key }
            }
            Ask::Renew { contract, ends } => {
                Request::Renew { contract: self.picked_contract(*contract)?, ends: ends.map(|ends| now + ends), key }
            }
            Ask::Release { contract } => Request::Release { contract: self.picked_contract(*contract)? },
            Ask::Power { node, switch, command, stale } => {
                let line = self.picked_line(*node)?;
                let wish = match switch {
                    Switch::On => Power::On.into(),
                    Switch::Off => Power::Off.into(),
                    Switch::Reboot => Wish::reboot(None),
                };
                let seen = stale.then(|| self.model.lines[line].generation - 1);
                Request::Power { line, wish, command: command.then(Id::new), seen }
            }
        })
    }

    pub(super) async fn ask(&mut self, at: usize) -> Result<(), String> {
        let (request, done) = self.asked[at].clone();
        let expected = self.expected(&request, done);
        let answer = send(&self.service(), &self.model, &request).await;
        agree(&answer, expected)?;
        let kind = match &request {
            _ if done => "again",
            Request::Claim { .. } => "claim",
            Request::Amend { .. } => "amend",
            Request::Renew { .. } => "renew",
            Request::Release { .. } => "release",
            Request::Power { .. } => "power",
        };
        self.tally.entry(kind).or_default()[usize::from(answer.is_err())] += 1;
        if let (Ok(nodes), false) = (&answer, done) {
            self.carried_out(at, &request, nodes)?;
        }
        Ok(())
    }

    fn expected(&self, request: &Request, done: bool) -> Result<(), Code> {
        match request {
            // Done before, its node may be gone since.
            Request::Power { line, .. } if done && self.model.lines[*line].live => Ok(()),
            Request::Power { .. } if done => Err(Code::NotFound),
            _ if done => Ok(()),
            _ => self.model.decide(request, self.now()),
        }
    }

    fn carried_out(&mut self, at: usize, request: &Request, nodes: &[NodeModel]) -> Result<(), String> {
        let now = self.now();
        self.model.carry_out(request, nodes, now)?;
        self.asked[at].1 = true;
        for line in self.line_of.len()..self.model.lines.len() {
            self.line_of.insert(self.model.lines[line].node_id, line);
        }
        Ok(())
    }

    /// The server goes down somewhere in the middle of a request. Whoever asked asks again: it is carried out once.
    pub(super) async fn ask_over_crash(&mut self, at: usize, polls: u8) -> Result<(), String> {
        if let Request::Power { command, .. } = &mut self.asked[at].0 {
            command.get_or_insert_with(Id::new);
        }
        let request = self.asked[at].0.clone();
        let before = self.expected(&request, false);
        {
            let service = self.service();
            let mut asking = pin!(send(&service, &self.model, &request));
            for _ in 0..polls {
                if poll!(asking.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        self.down(false).await;
        let answer = send(&self.service(), &self.model, &request).await;
        match (&answer, before) {
            (Ok(nodes), Ok(())) => {
                self.carried_out(at, &request, nodes)?;
                self.model_down();
                Ok(())
            }
            _ => {
                self.model_down();
                agree(&answer, self.expected(&request, false))?;
                if let Ok(nodes) = &answer {
                    self.carried_out(at, &request, nodes)?;
                }
                Ok(())
            }
        }
    }
}

/// Mostly one of the first, at times any.
fn rather(pick: Pick, first: &[usize], all: &[usize]) -> Option<usize> {
    let from = if first.is_empty() || pick.is_multiple_of(10) { all } else { first };
    (!from.is_empty()).then(|| from[pick as usize / 10 % from.len()])
}

async fn send(service: &Service, model: &Model, request: &Request) -> Result<Vec<NodeModel>, Problem> {
    let of = |contract: usize| (who(model.owner(contract)), model.contracts[contract].id.to_string());
    match request {
        Request::Claim { owner, request, key } => {
            Ok(service.contract_lease(&who(*owner), request, key.as_deref()).await?.1)
        }
        Request::Amend { contract, request, seen, key } => {
            let (who, id) = of(*contract);
            Ok(service.contract_amend(&who, &id, request, *seen, Some(key)).await?.1)
        }
        Request::Renew { contract, ends, key } => {
            let (who, id) = of(*contract);
            Ok(service.contract_renew(&who, &id, *ends, "", None, Some(key)).await?.1)
        }
        Request::Release { contract } => {
            let (who, id) = of(*contract);
            service.contract_release(&who, &id).await?;
            Ok(Vec::new())
        }
        Request::Power { line, wish, command, seen } => {
            let line = &model.lines[*line];
            let who = who(model.owner(line.contract));
            Ok(vec![service.node_power(&who, line.node_id, *wish, *command, *seen).await?])
        }
    }
}

/// Whether an answer is the one that should be.
pub(super) fn agree<T>(answer: &Result<T, Problem>, expected: Result<(), Code>) -> Result<(), String> {
    match (answer, expected) {
        (Ok(_), Ok(())) => Ok(()),
        (Err(problem), Err(code)) if problem.code == code => Ok(()),
        (Ok(_), Err(code)) => Err(format!("it was granted, and should be refused as {code:?}")),
        (Err(problem), Ok(())) => Err(format!("it was refused, and should be granted: {problem}")),
        (Err(problem), Err(code)) => {
            Err(format!("it was refused as {:?} rather than {code:?}: {problem}", problem.code))
        }
    }
}

/// What is read of one tenant's things by another: nothing.
pub(in super::super) async fn foreign(service: &Service, model: &Model, contract: usize) -> Result<(), String> {
    let owner = model.owner(contract);
    let id = model.contracts[contract].id.to_string();
    for other in (0..OPS).filter(|other| *other != owner) {
        let who = who(other);
        let name = &model.contracts[contract].name;
        let mine = |c: &ContractM| c.owner == other && c.name == *name;
        let refused = service.contract_get(&who, &id).await.err().map(|problem| problem.code);
        if refused != Some(Code::NotFound) {
            return Err(format!("the rcontract {id} of another is shown: {refused:?}"));
        }
        if let Ok((found, _)) = service.contract_get(&who, name).await
            && !model.contracts.iter().any(|c| mine(c) && c.id == found.id)
        {
            return Err(format!("by its name `{name}` the rcontract of another is found"));
        }
        let listed = service.contract_list(&who, &ALL, None, true).await.map_err(|problem| problem.to_string())?;
        let label = who.owner.as_str();
        if let Some(theirs) = listed.items.iter().find(|c| c.owner != label) {
            return Err(format!("{label} is shown the rcontract {} of {}", theirs.name, theirs.owner));
        }
        for line in model.lines.iter().filter(|line| line.contract == contract) {
            if service.node_get(&who, line.node_id).await.is_ok() {
                return Err(format!("{label} is shown the node {} of another", line.name));
            }
        }
    }
    Ok(())
}
