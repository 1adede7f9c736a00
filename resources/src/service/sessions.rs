//! The agents that are connected to this process.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;
use yiqiu_base::{
    Id, NodeType,
    id::{Host, Node},
};

use crate::model::{NodeModel, Open};

/// What goes to an agent.
#[derive(Debug, Clone)]
pub enum Push {
    /// What one node should be.
    Assign(Box<NodeModel>),
    /// A stream that it should dial for.
    Open(Box<Open>),
    /// Say what is there.
    Inventory {
        /// Of the question.
        id: uuid::Uuid,
    },
    /// Do what ops decided about something that nobody claims.
    Orphan {
        /// Of the question.
        id: uuid::Uuid,
        /// By which driver it was found.
        node_type: NodeType,
        /// What that driver calls it.
        handle: String,
        /// The node that it is to be from now on; `None`: take it away.
        adopt_as: Option<Id<Node>>,
    },
}

/// How many pushes may wait for a slow agent. One that falls further behind is cut off, and gets the full set when it
/// dials again.
const BEHIND_MOST: usize = 4096;

/// The connected agents.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Inner>);

/// The newest session of each host, with its number.
type Connected = HashMap<Id<Host>, (u64, mpsc::Sender<Push>)>;

#[derive(Default)]
struct Inner {
    connected: Mutex<Connected>,
    numbers: AtomicU64,
}

impl Sessions {
    fn connected(&self) -> MutexGuard<'_, Connected> {
        self.0.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the session of a host. An older one of the same host ends: its stream closes.
    pub(super) fn open(&self, host: Id<Host>) -> (u64, mpsc::Receiver<Push>) {
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(BEHIND_MOST);
        self.connected().insert(host, (number, sender));
        metrics::gauge!("yiqiu_agents_connected").set(self.count());
        (number, receiver)
    }

    /// Closes a session; `false` if a newer one took its place.
    pub(super) fn close(&self, host: Id<Host>, number: u64) -> bool {
        let mut connected = self.connected();
        // One that fell behind is not in the map any more, and is lost all the same.
        let current = connected.get(&host).is_none_or(|(n, _)| *n == number);
        if current {
            connected.remove(&host);
        }
        drop(connected);
        metrics::gauge!("yiqiu_agents_connected").set(self.count());
        current
    }

    /// Ends the session of a host, if there is one: its stream closes.
    pub(super) fn end(&self, host: Id<Host>) {
        self.connected().remove(&host);
        metrics::gauge!("yiqiu_agents_connected").set(self.count());
    }

    /// Whether this is the newest session of its host.
    pub(super) fn is_current(&self, host: Id<Host>, number: u64) -> bool {
        self.connected().get(&host).is_some_and(|(n, _)| *n == number)
    }

    /// Whether a host's agent is connected.
    pub(super) fn is_open(&self, host: Id<Host>) -> bool {
        self.connected().contains_key(&host)
    }

    /// Tells agents what nodes should be.
    pub(super) fn assign<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeModel>) {
        for node in nodes {
            self.push(node.host_id, Push::Assign(Box::new(node.clone())));
        }
    }

    /// Tells an agent something; false if it is not connected.
    pub(super) fn tell(&self, host: Id<Host>, push: Push) -> bool {
        let open = self.is_open(host);
        self.push(host, push);
        open
    }

    /// Sends to a host's agent, if it is connected. An agent that is not will get the full set when it dials.
    pub(super) fn push(&self, host: Id<Host>, push: Push) {
        let mut connected = self.connected();
        if let Some((_, sender)) = connected.get(&host)
            && sender.try_send(push).is_err()
        {
            tracing::warn!(%host, "the agent does not keep up: its session is cut, and begins anew with the full set");
            connected.remove(&host);
        }
    }

    /// Counts changes of nodes for the metrics.
    pub(super) fn changed(&self, nodes: &[NodeModel]) {
        for node in nodes {
            metrics::counter!("yiqiu_node_changes_total", "state" => node.state.as_str()).increment(1);
        }
    }

    #[allow(clippy::cast_precision_loss)] // a count of connections
    fn count(&self) -> f64 {
        self.connected().len() as f64
    }
}
