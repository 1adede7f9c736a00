//! Audits: every claim beside what the hosts themselves say, and what ops decide about what nobody claims.

use std::time::Duration;

use futures::{StreamExt, stream};
use yiqiu_base::{
    Code, Id, Principal, Problem, Size,
    clock::Ms,
    http::{Page, Paging},
    id::{self, Audit, Line},
    idempotency::Key,
    reconcile::Next,
};
use yiqiu_proto::resources::OrphanSettled;

use super::{Service, questions::Answer, sessions::Push};
use crate::{
    lifecycle::{adoptable, compare, removable},
    model::{AuditHost, AuditModel, AuditState, Finding, FindingKind, HostModel, HostState, Inventory, Tally},
};

/// How many hosts are asked at once, and how many answers one transaction takes.
const AT_ONCE: usize = 64;
/// How long a host may take to say what is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to do what ops decided.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How many audits are kept.
const KEPT: i64 = 200;

/// The longest reason, in bytes.
const WHY_MOST: usize = 1000;

/// What ops decide about something that nobody claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// It becomes the node that it says it is, whose claim stands and of which nothing else is there.
    Adopt,
    /// It is taken away, and verified gone.
    Remove,
}

/// What came of one host.
type Outcome = (Option<AuditHost>, Vec<Finding>, Tally);

impl Service {
    /// Begins an audit of every host, or of one. It goes on when this returns.
    pub async fn audit_create(
        &self,
        who: &Principal,
        host: Option<&str>,
        key: Option<&str>,
    ) -> Result<AuditModel, Problem> {
        who.require_ops()?;
        let key = key.map(|key| Key::new(&who.subject, "audit", key, &host)).transpose()?;
        let host = match host {
            Some(host) => Some(self.store().host_get(host).await?),
            None => None,
        };
        let (audit, hosts) = self.audit_begin(&who.subject, host, key.as_ref()).await?;
        if let Some(hosts) = hosts {
            let service = self.clone();
            let began = audit.clone();
            tokio::spawn(async move { service.audit_run(&began, hosts).await });
        }
        Ok(audit)
    }

    /// By id, or `latest` for the newest of every host that ended.
    pub async fn audit_get(&self, who: &Principal, id: &str) -> Result<AuditModel, Problem> {
        who.require_ops()?;
        if id == "latest" {
            let latest = self.store().audit_latest().await?;
            return latest.ok_or_else(|| Problem::new(Code::NotFound, "no audit of every host has ended yet"));
        }
        self.store().audit_get(Id::parse(id)?).await
    }

    /// Newest first.
    pub async fn audit_list(&self, who: &Principal, paging: &Paging) -> Result<Page<AuditModel>, Problem> {
        who.require_ops()?;
        Ok(Page::of(self.store().audit_list(paging).await?, paging, |audit| audit.id.to_string()))
    }

    /// What an audit found so far.
    pub async fn finding_list(
        &self,
        who: &Principal,
        audit: Id<Audit>,
        paging: &Paging,
    ) -> Result<Page<Finding>, Problem> {
        who.require_ops()?;
        Ok(Page::of(self.store().finding_list(audit, paging).await?, paging, |finding| finding.id.to_string()))
    }

    /// What an audit says of each host.
    pub async fn audit_hosts(
        &self,
        who: &Principal,
        audit: Id<Audit>,
        paging: &Paging,
    ) -> Result<Page<AuditHost>, Problem> {
        who.require_ops()?;
        Ok(Page::of(self.store().audit_hosts(audit, paging).await?, paging, |host| host.host_id.to_string()))
    }

    /// What the newest audit of every host says of some lines; when it ended, or `None` if there was none yet.
    pub async fn finding_of_lines(
        &self,
        who: &Principal,
        lines: &[Id<Line>],
    ) -> Result<Option<(AuditModel, Vec<Finding>)>, Problem> {
        who.require_service()?;
        let Some(audit) = self.store().audit_latest().await? else { return Ok(None) };
        let findings = self.store().finding_of_lines(audit.id, lines).await?;
        Ok(Some((audit, findings)))
    }

