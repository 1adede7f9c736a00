//! The admission of contracts: many in one transaction, each whole or not at all.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use yiqiu_base::{
    Code, Health, Id, NodeState, NodeType, Power, Problem, Size,
    clock::Ms,
    database::{Transaction, inserts, is_duplicate, is_reference, sql},
    id::{Host, Node, RContract},
    idempotency::{self, Key},
    outbox::NewEvent,
};
use yiqiu_proto::resources::SegmentOpened;

use super::{
    Store,
    contract::contract_payload,
    host::host_locked,
    rows::{CONTRACT, ContractRow},
};
use crate::{
    lifecycle::{admit, amend::forecast, hosts_named, term::begin},
    model::{By, ContractModel, ContractState, Forecast, Hold, HostModel, NewContract, NewLine, NodeModel},
};

/// A contract that waits for admission.
#[derive(Debug, Clone)]
pub struct Admission {
    /// What is asked for.
    pub contract: NewContract,
    /// Once and no more under this key.
    pub key: Option<Key>,
    /// The request that asks.
    pub request_id: String,
}

/// What came of an admission.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The contract: a new one, or the one that the same request made before.
    pub id: Id<RContract>,
    /// The new nodes; none if the contract was there.
    pub nodes: Vec<NodeModel>,
}

impl Store {
    /// Decides a group of contracts in one transaction. A refusal of one leaves the others alone. No two of the group
    /// have the same id, name or key: what is asked twice is decided after the first is.
    pub async fn contract_admit(
        &self,
        group: &[&Admission],
        now: Ms,
    ) -> Result<Vec<Result<Admitted, Problem>>, Problem> {
        let mut transaction = self.database.begin().await?;
        let mut verdicts: Vec<Option<Result<Admitted, Problem>>> = vec![None; group.len()];

        let fresh = self.keys_kept(&transaction, group, now, &mut verdicts).await?;
        let fresh = self.contracts_inserted(&transaction, group, fresh, now, &mut verdicts).await?;

        let asked: Vec<&NewContract> = fresh.iter().map(|at| &group[*at].contract).collect();
        let mut hosts: HashMap<Id<Host>, HostModel> =
            host_locked(&transaction, &hosts_named(&asked)).await?.into_iter().map(|h| (h.id, h)).collect();
        let before: HashMap<Id<Host>, (Size, i64)> = hosts.iter().map(|(id, h)| (*id, (h.used, h.nodes))).collect();

        let mut admitted = Vec::with_capacity(fresh.len());
        for (at, verdict) in fresh.iter().zip(admit(&asked, &mut hosts)) {
            match verdict {
                Ok(()) => admitted.push(*at),
                Err(problem) => {
                    contract_forget(&transaction, group[*at]).await?;
                    verdicts[*at] = Some(Err(problem));
                }
            }
        }
        hosts_charged(&transaction, &hosts, &before).await?;
        let mut made = Vec::with_capacity(admitted.len());
        for at in &admitted {
            let admission = group[*at];
            let node = |line: &NewLine| Some(node_of(admission, line, hosts.get(&line.host_id)?, now));
            made.push(admission.contract.lines.iter().filter_map(node).collect::<Vec<NodeModel>>());
        }
        lines_inserted(&mut transaction, group, &admitted, &made, now)?;
        for (at, nodes) in admitted.into_iter().zip(made) {
            created(&mut transaction, group[at], now);
            verdicts[at] = Some(Ok(Admitted { id: group[at].contract.id, nodes }));
        }
        transaction.commit().await.map_err(line_refused)?;
        let undecided = || Err(Problem::internal("a contract of the group has no verdict"));
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(undecided)).collect())
    }

    /// Keeps the idempotency keys; returns which of the group are to be decided.
    async fn keys_kept(
        &self,
        transaction: &Transaction,
        group: &[&Admission],
        now: Ms,
        verdicts: &mut [Option<Result<Admitted, Problem>>],
    ) -> Result<Vec<usize>, Problem> {
        let keyed: Vec<usize> = (0..group.len()).filter(|at| group[*at].key.is_some()).collect();
        let results: Vec<(&Key, String)> = keyed
            .iter()
            .filter_map(|at| group[*at].key.as_ref().map(|k| (k, group[*at].contract.id.to_string())))
            .collect();
        let new = idempotency::keep_new(&**transaction, &results, now).await?;
        for (at, _) in keyed.iter().zip(new).filter(|(_, new)| !new) {
            let Some(key) = &group[*at].key else { continue };
            let kept = idempotency::kept(&**transaction, &[key]).await?;
            verdicts[*at] = Some(match kept.first().map(|kept| kept.replay(key).and_then(Id::parse)) {
                Some(Ok(id)) => Ok(Admitted { id, nodes: Vec::new() }),
                Some(Err(problem)) => Err(problem),
                None => Err(Problem::internal("an idempotency key was kept and is gone")),
            });
        }
        Ok((0..group.len()).filter(|at| verdicts[*at].is_none()).collect())
    }

    /// Inserts the contracts whose id and name are new; returns which.
    async fn contracts_inserted(
        &self,
        transaction: &Transaction,
        group: &[&Admission],
        fresh: Vec<usize>,
        now: Ms,
        verdicts: &mut [Option<Result<Admitted, Problem>>],
    ) -> Result<Vec<usize>, Problem> {
        let mut standing = Vec::with_capacity(fresh.len());
        for at in fresh {
            match begin(group[at].contract.term, now) {
                Ok(_) => standing.push(at),
                Err(problem) => {
                    // Asked again after its end came, it is there all the same.
                    let there = contract_there(transaction, group[at], now).await?;
                    verdicts[at] = Some(there.map_err(|_| problem));
                }
            }
        }
        let fresh = standing;
        if fresh.is_empty() {
            return Ok(fresh);
        }
        let text = format!(
            "INSERT INTO rcontract (id, name, owner, state, lines, starts_ms, ends_ms, grace_ms, due_ms, generation, \
             created_ms, created_by, reason) VALUES {} ON CONFLICT DO NOTHING RETURNING id",
            vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)"; fresh.len()].join(", ")
        );
        let values = fresh.iter().flat_map(|at| {
            let contract = contract_of(&group[*at].contract, now);
            [
                contract.id.uuid().into(),
                contract.name.into(),
                contract.owner.into(),
                contract.state.as_str().into(),
                contract.lines.into(),
                contract.term.starts_ms.into(),
                contract.term.ends_ms.into(),
                contract.term.grace_ms.into(),
                contract.due_ms.into(),
                now.into(),
                contract.created_by.into(),
                contract.reason.into(),
            ]
        });
        let rows = transaction.query_all_raw(sql(self.database.backend(), &text, values)).await?;
        let mut inserted = std::collections::HashSet::with_capacity(rows.len());
        for row in rows {
            inserted.insert(Id::from(row.try_get::<uuid::Uuid>("", "id")?));
        }
        let mut left = Vec::with_capacity(fresh.len());
        for at in fresh {
            // The same id twice in one group is inserted once: `remove` tells the first from the others.
            if inserted.remove(&group[at].contract.id) {
                left.push(at);
            } else {
                verdicts[at] = Some(contract_there(transaction, group[at], now).await?);
            }
        }
        Ok(left)
    }

    /// Decides without claiming: what an admission would say now.
    pub async fn contract_dry_run(&self, contract: &NewContract, now: Ms) -> Result<Forecast, Problem> {
        begin(contract.term, now)?;
        let transaction = self.database.begin().await?;
        let hosts = host_locked(&transaction, &hosts_named(&[contract])).await?;
        drop(transaction);
        let hosts: HashMap<Id<Host>, HostModel> = hosts.into_iter().map(|h| (h.id, h)).collect();
        let mut then = hosts.clone();
        admit(&[contract], &mut then).into_iter().collect::<Result<(), Problem>>()?;
        Ok(forecast(&hosts, &then, None))
    }
}

