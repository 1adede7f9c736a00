//! What this agent knows of its host: assignments, what is seen of each node, and what the server is yet to hear.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use yiqiu_base::{Clock, NodeState, NodeType};
use yiqiu_proto::{
    agent::{Assignment, DriverStatus, Facts, Hello, NodeReport, Sample, UsageBlock},
    common,
    link::Link,
};

use crate::{
    driver::{Driver, NodeId, Presence, Seen},
    images::Images,
    journal::{Journal, Kept, Write},
    meter::Meter,
    record::Record,
    session::Identity,
};

/// One host as its agent has it. Shared by the session, the watchers and the worker's tasks.
pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    pub(crate) drivers: Vec<Arc<dyn Driver>>,
    pub(crate) journal: Journal,
    pub(crate) images: Images,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Something for the server is in the state.
    pub(crate) outgoing: Notify,
    /// The interval of usage blocks, in milliseconds, as the server last said.
    pub(crate) usage_ms: watch::Sender<u32>,
    state: Mutex<State>,
}

/// The part that changes.
pub(crate) struct State {
    pub(crate) nodes: HashMap<NodeId, Node>,
    /// On this host with its mark, and not assigned.
    pub(crate) orphans: HashMap<NodeId, (NodeType, Seen)>,
    pub(crate) facts: Facts,
    epoch: u64,
    connected: bool,
    reports: VecDeque<NodeReport>,
    facts_changed: bool,
    /// The newest sample of each boot that the server has not acknowledged.
    pending: BTreeMap<(NodeId, i64), Sample>,
    in_flight: Option<UsageBlock>,
    next_block: i64,
}

/// One node.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) record: Record,
    /// `None`: the driver could not be asked yet.
    pub(crate) seen: Option<Seen>,
    pub(crate) meter: Option<Meter>,
    /// Moves with each reading added, so that one that was overtaken is dropped.
    pub(crate) readings: u64,
    /// A task works on it.
    pub(crate) busy: bool,
    /// That task shall look again when it is through; `stale`: and ask the driver first.
    pub(crate) again: bool,
    pub(crate) stale: bool,
    /// Moves with each turn of a task, so that a look which a turn overtook is dropped.
    pub(crate) turn: u64,
    /// Actions in a row that did not work.
    pub(crate) attempts: u32,
    /// Looks in a row that the driver did not answer.
    pub(crate) unanswered: u32,
    /// Why what is seen may not be true any more; empty while the driver answers.
    pub(crate) unverified: String,
    shown: Option<NodeReport>,
}

impl Node {
    /// The type it is assigned as.
    pub(crate) fn node_type(&self) -> Option<NodeType> {
        self.record.assignment.as_ref().and_then(|a| NodeType::try_from(a.node_type()).ok())
    }

    /// The driver answered: this is so.
    pub(crate) fn verified(&mut self, seen: Seen) {
        self.seen = Some(seen);
        self.unanswered = 0;
        self.unverified.clear();
    }

    /// Begins to count a boot.
    pub(crate) fn begin_meter(&mut self, meter: Meter) {
        self.readings += 1;
        self.meter = Some(meter);
    }
}