    /// Carries out what ops decided about an orphan; the event tells who and why.
    pub async fn orphan_settle(
        &self,
        who: &Principal,
        finding: Id<id::Finding>,
        settle: Settle,
        why: &str,
    ) -> Result<Finding, Problem> {
        who.require_ops()?;
        if why.len() > WHY_MOST {
            return Err(Problem::invalid(format!("the reason is too long: at most {WHY_MOST} bytes")));
        }
        let finding = self.store().finding_get(finding).await?;
        let done = match settle {
            Settle::Adopt => "adopted",
            Settle::Remove => "removed",
        };
        if finding.kind != FindingKind::Orphan {
            return Err(Problem::new(
                Code::WrongState,
                format!("finding {} is of the kind {}: only an orphan is adopted or removed", finding.id, finding.kind),
            ));
        }
        if finding.settled.starts_with(done) {
            return Ok(finding);
        }
        if !finding.settled.is_empty() {
            return Err(Problem::new(Code::WrongState, format!("the orphan was {} already", finding.settled)));
        }
        let host = self.store().host_get(&finding.host_id.map(|id| id.to_string()).unwrap_or_default()).await?;
        // What is there now decides, and what is claimed now, not what the audit saw.
        let there = self.inventory(&host).await?;
        let claimed = self.store().node_of_host(host.id).await?;
        let adopt_as = match settle {
            Settle::Adopt => Some(adoptable(&finding, &claimed, &there)?),
            Settle::Remove => {
                removable(&finding, &claimed, &there)?;
                None
            }
        };
        let mut told = OrphanSettled {
            name: finding.handle.clone(),
            host_name: host.name.clone(),
            node_id: adopt_as.map(|node| node.to_string()).unwrap_or_default(),
            by: who.subject.clone(),
            why: why.to_owned(),
            detail: String::new(),
        };
        let (underway, over) = match settle {
            Settle::Adopt => ("orphan.adopting", "orphan.adopted"),
            Settle::Remove => ("orphan.removing", "orphan.removed"),
        };
        self.store().orphan_settled(&finding, underway, None, &told, self.now()).await?;
        let node_type = finding.node_type.or(host.node_type);
        let node_type = node_type.ok_or_else(|| Problem::invalid("the finding does not say which driver found it"))?;
        let handle = finding.handle.clone();
        let answer = self.ask(&host, SETTLES_WITHIN, |id| Push::Orphan { id, node_type, handle, adopt_as }).await?;
        match answer {
            Answer::Orphan(failed) if failed.is_empty() => {
                let settled = format!("{done} by {}", who.subject);
                self.store().orphan_settled(&finding, over, Some(&settled), &told, self.now()).await?;
                Ok(Finding { settled, ..finding })
            }
            Answer::Orphan(failed) => {
                told.detail = failed;
                self.store().orphan_settled(&finding, "orphan.refused", None, &told, self.now()).await?;
                Err(Problem::new(Code::WrongState, format!("host {} did not do it: {}", host.name, told.detail)))
            }
            Answer::Inventory(_) => Err(Problem::internal("an agent answered another question")),
        }
    }