/// The verdict on a contract whose id or name is there already.
async fn contract_there(
    transaction: &Transaction,
    admission: &Admission,
    now: Ms,
) -> Result<Result<Admitted, Problem>, Problem> {
    let wanted = &admission.contract;
    let text = format!("SELECT {CONTRACT} FROM rcontract WHERE id = ?");
    let statement = sql(transaction.get_database_backend(), &text, [wanted.id.uuid().into()]);
    let there = ContractRow::find_by_statement(statement).one(&**transaction).await?;
    let there: Option<ContractModel> = there.map(TryInto::try_into).transpose()?;
    Ok(match there {
        Some(there)
            // What changed since it was made is no reason to take the same request for another.
            if there.owner == wanted.owner
                && (there.generation > 1
                    || (there.name == wanted.name && there.lines == contract_of(wanted, now).lines)) =>
        {
            Ok(Admitted { id: there.id, nodes: Vec::new() })
        }
        Some(_) => {
            if let Some(key) = &admission.key {
                idempotency::forget(&**transaction, key).await?;
            }
            let detail = format!("there is already another rcontract with the id {}", wanted.id);
            Err(Problem::new(Code::AlreadyExists, detail))
        }
        None => {
            if let Some(key) = &admission.key {
                idempotency::forget(&**transaction, key).await?;
            }
            Err(Problem::new(Code::AlreadyExists, format!("there is already an rcontract `{}`", wanted.name)))
        }
    })
}

