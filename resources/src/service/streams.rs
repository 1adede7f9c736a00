//! Streams of nodes: asked for here, dialled by the agent, brought together by their id. Nothing of them is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use yiqiu_base::{
    Code, Id, Principal, Problem,
    id::{Host, Node, Stream},
    telemetry::request_id,
};

use super::{Push, Service};
use crate::model::{ExecWanted, FromNode, HostState, LogsWanted, NodeModel, Open, ToNode, Wanted};

/// How many streams of a node there may be at once.
const OF_NODE_MOST: usize = 8;
/// How long an agent may take to open one.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// The agent's end of a stream.
pub struct Attached {
    /// What the node says; bounded, so that a slow reader holds it back.
    pub from: mpsc::Receiver<FromNode>,
    /// What it is told.
    pub to: mpsc::Sender<ToNode>,
}

/// A stream that is open. It ends when this is dropped.
pub struct NodeStream {
    attached: Attached,
    _counted: Counted,
}

impl NodeStream {
    /// What comes next; `None` at the end.
    pub async fn next(&mut self) -> Option<FromNode> {
        self.attached.from.recv().await
    }

    /// The way to the node.
    pub fn to(&self) -> mpsc::Sender<ToNode> {
        self.attached.to.clone()
    }
}

/// The streams that are waited for, and how many each node has.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    waiting: HashMap<Id<Stream>, (Id<Host>, oneshot::Sender<Attached>)>,
    of_node: HashMap<Id<Node>, usize>,
}

impl Streams {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, node: &NodeModel) -> Result<Counted, Problem> {
        let mut inner = self.inner();
        let open = inner.of_node.entry(node.id).or_default();
        if *open >= OF_NODE_MOST {
            return Err(Problem {
                retry_after_s: Some(5),
                ..Problem::new(
                    Code::RateLimited,
                    format!(
                        "node {} has {open} streams of output and commands open: at most {OF_NODE_MOST}; end one first",
                        node.name
                    ),
                )
            });
        }
        *open += 1;
        Ok(Counted { streams: self.clone(), node: node.id })
    }
}

/// One of the streams of a node, for as long as it lives.
struct Counted {
    streams: Streams,
    node: Id<Node>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut inner = self.streams.inner();
        if let Some(open) = inner.of_node.get_mut(&self.node) {
            *open -= 1;
            if *open == 0 {
                inner.of_node.remove(&self.node);
            }
        }
    }
}

/// A stream that is waited for, for as long as that lasts.
struct Waiting {
    streams: Streams,
    id: Id<Stream>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.streams.inner().waiting.remove(&self.id);
    }
}

impl Service {
    /// The output of a node.
    pub async fn node_logs(&self, who: &Principal, id: Id<Node>, wanted: LogsWanted) -> Result<NodeStream, Problem> {
        if wanted.since_ms < 0 {
            return Err(Problem::invalid("`since_ms` is milliseconds since 1970, not negative"));
        }
        let node = self.node_get(who, id).await?;
        self.stream(&node, Wanted::Logs(wanted)).await
    }

    /// Whether [`Service::node_exec`] could be asked for: whose node it is, and whether it runs.
    pub async fn node_exec_check(&self, who: &Principal, id: Id<Node>) -> Result<NodeModel, Problem> {
        let node = self.node_get(who, id).await?;
        self.reached(&node)?;
        Ok(node)
    }

    /// Runs a command in a node. That someone did is in the events before it runs.
    pub async fn node_exec(&self, who: &Principal, id: Id<Node>, wanted: ExecWanted) -> Result<NodeStream, Problem> {
        wanted.check()?;
        let node = self.node_exec_check(who, id).await?;
        self.store().node_exec_noted(who, &node, &wanted, self.now()).await?;
        self.stream(&node, Wanted::Exec(wanted)).await
    }

    fn reached(&self, node: &NodeModel) -> Result<(), Problem> {
        let host = &node.host_name;
        if node.host_state == HostState::Joining || !self.0.sessions.is_open(node.host_id) {
            return Err(Problem {
                retry_after_s: Some(5),
                ..Problem::new(Code::Unavailable, format!("host {host} is unreachable: its agent is not connected"))
            });
        }
        Ok(())
    }

    async fn stream(&self, node: &NodeModel, wanted: Wanted) -> Result<NodeStream, Problem> {
        self.reached(node)?;
        let counted = self.0.streams.count(node)?;
        let id = Id::<Stream>::new();
        let (to, attached) = oneshot::channel();
        let waiting = Waiting { streams: self.0.streams.clone(), id };
        self.0.streams.inner().waiting.insert(id, (node.host_id, to));
        let open = Open { id, node_id: node.id, request_id: request_id(), wanted };
        self.0.sessions.push(node.host_id, Push::Open(Box::new(open)));
        let opening = async {
            let mut attached = attached.await.ok()?;
            let first = attached.from.recv().await?;
            Some((attached, first))
        };
        let opened = tokio::time::timeout(OPEN_WITHIN, opening).await;
        drop(waiting);
        match opened {
            Ok(Some((attached, FromNode::Opened))) => Ok(NodeStream { attached, _counted: counted }),
            Ok(Some((_, FromNode::Refused(problem)))) => Err(problem),
            Ok(Some((_, FromNode::Piece { .. } | FromNode::Exited(_)))) => {
                Err(Problem::internal("an agent wrote before it opened a stream"))
            }
            Ok(None) | Err(_) => Err(Problem::new(
                Code::Unavailable,
                format!("the agent of host {} did not open the stream: try again", node.host_name),
            )),
        }
    }

    /// An agent dialled for a stream: hands its end to whoever waits for it. `not_found` where nobody does, or not from
    /// this host.
    pub fn stream_attach(&self, host: Id<Host>, id: Id<Stream>, attached: Attached) -> Result<(), Problem> {
        let nobody = || Problem::not_found("stream", id);
        let mut inner = self.0.streams.inner();
        if inner.waiting.get(&id).is_none_or(|(of, _)| *of != host) {
            return Err(nobody());
        }
        let (_, waiter) = inner.waiting.remove(&id).ok_or_else(nobody)?;
        waiter.send(attached).map_err(|_| nobody())
    }
}
