//! What Projects knows: people, projects, tokens, and what is metered of them.

use serde::{Deserialize, Serialize};
use yiqiu_base::{Id, Power, Size, clock::Ms, id, principal::Role, secret::Secret};

/// The id of a [`User`].
pub type UserId = Id<id::User>;
/// The id of a [`Project`].
pub type ProjectId = Id<id::Project>;
/// The id of a [`Token`].
pub type TokenId = Id<id::Token>;
/// The id of a line of an RContract, which is what is metered.
pub type LineId = Id<id::Line>;

/// Someone who may hold tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Unique.
    pub name: String,
    /// Whether it may hold tokens of the role ops.
    pub ops: bool,
    /// When it was made.
    pub created_ms: Ms,
}

/// Whom a bill is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Unique among the projects that are not deleted.
    pub name: String,
    /// When it was made.
    pub created_ms: Ms,
    /// When it was deleted. Its row stays, so that what it used can still be reported.
    pub deleted_ms: Option<Ms>,
}

impl Project {
    /// The label that its contracts carry.
    pub fn owner(&self) -> String {
        owner_label(self.id)
    }
}

/// The owner label of a project's contracts.
pub fn owner_label(project: ProjectId) -> String {
    format!("project:{project}")
}

/// The project that an owner label names; `None` for every other label.
pub fn project_of(owner: &str) -> Option<ProjectId> {
    owner.strip_prefix("project:").and_then(|id| ProjectId::parse(id).ok())
}

/// A user in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// Its name.
    pub user_name: String,
    /// What it may do there: tenant, for now.
    pub role: Role,
    /// Since when.
    pub created_ms: Ms,
}

/// A credential of a user, without its secret: that is known to its holder only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Unique among the good tokens of its user.
    pub name: String,
    /// Whose it is.
    pub user: UserId,
    /// The name of whose it is.
    pub user_name: String,
    /// What it may do.
    pub role: Role,
    /// In the name of which project; always set for tenants.
    pub project: Option<ProjectId>,
    /// The name of that project.
    pub project_name: Option<String>,
    /// When it was made.
    pub created_ms: Ms,
    /// From when on it is refused.
    pub expires_ms: Ms,
    /// When it was revoked.
    pub revoked_ms: Option<Ms>,
    /// The tenant's token that it was made with: it ends with that one at the latest.
    pub parent: Option<TokenId>,
}

/// A token as the answer to whoever made it. A repeated request finds no secret: it was shown, and is not kept.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The token.
    pub token: Token,
    /// Its secret, the first time.
    pub secret: Option<Secret>,
}

/// What is asked for in a new token.
#[derive(Debug, Clone, Serialize)]
pub struct TokenRequest {
    /// Its name; made up if absent.
    pub name: Option<String>,
    /// The user by name or id; who asks, if absent.
    pub user: Option<String>,
    /// What it may do; if absent, tenant with a project and ops without.
    pub role: Option<Role>,
    /// The project by name or id.
    pub project: Option<String>,
    /// How long it holds, in milliseconds; 90 days if neither this nor `expires_ms` is there.
    pub ttl_ms: Option<i64>,
    /// Until when it holds, instead of how long.
    pub expires_ms: Option<Ms>,
}

/// Who asks, as Projects sees them.
#[derive(Debug, Clone)]
pub struct Whoami {
    /// Such as `user:alice`.
    pub subject: String,
    /// What the credential may do.
    pub role: Role,
    /// The owner label it acts for; empty for none.
    pub owner: String,
    /// The project behind that label.
    pub project: Option<Project>,
    /// When this proof of who it is ends (not the token behind it).
    pub expires_ms: Ms,
}

/// A stretch of a claim in one power state: what a line reserved from `from_ms` to `to_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Whose claim.
    pub line: LineId,
    /// The contract that holds the line.
    pub rcontract: Id<id::RContract>,
    /// The owner label of that contract.
    pub owner: String,
    /// The name of the node under the line.
    pub node_name: String,
    /// What it is metered as.
    pub power: Power,
    /// What it reserves.
    pub size: Size,
    /// Its first millisecond.
    pub from_ms: Ms,
    /// The first millisecond after it; `None` while it is open.
    pub to_ms: Option<Ms>,
}

/// From `from_ms` on, what a line claims and uses belongs to this component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The line.
    pub line: LineId,
    /// The component.
    pub component: Id<id::Component>,
    /// Its name.
    pub component_name: String,
    /// The contract that keeps the component.
    pub ccontract: Id<id::CContract>,
    /// Its name.
    pub ccontract_name: String,
    /// The owner label of that contract.
    pub owner: String,
    /// Since when.
    pub from_ms: Ms,
}

/// What was measured of a line in some time. All of it is additive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actual {
    /// Nanoseconds of processor time.
    pub cpu_ns: i128,
    /// The integral of memory in use over time, in byte-milliseconds.
    pub memory_byte_ms: i128,
    /// Bytes received.
    pub net_rx_bytes: i128,
    /// Bytes sent.
    pub net_tx_bytes: i128,
    /// Bytes read from disk.
    pub block_read_bytes: i128,
    /// Bytes written to disk.
    pub block_write_bytes: i128,
}

impl std::ops::AddAssign for Actual {
    fn add_assign(&mut self, other: Self) {
        let Self { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } = other;
        self.cpu_ns += cpu_ns;
        self.memory_byte_ms += memory_byte_ms;
        self.net_rx_bytes += net_rx_bytes;
        self.net_tx_bytes += net_tx_bytes;
        self.block_read_bytes += block_read_bytes;
        self.block_write_bytes += block_write_bytes;
    }
}

/// The payload of `user.created` and `user.deleted`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserChanged {
    /// The user.
    pub user_id: String,
    /// Its name.
    pub name: String,
    /// Whether it may hold ops tokens.
    pub ops: bool,
}

/// The payload of `project.created` and `project.deleted`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProjectChanged {
    /// The project.
    pub project_id: String,
    /// Its name.
    pub name: String,
}

/// The payload of `member.added` and `member.removed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberChanged {
    /// The project.
    pub project_id: String,
    /// The user.
    pub user_id: String,
    /// Its name.
    pub user_name: String,
    /// What it may do there.
    pub role: Role,
}

/// The payload of `token.created` and `token.revoked`: never the secret, nor its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenChanged {
    /// The token.
    pub token_id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user_name: String,
    /// What it may do.
    pub role: Role,
    /// Until when it holds.
    pub expires_ms: Ms,
}
