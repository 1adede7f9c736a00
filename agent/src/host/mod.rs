//! What this agent knows of its host: assignments, what is seen of each node, and what the server is yet to hear.

mod reports;
mod usage;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use yiqiu_base::{Clock, NodeType};
use yiqiu_proto::{
    agent::{Assignment, DriverStatus, Facts, NodeReport, Sample, UsageBlock, agent_message},
    link::Link,
};

use crate::{
    driver::{Driver, NodeId, Seen},
    images::Images,
    journal::{Journal, Kept, Write},
    lifecycle::{Action, is_cut_short},
    meter::Meter,
    record::Record,
    session::Identity,
    streams::STREAMS_MOST,
};

/// One host as its agent has it. Shared by the session, the watchers and the worker's tasks.
pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) clock: Clock,
    /// Changes when the machine boots.
    pub(crate) boot_id: String,
    pub(crate) drivers: Vec<Arc<dyn Driver>>,
    pub(crate) journal: Journal,
    pub(crate) images: Images,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// One permit for each stream of a node at once.
    pub(crate) streams: Semaphore,
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
    /// Answers to what the server asked in this session.
    pub(crate) answers: VecDeque<agent_message::Message>,
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
    /// The server named it since this agent began. Before that nothing is done with it: what the journal wishes may be
    /// of yesterday.
    pub(crate) named: bool,
    /// A task works on it.
    pub(crate) busy: bool,
    /// The action that it does now, and how to cut it short.
    pub(crate) underway: Option<(Action, CancellationToken)>,
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

    /// An action begins; the token is cancelled when a newer wish cuts it short.
    pub(crate) fn begin(&mut self, action: Action) -> CancellationToken {
        let cut = CancellationToken::new();
        self.underway = Some((action, cut.clone()));
        cut
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
        let boot_id = facts.boot_id.clone();
        let mut state = State {
            nodes: nodes.into_iter().map(|(id, record)| (id, Node { record, ..Node::default() })).collect(),
            orphans: HashMap::new(),
            facts,
            epoch,
            connected: false,
            reports: VecDeque::new(),
            answers: VecDeque::new(),
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
            boot_id,
            drivers,
            journal,
            images,
            stop,
            tasks: TaskTracker::new(),
            streams: Semaphore::new(STREAMS_MOST),
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
                Some(node) if !node.record.is_older_than(epoch, assignment.revision) => {
                    if std::mem::replace(&mut node.named, true) {
                        return;
                    }
                    node.stale = true;
                }
                Some(node) => {
                    node.named = true;
                    // The server knows of a start that this journal does not: it is an old copy, and so is its meter.
                    if assignment.boot > node.record.boot
                        && let Some(meter) = node.meter.take()
                    {
                        drop(self.journal.submit(vec![Write::MeterDone(id, meter.boot())]));
                    }
                    node.record.assign(assignment, epoch);
                    node.attempts = 0;
                    if let Some((action, cut)) = &node.underway
                        && is_cut_short(*action, node.record.goal(), node.record.removed())
                    {
                        cut.cancel();
                    }
                    // A new wish is decided on what is true now, not on what was seen last.
                    node.stale |= node.record.fresh();
                }
                None => {
                    let seen = state.orphans.remove(&id).map(|(_, seen)| seen);
                    let record = Record::of(assignment, epoch);
                    let node = Node { record, seen, stale: true, named: true, ..Node::default() };
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

    /// Obeys a full set. What it does not name is nobody's: its record is let go, so that nothing is done under it any
    /// more, and what is there of it is found as an orphan.
    pub(crate) fn obey_all(self: &Arc<Self>, assignments: Vec<Assignment>, epoch: u64) {
        let named: HashSet<NodeId> = assignments.iter().filter_map(|a| NodeId::parse(&a.node_id).ok()).collect();
        let mut left = Vec::new();
        {
            let mut state = self.state();
            let disowned: Vec<NodeId> = state.nodes.keys().filter(|id| !named.contains(id)).copied().collect();
            for id in disowned {
                tracing::warn!(node = %id, "the server does not name a node of the journal: nothing is done with it");
                let Some(node) = state.nodes.remove(&id) else { continue };
                left.extend(node.node_type().zip(node.seen).map(|(node_type, seen)| (id, node_type, seen)));
                let meter = node.meter.map(|meter| meter.boot());
                // What was counted and not acknowledged is still told.
                let meter = meter.filter(|boot| !state.pending.contains_key(&(id, *boot)));
                let meter = meter.map(|boot| Write::MeterDone(id, boot));
                drop(self.journal.submit([Some(Write::Forget(id)), meter].into_iter().flatten().collect()));
            }
        }
        for (id, node_type, seen) in left {
            self.orphan(id, node_type, seen);
        }
        for assignment in assignments {
            self.obey(assignment, epoch);
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
}

/// One line on a driver.
pub(crate) fn log_driver(status: &DriverStatus) {
    let DriverStatus { node_type: _, name, ready, missing, overhead_fixed: _, overhead_per_node: _, unbound } = status;
    if *ready {
        tracing::info!(unbound, "{name}: ready");
    } else {
        tracing::warn!("{name}: {missing}");
    }
}
