//! RContracts: checked at the edge, then admitted in groups.

use std::collections::HashSet;

use serde::Serialize;
use yiqiu_base::{
    Clock, Code, Id, NodeType, Power, Principal, Problem, Size,
    clock::Ms,
    http::{Page, Paging},
    id::{Line, RContract},
    idempotency::Key,
    name,
    principal::Role,
    telemetry::request_id,
};

use super::{Service, scope};
use crate::{
    lifecycle::{amend::LINES_MOST, full::with_holders, term, whole_hosts_are_for_ops},
    model::{
        By, ContractModel, Forecast, LineUsage, NewContract, NewLine, NodeModel, NodeSpec, Port, Runtime, Term,
        Variable,
    },
    store::{Admission, Admitted, NodeFilter, Store, contract_of},
};

/// One line as it is asked for.
#[derive(Debug, Clone, Serialize)]
pub struct LineRequest {
    /// Minted by the caller, or here.
    pub id: Option<Id<Line>>,
    /// Unique in its contract.
    pub name: String,
    /// The host, by name or id.
    pub host: String,
    /// What the host has to be cut as.
    pub node_type: Option<NodeType>,
    /// The image, by name or id.
    pub image: Option<String>,
    /// What to run.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: Vec<Variable>,
    /// Ports to publish.
    pub ports: Vec<Port>,
    /// How much of the host; left out: the whole of a host cut as `bm`.
    pub size: Option<Size>,
    /// How it runs.
    pub runtime: Runtime,
    /// Whether it starts at once; `on` if left out.
    pub power: Option<Power>,
    /// Give back cpu and memory while it is off: power-on can be refused then.
    pub release_while_off: bool,
}

/// A contract as it is asked for.
#[derive(Debug, Clone, Serialize)]
pub struct ContractRequest {
    /// Minted by the caller, or here.
    pub id: Option<Id<RContract>>,
    /// Unique among its owner's until released.
    pub name: String,
    /// All of them, or none.
    pub lines: Vec<LineRequest>,
    /// When its nodes start; left out: at once.
    pub starts_ms: Option<Ms>,
    /// When it ends; left out: never.
    pub ends_ms: Option<Ms>,
    /// How long after its end it can be renewed; left out: as the server is set up.
    pub grace_ms: Option<Ms>,
    /// Why, for its history.
    pub reason: String,
}

impl ContractRequest {
    /// From now on, without an end.
    pub fn open(id: Option<Id<RContract>>, name: &str, lines: &[LineRequest]) -> Self {
        Self {
            id,
            name: name.to_owned(),
            lines: lines.to_vec(),
            starts_ms: None,
            ends_ms: None,
            grace_ms: None,
            reason: String::new(),
        }
    }
}

/// The longest reason, in bytes.
const REASON_MOST: usize = 500;

/// Checks what a person gives as the reason of a change.
pub(super) fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.len() > REASON_MOST || reason.chars().any(char::is_control) {
        return Err(Problem::invalid(format!("a reason is one line of at most {REASON_MOST} bytes")));
    }
    Ok(())
}

/// Decides a group, in rounds in which nothing is asked twice: the second to ask learns what became of the first.
pub(super) async fn admit_group(store: &Store, group: &[Admission], clock: &Clock) -> Vec<Result<Admitted, Problem>> {
    metrics::histogram!("yiqiu_claim_group").record(u32::try_from(group.len()).unwrap_or(u32::MAX));
    let mut verdicts: Vec<Option<Result<Admitted, Problem>>> = vec![None; group.len()];
    let mut waiting: Vec<usize> = (0..group.len()).collect();
    while !waiting.is_empty() {
        let round = without_repeats(group, &mut waiting);
        let asked: Vec<&Admission> = round.iter().map(|at| &group[*at]).collect();
        for (at, verdict) in round.into_iter().zip(admit_round(store, &asked, clock).await) {
            verdicts[at] = Some(verdict);
        }
    }
    verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(no_verdict)).collect()
}