    /// An audit that comes by itself, if it is time for one; when the next one is due.
    pub(crate) async fn audit_pass(&self, every: Duration, since: Ms) -> Result<Next, Problem> {
        let every_ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        let newest = self.store().audit_list(&Paging { cursor: None, limit: Some(1) }).await?;
        let last = newest.first().map_or(since, |audit| audit.started_ms.max(since));
        let left = last.saturating_add(every_ms).saturating_sub(self.now());
        if let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) {
            return Ok(Next::Requeue(Duration::from_millis(left)));
        }
        let (audit, hosts) = self.audit_begin("", None, None).await?;
        self.audit_run(&audit, hosts.unwrap_or_default()).await;
        Ok(Next::Requeue(every))
    }

    /// `None` beside an audit that the same key began before.
    async fn audit_begin(
        &self,
        asked_by: &str,
        host: Option<HostModel>,
        key: Option<&Key>,
    ) -> Result<(AuditModel, Option<Vec<HostModel>>), Problem> {
        let name = host.as_ref().map(|host| host.name.clone()).unwrap_or_default();
        let mut hosts = match host {
            Some(host) => vec![host],
            None => self.store().host_all().await?,
        };
        // Of a machine that never joined, or was retired, there is nobody to ask.
        hosts.retain(|host| !matches!(host.state(), HostState::Joining | HostState::Retired) || host.nodes > 0);
        let new = AuditModel {
            id: Id::new(),
            state: AuditState::Running,
            asked_by: asked_by.to_owned(),
            host: name,
            started_ms: self.now(),
            ended_ms: None,
            hosts: i64::try_from(hosts.len()).unwrap_or(i64::MAX),
            done: 0,
            tally: Tally::default(),
        };
        let (audit, began) = self.store().audit_insert(&new, key).await?;
        Ok((audit, began.then_some(hosts)))
    }

    async fn audit_run(&self, audit: &AuditModel, hosts: Vec<HostModel>) {
        let stop = self.environment().stop.clone();
        match stop.run_until_cancelled(self.audit_all(audit, hosts)).await {
            Some(Ok(ended)) => show(&ended),
            Some(Err(problem)) => {
                tracing::error!(audit = %audit.id, %problem, "an audit is broken off");
                if let Err(problem) = self.store().audit_interrupted(Some(audit.id), self.now()).await {
                    tracing::error!(audit = %audit.id, %problem, "and that cannot be noted");
                }
            }
            None => {} // the next start notes that it was broken off
        }
    }

    async fn audit_all(&self, audit: &AuditModel, hosts: Vec<HostModel>) -> Result<AuditModel, Problem> {
        if audit.host.is_empty() {
            let findings: Vec<Finding> =
                self.store().books().await?.faults.into_iter().map(|fault| of_books(fault, self.now())).collect();
            let mut tally = Tally::default();
            findings.iter().for_each(|finding| tally.count(finding.kind));
            self.store().audit_add(audit.id, &[], &findings, 0, tally).await?;
        }
        let asked = stream::iter(hosts).map(|host| async move { self.audit_host(&host).await });
        let mut answers = Box::pin(asked.buffer_unordered(AT_ONCE).ready_chunks(AT_ONCE));
        while let Some(chunk) = answers.next().await {
            let (mut hosts, mut findings, mut sum) = (Vec::new(), Vec::new(), Tally::default());
            let done = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            for outcome in chunk {
                let (host, found, tally) = outcome?;
                hosts.extend(host);
                findings.extend(found);
                sum += tally;
            }
            self.store().audit_add(audit.id, &hosts, &findings, done, sum).await?;
        }
        self.store().audit_end(audit.id, KEPT, self.now()).await
    }

    async fn audit_host(&self, host: &HostModel) -> Result<Outcome, Problem> {
        let before = self.store().node_of_host(host.id).await?;
        let answer = self.inventory(host).await;
        let after = self.store().node_of_host(host.id).await?;
        let now = self.now();
        let (mut tally, mut overhead) = (Tally::default(), Size::ZERO);
        let unknown;
        let mut findings = Vec::new();
        match answer {
            Ok(there) => {
                let compared = compare(host, &before, &after, &there, now);
                tally.matched = compared.matched;
                findings = compared.findings;
                let missing = there.missing.iter().find(|(node_type, _)| Some(*node_type) == host.node_type);
                unknown = missing.map(|(_, why)| why.clone()).unwrap_or_default();
                let measured = there.overhead.iter().find(|(node_type, _)| Some(*node_type) == host.node_type);
                overhead = measured.map(|(_, size)| *size).unwrap_or_default();
            }
            Err(problem) => match self.store().host_get(&host.id.to_string()).await {
                Err(gone) if gone.code == Code::NotFound => return Ok((None, findings, tally)), // taken away meanwhile
                Err(problem) => return Err(problem),
                Ok(_) => unknown = problem.detail,
            },
        }
        if !unknown.is_empty() {
            findings.push(of_host(host, &unknown, now));
        }
        findings.iter().for_each(|finding| tally.count(finding.kind));
        let nodes = i64::try_from(after.len()).unwrap_or(i64::MAX);
        let audited = AuditHost {
            host_id: host.id,
            host_name: host.name.clone(),
            at_ms: now,
            unknown,
            matched: tally.matched,
            findings: i64::try_from(findings.len()).unwrap_or(i64::MAX),
            overhead_model: host
                .overhead
                .zip(host.node_overhead, |fixed, each| fixed.saturating_add(each.saturating_mul(nodes))),
            overhead_measured: overhead,
        };
        Ok((Some(audited), findings, tally))
    }

    /// What a host says of itself now; `unavailable` if it does not answer.
    async fn inventory(&self, host: &HostModel) -> Result<Inventory, Problem> {
        match self.ask(host, PATIENCE, |id| Push::Inventory { id }).await? {
            Answer::Inventory(inventory) => Ok(inventory),
            Answer::Orphan(_) => Err(Problem::internal("an agent answered another question")),
        }
    }

    /// Asks a host's agent something, and waits for the answer.
    async fn ask(
        &self,
        host: &HostModel,
        patience: Duration,
        question: impl FnOnce(uuid::Uuid) -> Push,
    ) -> Result<Answer, Problem> {
        let (id, answer) = self.0.questions.put(host.id);
        let silent = |why: &str| Problem::new(Code::Unavailable, format!("host {} {why}", host.name));
        if !self.0.sessions.tell(host.id, question(id)) {
            return Err(silent("is not connected: nobody can say what is there"));
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(silent("left while it was asked")),
            Err(_) => Err(silent(&format!("did not answer within {} s", patience.as_secs()))),
        }
    }

    /// Takes what an agent answers. What nobody waits for any more is dropped.
    pub fn agent_answers(&self, host: &HostModel, id: uuid::Uuid, answer: Answer) {
        self.0.questions.answer(host.id, id, answer);
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Tally { matched, ghosts, orphans, over, unknown, ledger } = other;
        self.matched += matched;
        self.ghosts += ghosts;
        self.orphans += orphans;
        self.over += over;
        self.unknown += unknown;
        self.ledger += ledger;
    }
}

