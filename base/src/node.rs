//! The words that describe a node, the same in every tier and on every wire.

use crate::words;

words! {
    /// How a host is cut.
    NodeType, "node type" {
        /// Virtual machines: VNodes.
        Vm = "vm",
        /// Containers: CNodes.
        Cm = "cm",
        /// The whole bare host: one BNode.
        Bm = "bm",
    }
}

words! {
    /// A power state: what is wished for a node, and what its claim is metered as.
    Power, "power state" {
        /// It runs, or should.
        On = "on",
        /// It keeps its claim and its disk.
        Off = "off",
        /// Its memory is kept on disk.
        Hibernated = "hibernated",
    }
}

words! {
    /// What its health command says of a node.
    #[derive(Default)]
    Health, "health" {
        /// It has no health command, or does not run.
        #[default]
        None = "none",
        /// It was started a moment ago, and the command did not succeed yet.
        Starting = "starting",
        /// The command succeeded last time.
        Healthy = "healthy",
        /// The command failed as often in a row as the check allows.
        Unhealthy = "unhealthy",
    }
}

words! {
    /// What is seen of a node on its host.
    NodeState, "node state" {
        /// Claimed; nothing is on the host yet.
        Pending = "pending",
        /// Its image is fetched and its root made.
        Preparing = "preparing",
        /// It is being started.
        Starting = "starting",
        /// It runs.
        Running = "running",
        /// It is being stopped.
        Stopping = "stopping",
        /// It was made, and does not run.
        Off = "off",
        /// It died, or could not be made or started.
        Failed = "failed",
        /// Its memory is on disk.
        Hibernated = "hibernated",
        /// It is being taken away.
        Removing = "removing",
        /// It was taken away, and that was verified.
        Gone = "gone",
    }
}

impl NodeState {
    /// What a claim is metered as while its node is seen like this.
    pub fn metered_as(self) -> Power {
        match self {
            NodeState::Running | NodeState::Stopping => Power::On,
            NodeState::Hibernated => Power::Hibernated,
            NodeState::Pending
            | NodeState::Preparing
            | NodeState::Starting
            | NodeState::Off
            | NodeState::Failed
            | NodeState::Removing
            | NodeState::Gone => Power::Off,
        }
    }
}
