//! What the server is told of nodes: each state once, in order, and everything anew with a new stream.

use std::collections::VecDeque;

use yiqiu_base::{NodeState, NodeType};
use yiqiu_proto::{
    agent::{Facts, Hello, NodeReport},
    common,
};

use super::{Host, Node};
use crate::{
    driver::{NodeId, Presence, Seen},
    record::Record,
};

impl Host {
    /// Shows a state of a node to the server, if that differs from what was shown last.
    pub(crate) fn show(&self, id: NodeId, state: NodeState, detail: &str, seen: &Seen) {
        let mut all = self.state();
        let all = &mut *all;
        let Some(node) = all.nodes.get_mut(&id) else { return };
        let detail: Vec<&str> = [detail, &node.unverified].into_iter().filter(|d| !d.is_empty()).collect();
        let report = self.report(id, &node.record, state, &detail.join("; "), seen);
        if let Some(shown) = &node.shown {
            let at_ms = report.at_ms;
            if *shown == (NodeReport { at_ms: shown.at_ms, ..report.clone() }) {
                return;
            }
            tracing::debug!(node = %id, %state, at_ms, "reported");
        }
        node.shown = Some(report.clone());
        if all.connected {
            all.reports.push_back(report);
            self.outgoing.notify_one();
        }
    }

    /// Shows something of this host that nobody assigned, or that it went by itself.
    pub(crate) fn orphan(&self, id: NodeId, node_type: NodeType, seen: Seen) {
        let mut state = self.state();
        let known = state.orphans.get(&id).map(|(_, seen)| seen);
        if known.unwrap_or(&Seen::default()) == &seen {
            return;
        }
        let report = self.orphan_report(id, &seen);
        if seen.presence == Presence::Absent {
            state.orphans.remove(&id);
        } else {
            tracing::warn!(node = %id, "a node of this host is not assigned to it: it is reported and left alone");
            state.orphans.insert(id, (node_type, seen));
        }
        if state.connected {
            state.reports.push_back(report);
            self.outgoing.notify_one();
        }
    }

    fn report(&self, id: NodeId, record: &Record, state: NodeState, detail: &str, seen: &Seen) -> NodeReport {
        NodeReport {
            node_id: id.to_string(),
            state: common::NodeState::from(state).into(),
            generation: record.carried,
            boot: record.boot,
            detail: detail.to_owned(),
            ports: seen.ports.clone(),
            at_ms: self.clock.now(),
            revision: record.revision(),
            sized: record.sized_revision(seen.presence, state),
            health: common::Health::from(seen.health).into(),
        }
    }

    /// What is seen of a node that was not shown yet. Nothing where a start in the middle has to be decided first.
    fn first_report(&self, id: NodeId, node: &Node) -> Option<NodeReport> {
        let seen = node.seen.as_ref().filter(|_| node.record.intent.is_none())?;
        let (state, detail) = node.record.observe(seen, &self.boot_id);
        Some(self.report(id, &node.record, state, &detail, seen))
    }

    fn orphan_report(&self, id: NodeId, seen: &Seen) -> NodeReport {
        let state = match seen.presence {
            Presence::Running => NodeState::Running,
            Presence::Idle => NodeState::Off,
            Presence::Absent => NodeState::Gone,
        };
        NodeReport {
            node_id: id.to_string(),
            state: common::NodeState::from(state).into(),
            detail: "this agent has no assignment for it".to_owned(),
            ports: seen.ports.clone(),
            at_ms: self.clock.now(),
            ..NodeReport::default()
        }
    }

    /// A new stream: everything there is, and from now on every change is queued for it.
    pub(crate) fn connect(&self) -> Hello {
        let mut state = self.state();
        state.connected = true;
        state.reports.clear();
        state.answers.clear();
        state.facts_changed = false;
        state.in_flight = None;
        let shown = state.nodes.iter().filter_map(|(id, n)| n.shown.clone().or_else(|| self.first_report(*id, n)));
        let mut nodes: Vec<NodeReport> = shown.collect();
        nodes.extend(state.orphans.iter().map(|(id, (_, seen))| self.orphan_report(*id, seen)));
        Hello { host_id: self.identity.host_id.clone(), facts: Some(state.facts.clone()), epoch: state.epoch, nodes }
    }

    /// The stream is gone: what changes now is in the next Hello.
    pub(crate) fn disconnect(&self) {
        let mut state = self.state();
        state.connected = false;
        state.reports.clear();
    }

    /// The reports to send, oldest first.
    pub(crate) fn take_reports(&self) -> VecDeque<NodeReport> {
        std::mem::take(&mut self.state().reports)
    }

    /// The facts, if they changed since they were sent.
    pub(crate) fn take_facts(&self) -> Option<Facts> {
        let mut state = self.state();
        std::mem::take(&mut state.facts_changed).then(|| state.facts.clone())
    }
}