/// Takes those out of `waiting` that share no id, name or key with one before them.
fn without_repeats(group: &[Admission], waiting: &mut Vec<usize>) -> Vec<usize> {
    let (mut ids, mut names, mut keys) = (HashSet::new(), HashSet::new(), HashSet::new());
    waiting
        .extract_if(.., |at| {
            let Admission { contract, key, request_id: _ } = &group[*at];
            let key = key.as_ref().map(|k| (k.scope.as_str(), k.key.as_str()));
            let name = (contract.owner.as_str(), contract.name.as_str());
            let fresh = !ids.contains(&contract.id) && !names.contains(&name) && key.is_none_or(|k| !keys.contains(&k));
            ids.insert(contract.id);
            names.insert(name);
            keys.extend(key);
            fresh
        })
        .collect()
}

/// If a round fails as a whole, each is decided alone, so that nobody fails for a neighbour.
async fn admit_round(store: &Store, round: &[&Admission], clock: &Clock) -> Vec<Result<Admitted, Problem>> {
    match store.contract_admit(round, clock.now()).await {
        Ok(verdicts) => verdicts,
        Err(problem) if round.len() == 1 || problem.code == Code::Unavailable => vec![Err(problem); round.len()],
        Err(_) => {
            let mut verdicts = Vec::with_capacity(round.len());
            for one in round {
                let verdict = store.contract_admit(&[*one], clock.now()).await;
                verdicts.push(verdict.and_then(|mut v| v.pop().unwrap_or_else(no_verdict)));
            }
            verdicts
        }
    }
}

fn no_verdict() -> Result<Admitted, Problem> {
    Err(Problem::internal("a contract of the group has no verdict"))
}

impl Service {
    /// Claims every line from now on, without an end: see [`Service::contract_lease`].
    pub async fn contract_create(
        &self,
        who: &Principal,
        id: Option<Id<RContract>>,
        name: &str,
        lines: &[LineRequest],
        key: Option<&str>,
    ) -> Result<(ContractModel, Vec<NodeModel>), Problem> {
        self.contract_lease(who, &ContractRequest::open(id, name, lines), key).await
    }

    /// Claims every line, or none. The same id or the same key again answers with the contract that is there. A contract
    /// that starts later holds its claims from now on; its nodes are made, and start when the start comes.
    pub async fn contract_lease(
        &self,
        who: &Principal,
        request: &ContractRequest,
        key: Option<&str>,
    ) -> Result<(ContractModel, Vec<NodeModel>), Problem> {
        let scope = format!("{} {}", who.subject, who.owner);
        let key = key.map(|key| Key::new(&scope, "rcontract", key, request)).transpose()?;
        let mut contract = self.contract_checked(who, request).await?;
        let admission = Admission { contract: contract.clone(), key, request_id: request_id() };
        let admitted = match self.0.admissions.ask(admission).await {
            Ok(admitted) => admitted,
            Err(problem) => return Err(self.explained(who, problem).await),
        };
        let Some(made) = admitted.nodes.first() else {
            return self.contract_get(who, &admitted.id.to_string()).await;
        };
        metrics::counter!("yiqiu_claims_total").increment(admitted.nodes.len() as u64);
        contract.id = admitted.id;
        let contract = contract_of(&contract, made.changed_ms);
        if contract.due_ms.is_some() {
            self.0.terms.wake();
        }
        Ok((contract, admitted.nodes))
    }

    /// What [`Service::contract_create`] would say now, without claiming.
    pub async fn contract_dry_run(&self, who: &Principal, request: &ContractRequest) -> Result<Forecast, Problem> {
        let contract = self.contract_checked(who, request).await?;
        match self.store().contract_dry_run(&contract, self.now()).await {
            Err(problem) => Err(self.explained(who, problem).await),
            forecast => forecast,
        }
    }