fn of_host(host: &HostModel, why: &str, now: Ms) -> Finding {
    let detail = why.to_owned();
    Finding { host_id: Some(host.id), host_name: host.name.clone(), detail, ..bare(FindingKind::Unknown, now) }
}

fn of_books(fault: String, now: Ms) -> Finding {
    Finding { detail: fault, ..bare(FindingKind::Ledger, now) }
}

fn bare(kind: FindingKind, at_ms: Ms) -> Finding {
    Finding {
        id: Id::new(),
        kind,
        at_ms,
        host_id: None,
        host_name: String::new(),
        node_type: None,
        node_id: None,
        line_id: None,
        rcontract_id: None,
        owner: String::new(),
        name: String::new(),
        handle: String::new(),
        labelled: String::new(),
        detail: String::new(),
        settled: String::new(),
    }
}

#[allow(clippy::cast_precision_loss)] // counts of findings
fn show(audit: &AuditModel) {
    let Tally { matched, ghosts, orphans, over, unknown, ledger } = audit.tally;
    if !audit.tally.is_clean() {
        tracing::warn!(audit = %audit.id, ghosts, orphans, over, unknown, ledger, "an audit is not clean");
    }
    if audit.host.is_empty() {
        for (kind, count) in [
            (FindingKind::Matched, matched),
            (FindingKind::Ghost, ghosts),
            (FindingKind::Orphan, orphans),
            (FindingKind::Over, over),
            (FindingKind::Unknown, unknown),
            (FindingKind::Ledger, ledger),
        ] {
            metrics::gauge!("yiqiu_audit_findings", "kind" => kind.as_str()).set(count as f64);
        }
        metrics::counter!("yiqiu_audits_total").increment(1);
    }
}