async fn contract_forget(transaction: &Transaction, admission: &Admission) -> Result<(), Problem> {
    let statement = "DELETE FROM rcontract WHERE id = ?";
    let id = admission.contract.id.uuid().into();
    transaction.execute_raw(sql(transaction.get_database_backend(), statement, [id])).await?;
    if let Some(key) = &admission.key {
        idempotency::forget(&**transaction, key).await?;
    }
    Ok(())
}

/// Adds what was admitted to the hosts. The conditions in the statement decide: if they refuse what the rows read
/// under lock had room for, the transaction fails as a whole.
pub(super) async fn hosts_charged(
    transaction: &Transaction,
    hosts: &HashMap<Id<Host>, HostModel>,
    before: &HashMap<Id<Host>, (Size, i64)>,
) -> Result<(), Problem> {
    let mut charged: Vec<(Id<Host>, Size, i64)> = hosts
        .values()
        .filter_map(|h| {
            let (used, nodes) = before.get(&h.id)?;
            (h.used != *used || h.nodes != *nodes).then(|| (h.id, h.used.minus(*used), h.nodes - nodes))
        })
        .collect();
    charged.sort_unstable_by_key(|(id, _, _)| *id);
    for chunk in charged.chunks(4_000) {
        let text = format!(
            "WITH more (id, cpu, memory, disk, iops, nodes) AS (VALUES {}) UPDATE host SET \
             used_cpu = used_cpu + more.cpu, used_memory = used_memory + more.memory, \
             used_disk = used_disk + more.disk, used_iops = used_iops + more.iops, nodes = host.nodes + more.nodes \
             FROM more WHERE host.id = more.id AND host.state = 'online' \
             AND used_cpu + more.cpu <= rentable_cpu AND used_memory + more.memory <= rentable_memory \
             AND used_disk + more.disk <= rentable_disk AND used_iops + more.iops <= rentable_iops",
            vec!["(?, ?, ?, ?, ?, ?)"; chunk.len()].join(", ")
        );
        let values = chunk.iter().flat_map(|(id, size, nodes)| {
            let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = *size;
            [
                Value::from(id.uuid()),
                cpu_millicores.into(),
                memory_bytes.into(),
                disk_bytes.into(),
                disk_iops.into(),
                (*nodes).into(),
            ]
        });
        let result = transaction.execute_raw(sql(transaction.get_database_backend(), &text, values)).await?;
        if result.rows_affected() != chunk.len() as u64 {
            return Err(Problem::internal("the hosts have no room for what was admitted"));
        }
    }
    Ok(())
}

