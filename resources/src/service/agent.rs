//! Agents: how they join, what they are told, and what is believed of what they say.

use tokio::sync::mpsc;
use yiqiu_base::{Clock, Code, Id, NodeState, Problem, id::Host, secret::Secret};

use super::{Push, Service, sessions::Sessions};
use crate::{
    lifecycle::agent_refused,
    model::{HostModel, HostSeen, HostWish, NodeModel, Report, Sample},
    store::{HostFacts, Reported, Store},
};

/// What an agent says first.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The host that it says it is.
    pub host_id: Id<Host>,
    /// Its machine.
    pub facts: HostFacts,
    /// The greatest epoch that it has obeyed.
    pub epoch: u64,
    /// Every node that is on its machine.
    pub nodes: Vec<Report>,
}

/// An agent's session.
pub struct Connected {
    /// Which host.
    pub host: HostModel,
    /// Which of its sessions.
    pub number: u64,
    /// What every node of the host should be, as of now.
    pub full_set: Vec<NodeModel>,
    /// What changes from now on.
    pub pushes: mpsc::Receiver<Push>,
}

impl Service {
    /// Trades a join token for a credential. Refused before the token is used up where the machine lacks the driver
    /// of the host's node type.
    pub async fn agent_join(&self, token: &Secret, facts: &HostFacts) -> Result<(HostModel, Secret), Problem> {
        let now = self.now();
        if let Some(host) = self.store().host_by_join_token(token, now).await?
            && let Some(node_type) = host.node_type
        {
            let told = HostModel { drivers: facts.drivers.clone(), seen: HostSeen::Connected, ..host };
            if let Some(why) = told.driver_missing(node_type) {
                return Err(Problem::new(Code::DriverMissing, why));
            }
        }
        let credential = Secret::generate("yqa_");
        let host = self.store().host_join(token, &credential, now).await?;
        tracing::info!(host = host.name, "an agent joined");
        Ok((host, credential))
    }

    /// The host of a credential; `permission_denied` if it is retired.
    pub async fn agent_host(&self, credential: &Secret) -> Result<HostModel, Problem> {
        let host = self.store().host_by_credential(credential).await?;
        if host.wish == HostWish::Retired { Err(agent_refused(&host)) } else { Ok(host) }
    }

    /// Opens an agent's session: from here on its host is online, and changes reach it. The full set is read after
    /// the session is open, so that no change falls between.
    pub async fn agent_connect(&self, credential: &Secret, hello: Hello) -> Result<Connected, Problem> {
        let host = self.agent_host(credential).await?;
        if hello.host_id != host.id {
            return Err(Problem::new(
                Code::PermissionDenied,
                format!("this credential is bound to host {}: it cannot speak for another", host.name),
            ));
        }
        if hello.epoch > self.epoch() {
            tracing::warn!(
                host = host.name,
                agent_epoch = hello.epoch,
                epoch = self.epoch(),
                "the agent has obeyed a newer history: it will not follow this one until its epoch is raised"
            );
        }
        self.0.questions.forget(host.id); // an older session was asked
        let (number, pushes) = self.0.sessions.open(host.id);
        match self.agent_welcome(&host, hello).await {
            Ok(full_set) => Ok(Connected { host, number, full_set, pushes }),
            Err(problem) => {
                self.agent_lost(&host, number).await;
                Err(problem)
            }
        }
    }

    async fn agent_welcome(&self, host: &HostModel, hello: Hello) -> Result<Vec<NodeModel>, Problem> {
        self.store().host_seen(host.id, true, Some(&hello.facts), self.now()).await?;
        let full_set = self.store().node_of_host(host.id).await?;
        let known: std::collections::HashSet<_> = full_set.iter().map(|n| n.id).collect();
        for report in hello.nodes {
            if known.contains(&report.node_id) {
                self.agent_report(host, report).await?;
            } else if report.state != NodeState::Gone {
                tracing::warn!(host = host.name, node = %report.node_id, "an orphan: a node without a claim; it is left alone");
                metrics::counter!("yiqiu_orphans_seen_total").increment(1);
            }
        }
        Ok(full_set)
    }

    /// Whether this is the newest session of its host: what an older one still says is from before.
    pub fn agent_is_current(&self, host: &HostModel, number: u64) -> bool {
        self.0.sessions.is_current(host.id, number)
    }

    /// Shows every host as unreachable whose agent is not connected, whatever went wrong when it was lost.
    pub(crate) async fn agents_missing(&self) -> Result<(), Problem> {
        for host in self.store().host_connected().await? {
            if !self.0.sessions.is_open(host.id) {
                self.store().host_seen(host.id, false, None, self.now()).await?;
                if self.0.sessions.is_open(host.id) {
                    self.store().host_seen(host.id, true, None, self.now()).await?;
                }
            }
        }
        Ok(())
    }

    /// Ends a session; the host is unreachable unless its agent has dialled anew.
    pub async fn agent_lost(&self, host: &HostModel, number: u64) {
        if !self.0.sessions.close(host.id, number) {
            return;
        }
        self.0.questions.forget(host.id);
        tracing::warn!(host = host.name, "the agent is lost; its nodes may well run");
        let mut recorded = self.store().host_seen(host.id, false, None, self.now()).await;
        if recorded.is_ok() && self.0.sessions.is_open(host.id) {
            // It dialled anew between the two lines above, and its "online" may have been written first.
            recorded = self.store().host_seen(host.id, true, None, self.now()).await;
        }
        if let Err(problem) = recorded {
            tracing::error!(host = host.name, %problem, "a lost host could not be recorded");
        }
    }

    /// Takes changed facts.
    pub async fn agent_facts(&self, host: &HostModel, facts: &HostFacts) -> Result<(), Problem> {
        self.store().host_seen(host.id, true, Some(facts), self.now()).await
    }

    /// Takes what an agent says of one of its nodes.
    pub async fn agent_report(&self, host: &HostModel, report: Report) -> Result<(), Problem> {
        self.0.reports.ask(Reported { host_id: host.id, report }).await
    }

    /// Takes readings of an agent's nodes.
    pub async fn agent_usage(&self, host: &HostModel, samples: &[Sample]) -> Result<(), Problem> {
        self.store().usage_record(host.id, samples, self.now()).await
    }
}

/// Takes a group of reports. If the group fails as a whole, each is taken alone, so that no host is cut off for what
/// another said.
pub(super) async fn observe_group(
    store: &Store,
    group: &[Reported],
    clock: &Clock,
    sessions: &Sessions,
) -> Vec<Result<(), Problem>> {
    match store.node_observed(group, clock.now()).await {
        Ok(changed) => {
            sessions.changed(&changed);
            vec![Ok(()); group.len()]
        }
        Err(problem) if group.len() == 1 || problem.code == Code::Unavailable => vec![Err(problem); group.len()],
        Err(_) => {
            let mut verdicts = Vec::with_capacity(group.len());
            for one in group {
                let changed = store.node_observed(std::slice::from_ref(one), clock.now()).await;
                verdicts.push(changed.map(|changed| sessions.changed(&changed)));
            }
            verdicts
        }
    }
}
