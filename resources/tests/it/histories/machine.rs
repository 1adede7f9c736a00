//! A machine with its agent: it hears late, acts one thing at a time, and what it says may arrive late, twice, out of
//! order or not at all. It starts a node once for each generation.

use std::collections::{BTreeMap, HashSet, VecDeque};

use tokio::sync::mpsc::Receiver;
use yiqiu_base::{Health, NodeState, Power, secret::Secret};
use yiqiu_resources::{
    model::{NodeModel, Report},
    service::Push,
};

/// A node as it is on its machine.
#[derive(Debug, Clone)]
pub(super) struct OnHost {
    pub(super) wish: NodeModel,
    pub(super) state: NodeState,
    pub(super) carried: i64,
    pub(super) boot: i64,
    /// The revision by whose size it is bound.
    pub(super) sized: i64,
    pub(super) cpu: i64,
}

pub(super) struct Session {
    pub(super) number: u64,
    pub(super) pushes: Receiver<Push>,
}

pub(super) struct Machine {
    pub(super) credential: Secret,
    pub(super) session: Option<Session>,
    /// By the number of their lines.
    pub(super) nodes: BTreeMap<usize, OnHost>,
    pub(super) kept: Option<BTreeMap<usize, OnHost>>,
    /// It came back as it was some time ago: what was released since may be there again.
    pub(super) returned: bool,
    /// What it said and nobody heard yet, and what was heard.
    pub(super) saying: VecDeque<(usize, Report)>,
    pub(super) said: Vec<(usize, Report)>,
    started: HashSet<(usize, i64)>,
    /// What was carried out for each node, and how often it was started: kept when the node itself is gone.
    journal: BTreeMap<usize, (i64, i64)>,
}

impl Machine {
    pub(super) fn new(credential: Secret) -> Self {
        Self {
            credential,
            session: None,
            nodes: BTreeMap::new(),
            kept: None,
            returned: false,
            saying: VecDeque::new(),
            said: Vec::new(),
            started: HashSet::new(),
            journal: BTreeMap::new(),
        }
    }

    pub(super) fn picked(&self, pick: u32) -> Option<usize> {
        let count = self.nodes.len();
        (count > 0).then(|| *self.nodes.keys().nth(pick as usize % count).expect("within the count"))
    }

    /// What it says of a node now.
    pub(super) fn report(&self, line: usize) -> Report {
        let OnHost { wish, state, carried, boot, sized, cpu: _ } = &self.nodes[&line];
        Report {
            node_id: wish.id,
            state: *state,
            generation: *carried,
            boot: *boot,
            detail: String::new(),
            ports: Vec::new(),
            health: Health::None,
            revision: wish.revision,
            sized: *sized,
        }
    }

    fn say(&mut self, line: usize) {
        let report = self.report(line);
        self.saying.push_back((line, report));
    }

    /// Takes what it is told a node should be, unless it knows better.
    pub(super) fn told(&mut self, line: usize, wish: NodeModel) {
        let (carried, boot) = self.journal.get(&line).copied().unwrap_or_default();
        let (carried, boot) = (carried.max(wish.carried), boot.max(wish.boot));
        let node = self.nodes.entry(line).or_insert_with(|| OnHost {
            // One that was started once and has no trace here died.
            state: if carried > 0 { NodeState::Failed } else { NodeState::Pending },
            carried,
            boot,
            sized: 0,
            cpu: 0,
            wish: wish.clone(),
        });
        if wish.revision >= node.wish.revision {
            (node.carried, node.boot) = (node.carried.max(wish.carried), node.boot.max(wish.boot));
            node.wish = wish;
        }
    }

    /// Does the next thing for a node; `false` if there is nothing to do. `Err` if it would do a thing twice.
    pub(super) fn act(&mut self, line: usize) -> Result<bool, String> {
        let Some(node) = self.nodes.get_mut(&line) else { return Ok(false) };
        let OnHost { wish, state, carried, boot, sized, cpu } = node;
        let fresh = *carried < wish.generation;
        if *sized < wish.revision && !wish.removed {
            *sized = wish.revision;
        } else {
            *state = match (wish.removed, wish.power, *state) {
                (true, _, NodeState::Running) => NodeState::Stopping,
                (true, _, NodeState::Stopping) => NodeState::Removing,
                (true, _, _) => NodeState::Gone,
                (false, Power::On, NodeState::Running) if fresh && wish.reboot => NodeState::Stopping,
                (false, Power::On, NodeState::Running) if fresh => {
                    *carried = wish.generation;
                    NodeState::Running
                }
                (false, Power::On, NodeState::Stopping) => NodeState::Off,
                (false, Power::On, NodeState::Pending | NodeState::Off | NodeState::Failed) if fresh => {
                    NodeState::Preparing
                }
                (false, Power::On, NodeState::Preparing) => NodeState::Starting,
                (false, Power::On, NodeState::Starting) => {
                    *carried = wish.generation;
                    (*boot, *cpu) = (*boot + 1, 0);
                    if !self.started.insert((line, wish.generation)) && !self.returned {
                        return Err(format!("node {} was started twice for generation {}", wish.name, wish.generation));
                    }
                    NodeState::Running
                }
                (false, Power::Off, NodeState::Running) => NodeState::Stopping,
                (false, Power::Off, NodeState::Stopping | NodeState::Preparing | NodeState::Starting) => {
                    *carried = (*carried).max(wish.generation);
                    NodeState::Off
                }
                _ => return Ok(false),
            };
        }
        self.journal.insert(line, (*carried, *boot));
        self.say(line);
        if self.nodes[&line].state == NodeState::Gone {
            self.nodes.remove(&line);
        }
        Ok(true)
    }

    /// A node that runs dies.
    pub(super) fn die(&mut self, line: usize) {
        let node = self.nodes.get_mut(&line).expect("a node of this machine");
        if node.state == NodeState::Running {
            node.state = NodeState::Failed;
            self.say(line);
        }
    }

    /// A node is gone, and nobody asked for that.
    pub(super) fn vanish(&mut self, line: usize) {
        let node = self.nodes.get_mut(&line).expect("a node of this machine");
        node.state = NodeState::Gone;
        self.say(line);
        self.nodes.remove(&line);
    }
}