    async fn contract_checked(&self, who: &Principal, request: &ContractRequest) -> Result<NewContract, Problem> {
        let ContractRequest { id, name, lines, starts_ms, ends_ms, grace_ms, reason } = request;
        let owner = who.owner()?.to_owned();
        name::check("rcontract", name)?;
        check_reason(reason)?;
        let grace = i64::try_from(self.settings().grace.as_millis()).unwrap_or(i64::MAX);
        let term = Term { starts_ms: *starts_ms, ends_ms: *ends_ms, grace_ms: grace_ms.unwrap_or(grace) };
        term::check(term)?;
        if lines.is_empty() || lines.len() > LINES_MOST {
            return Err(Problem::invalid(format!("a contract has 1 to {LINES_MOST} lines, not {}", lines.len())));
        }
        let (mut names, mut ids) = (HashSet::with_capacity(lines.len()), HashSet::new());
        let mut checked = Vec::with_capacity(lines.len());
        for line in lines {
            name::check("line", &line.name)?;
            if !names.insert(line.name.as_str()) {
                return Err(Problem::new(Code::AlreadyExists, format!("two lines are named `{}`", line.name)));
            }
            if line.id.is_some_and(|id| !ids.insert(id)) {
                return Err(Problem::new(
                    Code::AlreadyExists,
                    format!("the id of line `{}` is there twice", line.name),
                ));
            }
            checked.push(self.line_checked(who, line).await?);
        }
        Ok(NewContract {
            id: id.unwrap_or_else(Id::new),
            name: name.clone(),
            owner,
            created_by: who.subject.clone(),
            reason: reason.clone(),
            term,
            // What runs on a whole host is not kept from the host itself: see docs/decisions.
            whole_hosts: who.role == Role::Ops,
            lines: checked,
        })
    }

    pub(super) async fn line_checked(&self, who: &Principal, line: &LineRequest) -> Result<NewLine, Problem> {
        check_spec(line)?;
        // A line with an image, a size and a host's id needs nothing from the database before its admission.
        let host_id = line.host.parse::<uuid::Uuid>().ok().map(Id::from);
        let (host_id, size) = match (host_id, line.size, &line.image) {
            (Some(host_id), Some(size), Some(_)) => (host_id, size),
            _ => {
                let host = self.store().host_get(&line.host).await?;
                if host.node_type == Some(NodeType::Cm) && line.image.is_none() {
                    return Err(Problem::invalid(format!("line {} has no image: a container needs one", line.name)));
                }
                let whole = match host.node_type {
                    Some(NodeType::Bm) if who.role != Role::Ops => {
                        return Err(whole_hosts_are_for_ops(&line.name, &host));
                    }
                    // What it would be of an empty host: whether it is empty is for the admission to say, which
                    // knows as well if the same request has it already.
                    Some(NodeType::Bm) => Some(host.rentable().minus(host.node_overhead)),
                    _ => None,
                };
                let size = line.size.or(whole).ok_or_else(|| {
                    Problem::invalid(format!("line {} has no size: only a host cut as bm is claimed whole", line.name))
                })?;
                (host.id, size)
            }
        };
        size.check(&format!("line {}", line.name))?;
        line.runtime.check(size).map_err(|why| Problem::invalid(format!("line {}: {why}", line.name)))?;
        let image = match &line.image {
            Some(image) => Some(self.image_for_line(who, image).await?),
            None => None,
        };
        let power = match line.power.unwrap_or(Power::On) {
            Power::Hibernated => return Err(Problem::invalid("a new node is on or off, not hibernated")),
            power => power,
        };
        Ok(NewLine {
            id: line.id.unwrap_or_else(Id::new),
            name: line.name.clone(),
            host_id,
            node_type: line.node_type,
            spec: NodeSpec {
                image_id: image.as_ref().map(|i| i.id),
                image_sha256: image.map(|i| i.sha256).unwrap_or_default(),
                command: line.command.clone(),
                environment: line.environment.clone(),
                ports: line.ports.clone(),
                size,
                runtime: line.runtime.clone(),
            },
            power,
            release_while_off: line.release_while_off,
        })
    }

    /// By id, or by name among those not released.
    pub async fn contract_get(
        &self,
        who: &Principal,
        name_or_id: &str,
    ) -> Result<(ContractModel, Vec<NodeModel>), Problem> {
        let contract = self.contract_find(who, name_or_id).await?;
        let filter = NodeFilter { rcontract: Some(contract.id), ..NodeFilter::default() };
        let all = Paging { cursor: None, limit: Some(1000) };
        let nodes = self.store().node_list(&filter, &all).await?;
        Ok((contract, nodes))
    }