impl Host {
    pub(crate) fn new(
        identity: Identity,
        clock: Clock,
        drivers: Vec<Arc<dyn Driver>>,
        journal: Journal,
        (images, link): (PathBuf, Link),
        facts: Facts,
        stop: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let Kept { nodes, meters, epoch } = journal.load()?;
        let mut state = State {
            nodes: nodes.into_iter().map(|(id, record)| (id, Node { record, ..Node::default() })).collect(),
            orphans: HashMap::new(),
            facts,
            epoch,
            connected: false,
            reports: VecDeque::new(),
            facts_changed: false,
            pending: BTreeMap::new(),
            in_flight: None,
            next_block: 1,
        };
        for (id, meter) in meters {
            if let Some(sample) = meter.sample.clone().filter(|s| s.seq > 0) {
                state.pending.insert((id, meter.boot()), sample);
            }
            if let Some(node) = state.nodes.get_mut(&id) {
                let starting = node.record.intent.is_some() && meter.boot() == node.record.boot + 1;
                if !meter.ended && (starting || meter.boot() == node.record.boot) {
                    node.meter = Some(meter);
                }
            }
        }
        let images = Images::new(images, link, identity.credential.clone());
        Ok(Arc::new(Self {
            identity,
            clock,
            drivers,
            journal,
            images,
            stop,
            tasks: TaskTracker::new(),
            outgoing: Notify::new(),
            usage_ms: watch::Sender::new(10_000),
            state: Mutex::new(state),
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to a node, if it is known.
    pub(crate) fn with<T>(&self, node: NodeId, f: impl FnOnce(&mut Node) -> T) -> Option<T> {
        self.state().nodes.get_mut(&node).map(f)
    }

    pub(crate) fn driver(&self, node_type: NodeType) -> Option<&Arc<dyn Driver>> {
        self.drivers.iter().find(|d| d.node_type() == node_type)
    }

    /// Changes a node's record and keeps it; returns when the disk has it. `None`: the node is not known any more.
    pub(crate) async fn record(&self, node: NodeId, change: impl FnOnce(&mut Record)) -> Option<Result<(), String>> {
        let written = {
            let mut state = self.state();
            let node_state = state.nodes.get_mut(&node)?;
            change(&mut node_state.record);
            self.journal.submit(vec![Write::Node(node, Box::new(node_state.record.clone()))])
        };
        Some(written.done().await)
    }

    /// The greatest server epoch obeyed.
    pub(crate) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Takes over the epoch of a server that greets; false if it is older than one obeyed before.
    pub(crate) async fn greet(&self, epoch: u64, usage_ms: u32) -> Result<bool, String> {
        {
            let mut state = self.state();
            if epoch < state.epoch {
                return Ok(false);
            }
            state.epoch = epoch;
        }
        if usage_ms > 0 {
            self.usage_ms.send_if_modified(|now| std::mem::replace(now, usage_ms) != usage_ms);
        }
        self.journal.write(vec![Write::Epoch(epoch)]).await?;
        Ok(true)
    }

    /// Obeys an assignment if it is newer than what is known of the node.
    pub(crate) fn obey(self: &Arc<Self>, assignment: Assignment, epoch: u64) {
        let Ok(id) = NodeId::parse(&assignment.node_id) else {
            tracing::error!(node = assignment.node_id, "the server assigned what is not the id of a node; ignored");
            return;
        };
        {
            let mut state = self.state();
            let state = &mut *state;
            match state.nodes.get_mut(&id) {
                Some(node) if !node.record.is_older_than(epoch, assignment.revision) => return,
                Some(node) => {
                    node.record.assign(assignment, epoch);
                    node.attempts = 0;
                    // A new wish is decided on what is true now, not on what was seen last.
                    node.stale |= node.record.fresh();
                }
                None => {
                    let seen = state.orphans.remove(&id).map(|(_, seen)| seen);
                    let node = Node { record: Record::of(assignment, epoch), seen, stale: true, ..Node::default() };
                    state.nodes.insert(id, node);
                }
            }
            if let Some(node) = state.nodes.get(&id) {
                // Not awaited: the write before a start is, and it comes after this one.
                drop(self.journal.submit(vec![Write::Node(id, Box::new(node.record.clone()))]));
            }
        }
        self.wake(id);
    }

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
        }
    }

    /// What is seen of a node that was not shown yet. Nothing where a start in the middle has to be decided first.
    fn first_report(&self, id: NodeId, node: &Node) -> Option<NodeReport> {
        let seen = node.seen.as_ref().filter(|_| node.record.intent.is_none())?;
        let (state, detail) = node.record.observe(seen);
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

    /// Forgets a node that is gone.
    pub(crate) async fn forget(&self, id: NodeId) {
        let written = {
            self.state().nodes.remove(&id);
            self.journal.submit(vec![Write::Forget(id)])
        };
        if let Err(error) = written.done().await {
            tracing::warn!(node = %id, error, "a node that is gone stays in the journal");
        }
    }

    /// A new stream: everything there is, and from now on every change is queued for it.
    pub(crate) fn connect(&self) -> Hello {
        let mut state = self.state();
        state.connected = true;
        state.reports.clear();
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

    /// Notes what a driver says of itself; logs and sends it when that changed.
    pub(crate) fn driver_status(&self, status: DriverStatus) {
        let mut state = self.state();
        let Some(known) = state.facts.drivers.iter_mut().find(|d| d.node_type == status.node_type) else { return };
        if *known == status {
            return;
        }
        log_driver(&status);
        *known = status;
        state.facts_changed = true;
        self.outgoing.notify_one();
    }

    /// The usage block to send now: the one that waits for its acknowledgement again if `resend`, else a new one if
    /// none waits.
    pub(crate) fn usage_block(&self, resend: bool) -> Option<UsageBlock> {
        let mut state = self.state();
        if let Some(block) = &state.in_flight {
            return resend.then(|| block.clone());
        }
        if state.pending.is_empty() {
            return None;
        }
        let block = UsageBlock { id: state.next_block, samples: state.pending.values().cloned().collect() };
        state.next_block += 1;
        state.in_flight = Some(block.clone());
        Some(block)
    }

    /// The server has a block: what was in it and did not change since need not be sent again.
    pub(crate) fn usage_acknowledged(&self, block_id: i64) {
        let mut state = self.state();
        let Some(block) = state.in_flight.take_if(|b| b.id == block_id) else { return };
        let mut done = Vec::new();
        for sample in block.samples {
            let Ok(id) = NodeId::parse(&sample.node_id) else { continue };
            let key = (id, sample.boot);
            if state.pending.get(&key).is_some_and(|p| p.seq <= sample.seq) {
                state.pending.remove(&key);
                let counting = state.nodes.get(&id).and_then(|n| n.meter.as_ref()).is_some_and(|m| m.boot() == key.1);
                if !counting {
                    done.push(Write::MeterDone(id, key.1));
                }
            }
        }
        if !done.is_empty() {
            drop(self.journal.submit(done));
        }
        if !state.pending.is_empty() {
            self.outgoing.notify_one();
        }
    }

    /// Puts a sample of each node that counts into the next block, and keeps the meters.
    pub(crate) async fn sample_all(&self) {
        let written = {
            let mut state = self.state();
            let state = &mut *state;
            let mut writes = Vec::new();
            for (id, node) in &mut state.nodes {
                // Until a start is decided its boot may be another attempt's: it has no samples yet.
                if node.record.intent.is_none()
                    && let Some(meter) = &mut node.meter
                    && let Some(sample) = meter.next_sample()
                {
                    state.pending.insert((*id, sample.boot), sample);
                    writes.push(Write::Meter(*id, Box::new(meter.clone())));
                }
            }
            if writes.is_empty() {
                return;
            }
            self.journal.submit(writes)
        };
        // Before they are sent, so that no sequence number is ever used twice.
        if let Err(error) = written.done().await {
            tracing::error!(error, "usage cannot be kept");
        }
        self.outgoing.notify_one();
    }

    /// Reads a node's counters and adds them to its meter. A reading that another one overtook is taken again.
    pub(crate) async fn read_meter(&self, id: NodeId, driver: &dyn Driver) {
        loop {
            let Some(before) = self.with(id, |n| n.meter.as_ref().map(|_| n.readings)).flatten() else { return };
            let reading = match driver.usage(id).await {
                Ok(reading) => reading,
                Err(error) => {
                    tracing::debug!(node = %id, %error, "counters cannot be read now");
                    return;
                }
            };
            let now = self.clock.now();
            let added = self.with(id, |n| {
                let current = n.readings == before;
                if current && let Some(meter) = &mut n.meter {
                    meter.add(&reading, now);
                    n.readings += 1;
                }
                current
            });
            if added != Some(false) {
                return;
            }
        }
    }

    /// A boot is over: its last counters become a sample that is kept until the server has it.
    pub(crate) async fn end_meter(&self, id: NodeId, driver: &dyn Driver) {
        self.read_meter(id, driver).await;
        let written = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(mut meter) = state.nodes.get_mut(&id).and_then(|n| n.meter.take()) else { return };
            meter.ended = true;
            let Some(sample) = meter.next_sample() else { return };
            state.pending.insert((id, sample.boot), sample);
            self.journal.submit(vec![Write::Meter(id, Box::new(meter))])
        };
        if let Err(error) = written.done().await {
            tracing::error!(node = %id, error, "the last usage of a boot cannot be kept");
        }
        self.outgoing.notify_one();
    }
}

/// One line on a driver.
pub(crate) fn log_driver(status: &DriverStatus) {
    let DriverStatus { node_type: _, name, ready, missing, overhead_fixed: _, overhead_per_node: _ } = status;
    if *ready {
        tracing::info!("{name}: ready");
    } else {
        tracing::warn!("{name}: {missing}");
    }
}