/// A contract as it is right after its admission.
pub fn contract_of(contract: &NewContract, now: Ms) -> ContractModel {
    let NewContract { id, name, owner, created_by, reason, term, whole_hosts: _, lines } = contract;
    let (state, due_ms) = begin(*term, now).unwrap_or((ContractState::Active, term.ends_ms));
    ContractModel {
        id: *id,
        name: name.clone(),
        owner: owner.clone(),
        state,
        lines: i64::try_from(lines.len()).unwrap_or(i64::MAX),
        term: *term,
        due_ms,
        generation: 1,
        created_ms: now,
        created_by: created_by.clone(),
        reason: reason.clone(),
        released_ms: None,
    }
}

pub(super) fn node_of(admission: &Admission, line: &NewLine, host: &HostModel, now: Ms) -> NodeModel {
    let contract = &admission.contract;
    // Before its contract starts, a node is off: it is made, and waits.
    let scheduled = contract.term.starts_ms.is_some_and(|starts| starts > now);
    let resumes = scheduled && line.power == Power::On;
    NodeModel {
        id: Id::<Node>::new(),
        line_id: line.id,
        rcontract_id: contract.id,
        host_id: line.host_id,
        host_name: host.name.clone(),
        host_state: host.state(),
        node_type: host.node_type.unwrap_or(NodeType::Cm), // only a host that is cut admits
        owner: contract.owner.clone(),
        name: line.name.clone(),
        spec: line.spec.clone(),
        power: if scheduled { Power::Off } else { line.power },
        generation: 1,
        reboot: false,
        grace_ms: None,
        state: NodeState::Pending,
        carried: 0,
        boot: 0,
        detail: String::new(),
        ports: Vec::new(),
        health: Health::None,
        removed: false,
        resumes,
        hold: if line.release_while_off { Hold::Whole } else { Hold::Always },
        resizing: None,
        revision: 1,
        request_id: admission.request_id.clone(),
        changed_ms: now,
    }
}

pub(super) fn lines_inserted(
    transaction: &mut Transaction,
    group: &[&Admission],
    admitted: &[usize],
    made: &[Vec<NodeModel>],
    now: Ms,
) -> Result<(), Problem> {
    let lines =
        || admitted.iter().flat_map(|at| group[*at].contract.lines.iter().map(move |l| (&group[*at].contract, l)));
    let size = |size: Size| {
        let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
        [Value::from(cpu_millicores), memory_bytes.into(), disk_bytes.into(), disk_iops.into()]
    };
    let row = |head: Vec<Value>, of: Size| head.into_iter().chain(size(of)).collect::<Vec<_>>();
    let line_rows = lines()
        .map(|(c, l)| {
            let head = vec![l.id.uuid().into(), c.id.uuid().into(), l.host_id.uuid().into(), l.name.as_str().into()];
            row(head, l.spec.size)
        })
        .collect();
    let columns = ["id", "rcontract_id", "host_id", "name", "cpu", "memory", "disk", "iops"];
    let mut writes = inserts("line", &columns, line_rows);
    let claim_rows =
        lines().map(|(_, l)| row(vec![l.id.uuid().into(), l.host_id.uuid().into()], l.spec.size)).collect();
    writes.extend(inserts("claim", &["line_id", "host_id", "cpu", "memory", "disk", "iops"], claim_rows));
    let segment_rows = lines()
        .map(|(_, l)| row(vec![l.id.uuid().into(), 1_i64.into(), now.into(), Power::Off.as_str().into()], l.spec.size))
        .collect();
    let columns = ["line_id", "ordinal", "from_ms", "power", "cpu", "memory", "disk", "iops"];
    writes.extend(inserts("segment", &columns, segment_rows));
    let node_rows = made.iter().flatten().map(node_row).collect::<Result<Vec<_>, _>>()?;
    writes.extend(inserts("node", &NODE_COLUMNS, node_rows));
    transaction.later(writes);
    Ok(())
}

