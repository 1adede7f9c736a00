//! The words that describe a node, the same in every tier and on every wire.

use serde::{Deserialize, Serialize};

use crate::Problem;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $noun:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word, as it is stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// Reads the word; `invalid_argument` with the words there are otherwise.
            pub fn parse(text: &str) -> Result<Self, Problem> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err(Problem::invalid(format!(
                        concat!("`{}` is not a ", $noun, ": expected {}"),
                        crate::name::shown(text), [$($text),*].join(", ")
                    ))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Problem;
            fn from_str(text: &str) -> Result<Self, Problem> { Self::parse(text) }
        }
    };
}

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