    /// The same, with what each line reserved and really used.
    pub async fn contract_get_used(
        &self,
        who: &Principal,
        name_or_id: &str,
    ) -> Result<(ContractModel, Vec<NodeModel>, Vec<LineUsage>), Problem> {
        let (contract, nodes) = self.contract_get(who, name_or_id).await?;
        let usage = self.store().line_usage(contract.id, self.now()).await?;
        Ok((contract, nodes, usage))
    }

    /// The refusal of a full host with who holds it, as far as the asker may know.
    pub(super) async fn explained(&self, who: &Principal, problem: Problem) -> Problem {
        let host =
            problem.data.as_ref().and_then(|data| data.pointer("/host/id")?.as_str()?.parse::<uuid::Uuid>().ok());
        let (Code::HostFull, Some(host)) = (problem.code, host) else { return problem };
        match self.store().host_holders(Id::from(host)).await {
            Ok(holders) => with_holders(problem, holders, scope(who)),
            Err(_) => problem, // the refusal stands without it
        }
    }

    pub(super) async fn contract_find(&self, who: &Principal, name_or_id: &str) -> Result<ContractModel, Problem> {
        let contract = match name_or_id.parse::<uuid::Uuid>() {
            Ok(id) => self.store().contract_get(id.into()).await?,
            Err(_) => self.store().contract_by_name(name_or_id, scope(who)).await?,
        };
        if who.may_touch(&contract.owner) { Ok(contract) } else { Err(Problem::not_found("rcontract", name_or_id)) }
    }

    /// In the order of making.
    pub async fn contract_list(
        &self,
        who: &Principal,
        paging: &Paging,
        created_before_ms: Option<Ms>,
        released: bool,
    ) -> Result<Page<ContractModel>, Problem> {
        let contracts = self.store().contract_list(paging, scope(who), created_before_ms, released).await?;
        Ok(Page::of(contracts, paging, |c| c.id.to_string()))
    }

    /// Asks for the release of a contract. Its claims end as its nodes are verified gone.
    pub async fn contract_release(&self, who: &Principal, name_or_id: &str) -> Result<ContractModel, Problem> {
        self.contract_release_for(who, name_or_id, "").await
    }

    /// The same, with a reason for its history.
    pub async fn contract_release_for(
        &self,
        who: &Principal,
        name_or_id: &str,
        reason: &str,
    ) -> Result<ContractModel, Problem> {
        check_reason(reason)?;
        let contract = self.contract_find(who, name_or_id).await?;
        let by = By { who: &who.subject, reason };
        let nodes = self.store().contract_release(contract.id, by, self.now()).await?;
        self.push(&nodes);
        self.store().contract_get(contract.id).await
    }
}

/// Checks what runs in a node: bounded, and without what a command line or an environment cannot hold.
fn check_spec(line: &LineRequest) -> Result<(), Problem> {
    let refuse = |what: String| Err(Problem::invalid(format!("line {}: {what}", name::shown(&line.name))));
    let text: usize = line.command.iter().map(String::len).sum::<usize>()
        + line.environment.iter().map(|v| v.name.len() + v.value.len()).sum::<usize>();
    if line.command.len() > 256 || line.environment.len() > 256 || text > 64 << 10 {
        return refuse("command and environment have at most 256 entries each and 64 KiB in all".to_owned());
    }
    if line.command.iter().any(|c| c.contains('\0')) || line.command.first().is_some_and(String::is_empty) {
        return refuse("the command has no NUL character and does not begin with an empty word".to_owned());
    }
    for variable in &line.environment {
        let head = |c: char| c.is_ascii_alphabetic() || c == '_';
        let good = variable.name.starts_with(head) && variable.name.chars().all(|c| head(c) || c.is_ascii_digit());
        if !good || variable.value.contains('\0') {
            return refuse(format!("`{}` cannot be an environment variable", name::shown(&variable.name)));
        }
    }
    let mut ports = HashSet::new();
    if line.ports.len() > 64 {
        return refuse("at most 64 ports".to_owned());
    }
    for port in &line.ports {
        if port.node_port == 0 || !ports.insert(port.node_port) {
            return refuse(format!("port {} is zero or there twice", port.node_port));
        }
        if port.host_address != "127.0.0.1" {
            return refuse("ports are published on 127.0.0.1 only".to_owned());
        }
    }
    Ok(())
}