/// What the rows of new lines can break. A line id is used once, also after its contract was released: its meter
/// segments stay.
#[allow(clippy::needless_pass_by_value)] // used as `map_err(line_refused)`
pub(super) fn line_refused(error: sea_orm::DbErr) -> Problem {
    if is_duplicate(&error) {
        return Problem::new(Code::AlreadyExists, "a line with this id is or was there already: mint a new one");
    }
    if is_reference(&error) {
        return Problem::new(Code::NotFound, "the image of a line was deleted just now");
    }
    error.into()
}

const NODE_COLUMNS: [&str; 24] = [
    "id",
    "line_id",
    "rcontract_id",
    "host_id",
    "image_id",
    "owner",
    "name",
    "spec",
    "power",
    "generation",
    "reboot",
    "grace_ms",
    "state",
    "carried",
    "boot",
    "detail",
    "ports",
    "health",
    "removed",
    "resumes",
    "hold",
    "revision",
    "request_id",
    "changed_ms",
];

fn node_row(node: &NodeModel) -> Result<Vec<Value>, Problem> {
    let NodeModel {
        id,
        line_id,
        rcontract_id,
        host_id,
        host_name: _, // these three are of the host's row
        host_state: _,
        node_type: _,
        owner,
        name,
        spec,
        power,
        generation,
        reboot,
        grace_ms,
        state,
        carried,
        boot,
        detail,
        ports,
        health,
        removed,
        resumes,
        hold,
        resizing: _, // a new node has its size
        revision,
        request_id,
        changed_ms,
    } = node;
    Ok(vec![
        id.uuid().into(),
        line_id.uuid().into(),
        rcontract_id.uuid().into(),
        host_id.uuid().into(),
        spec.image_id.map(Id::uuid).into(),
        owner.as_str().into(),
        name.as_str().into(),
        serde_json::to_string(spec).map_err(Problem::internal)?.into(),
        power.as_str().into(),
        (*generation).into(),
        (*reboot).into(),
        (*grace_ms).into(),
        state.as_str().into(),
        (*carried).into(),
        (*boot).into(),
        detail.as_str().into(),
        serde_json::to_string(ports).map_err(Problem::internal)?.into(),
        health.as_str().into(),
        (*removed).into(),
        (*resumes).into(),
        hold.as_str().into(),
        (*revision).into(),
        request_id.as_str().into(),
        (*changed_ms).into(),
    ])
}

/// The events of a new contract: itself, and a meter segment for each line.
fn created(transaction: &mut Transaction, admission: &Admission, now: Ms) {
    let contract = &admission.contract;
    let by = By { who: &contract.created_by, reason: &contract.reason };
    let payload = contract_payload(&contract_of(contract, now), by);
    let event = NewEvent::new(now, "rcontract.created", &contract.owner, contract.id, &payload);
    // The group's transaction serves many requests: each event tells of its own.
    transaction.emit(NewEvent { request_id: admission.request_id.clone(), ..event });
    lines_told(transaction, admission, now);
}

/// The events of new lines: a meter segment for each.
pub(super) fn lines_told(transaction: &mut Transaction, admission: &Admission, now: Ms) {
    let contract = &admission.contract;
    for line in &contract.lines {
        let opened = SegmentOpened {
            line_id: line.id.to_string(),
            rcontract_id: contract.id.to_string(),
            owner: contract.owner.clone(),
            node_name: line.name.clone(),
            power: Power::Off.as_str().to_owned(),
            size: Some(line.spec.size.into()),
            from_ms: now,
        };
        let event = NewEvent::new(now, "segment.opened", &contract.owner, line.id, &opened);
        transaction.emit(NewEvent { request_id: admission.request_id.clone(), ..event });
    }
}
