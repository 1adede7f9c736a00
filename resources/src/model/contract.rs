//! The term of a contract, and what is kept of its changes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{Size, clock::Ms};

/// From when until when a contract holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Term {
    /// When its nodes start; what it holds it holds from its making on. Absent: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_ms: Option<Ms>,
    /// When its nodes are switched off. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<Ms>,
    /// How long after its end it still holds everything, and can be renewed, in milliseconds.
    pub grace_ms: Ms,
}

/// Who asks for a change, and why.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The subject, such as `user:<id>`.
    pub who: &'a str,
    /// In their own words; may be empty.
    pub reason: &'a str,
}

impl By<'static> {
    /// Nobody asked: time, or an agent's report.
    pub const TIER: Self = Self { who: "service:resources", reason: "" };
}

/// A line as it was at the time of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineThen {
    /// Its name.
    pub name: String,
    /// Its host, by name.
    pub host: String,
    /// What it was to hold.
    pub size: Size,
}

/// Another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Renamed {
    /// Before.
    pub from: String,
    /// Since.
    pub to: String,
}

/// Another size of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resized {
    /// Which line.
    pub line: String,
    /// Before.
    pub from: Size,
    /// Since.
    pub to: Size,
}

/// What a change changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// It was made.
    Created {
        /// With these lines.
        lines: Vec<LineThen>,
    },
    /// Its start came.
    Started {
        /// Nodes that were powered on.
        nodes: i64,
    },
    /// Its end was moved.
    Renewed {
        /// The end before; absent: it had none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_ms: Option<Ms>,
        /// The end since; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_ms: Option<Ms>,
        /// Nodes that were powered on again.
        nodes: i64,
    },
    /// It was amended in place.
    Amended {
        /// Its name changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Renamed>,
        /// Lines that came.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        added: Vec<LineThen>,
        /// Lines that went.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<LineThen>,
        /// Lines of another size.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        resized: Vec<Resized>,
        /// Lines of another name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        renamed: Vec<Renamed>,
    },
    /// Its end came.
    Ending {
        /// Nodes that were powered off.
        nodes: i64,
        /// When it is released unless it is renewed.
        release_ms: Ms,
    },
    /// Its grace was over: its release began.
    Expired,
    /// Its release was asked for.
    Releasing,
    /// It held nothing any more.
    Released,
}

/// One change in the history of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RContractChange)]
pub struct Entry {
    /// The generation that it led to.
    pub generation: i64,
    /// When.
    pub at_ms: Ms,
    /// Who asked.
    pub who: String,
    /// Why, in their words.
    pub reason: String,
    /// The request.
    pub request_id: String,
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
}
