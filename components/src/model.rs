//! The nouns of Components, as the service and the edges see them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Id, NodeState, NodeType, Power, Problem, Size,
    clock::Ms,
    id::{CContract, Component, Host, Line, Node, RContract},
    words,
};

use crate::scheduler::Wish;

words! {
    /// What a component is.
    ComponentType, "component type" {
        /// A container from an image.
        Container = "container",
    }
}

words! {
    /// The life of a CContract.
    #[schema(as = CContractState)]
    State, "state of a ccontract" {
        /// Recorded; its resources are being asked for.
        Placing = "placing",
        /// It holds its resources.
        Placed = "placed",
        /// Its end was asked for; its resources are being taken away.
        Releasing = "releasing",
        /// It holds nothing any more, or never could.
        Released = "released",
    }
}

words! {
    /// What two components of a contract should not share.
    Across, "spread" {
        /// A machine.
        Host = "host",
        /// A rack.
        Rack = "rack",
        /// A zone.
        Zone = "zone",
    }
}

/// How the components of a contract keep apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// What no two of them should share.
    #[serde(default = "host")]
    pub across: Across,
    /// Rather no placement than a shared one.
    #[serde(default)]
    pub required: bool,
}

fn host() -> Across {
    Across::Host
}

impl Default for Spread {
    fn default() -> Self {
        Self { across: host(), required: false }
    }
}

/// A port of a component that is reachable on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ComponentPort)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port inside.
    pub node_port: u16,
    /// The port on the host; 0 in a request: the host picks one.
    #[serde(default)]
    pub host_port: u16,
    /// The address on the host; empty in a request: what Resources gives.
    #[serde(default)]
    pub host_address: String,
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ComponentVariable)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What each component of a contract needs: its preset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// What it reserves of its host.
    pub size: Size,
    /// The image it starts from, by name or id.
    pub image: String,
    /// What to run; empty: what the image says.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub environment: Vec<Variable>,
    /// Ports to publish.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The least clock of the host's processors, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_clock_mhz: Option<i64>,
}

/// A contract that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewCContract {
    /// Minted by the caller, if they want asking twice to be the same as once.
    pub id: Option<Id<CContract>>,
    /// Unique among its owner's until released.
    pub name: String,
    /// What its components are.
    pub component_type: ComponentType,
    /// How many, 1 to [`COUNT_MOST`].
    pub count: u32,
    /// What each needs.
    pub need: Need,
    /// Only in this region, by name or id.
    pub region: Option<String>,
    /// Only in this zone, by name or id.
    pub zone: Option<String>,
    /// How they keep apart.
    pub spread: Spread,
}

/// The most components of one contract.
pub const COUNT_MOST: u32 = 100;

/// The lease of components by need.
#[derive(Debug, Clone, PartialEq)]
pub struct CContractModel {
    /// Its id.
    pub id: Id<CContract>,
    /// Whose it is.
    pub owner: String,
    /// Unique among its owner's until released.
    pub name: String,
    /// What its components are.
    pub component_type: ComponentType,
    /// How many.
    pub count: u32,
    /// What each needs.
    pub need: Need,
    /// Only in this region.
    pub region: Option<String>,
    /// Only in this zone.
    pub zone: Option<String>,
    /// How they keep apart.
    pub spread: Spread,
    /// Where it is in its life.
    pub state: State,
    /// Grows with every change.
    pub generation: i64,
    /// When it was recorded.
    pub created_ms: Ms,
    /// By whom.
    pub created_by: String,
    /// The lease below: minted and recorded here before Resources is asked.
    pub rcontract_id: Id<RContract>,
    /// The image that was meant by its name when the contract was made.
    pub image_id: String,
    /// Why it is where it is; empty when that says itself.
    pub detail: String,
    /// Why it could not be had.
    pub refusal: Option<Problem>,
}

impl CContractModel {
    /// What the scheduler is asked for.
    pub(crate) fn wish(&self) -> Wish {
        Wish {
            count: self.count,
            size: self.need.size,
            least: self.component_type.least(),
            node_type: self.component_type.node_type(),
            min_clock_mhz: self.need.min_clock_mhz,
            region: self.region.clone(),
            zone: self.zone.clone(),
            spread: self.spread,
            held: HashMap::new(),
        }
    }
}

/// One instance that a contract keeps: one line of its RContract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentModel {
    /// Its id.
    pub id: Id<Component>,
    /// The contract it belongs to.
    pub ccontract_id: Id<CContract>,
    /// Whose it is.
    pub owner: String,
    /// Its number in the contract, from 0.
    pub ordinal: u32,
    /// `<ccontract>-<ordinal>`
    pub name: String,
    /// Its line: minted and recorded here before Resources is asked.
    pub line_id: Id<Line>,
    /// Its node, once Resources made one.
    pub node_id: Option<Id<Node>>,
    /// Where it was put.
    pub host_id: Id<Host>,
    /// Where it was put.
    pub host_name: String,
    /// What Resources knows of that host.
    pub host_state: String,
    /// Wished.
    pub power: Power,
    /// Grows with every wish.
    pub generation: i64,
    /// The newest wish that Resources has answered.
    pub asked: i64,
    /// The newest wish that its host carried out, or tried to.
    pub carried: i64,
    /// Seen.
    pub state: NodeState,
    /// What Resources says to it.
    pub detail: String,
    /// Ports as published.
    pub ports: Vec<Port>,
    /// Grows with everything that is written of it.
    pub version: i64,
}

/// What Resources says of the node of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeModel {
    /// Its id.
    pub id: Id<Node>,
    /// The line that holds it.
    pub line_id: Id<Line>,
    /// Where it is.
    pub host_id: Id<Host>,
    /// Where it is.
    pub host_name: String,
    /// What is known of that host.
    pub host_state: String,
    /// Whether its host carried out, or tried to, what was asked last.
    pub carried: bool,
    /// Seen.
    pub state: NodeState,
    /// Why it failed, or how far it is.
    pub detail: String,
    /// Ports as published.
    pub ports: Vec<Port>,
}

/// A contract with its components, in the order of their ordinals. A released one has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    /// The contract.
    pub contract: CContractModel,
    /// What it keeps.
    pub components: Vec<ComponentModel>,
}

/// What a component type is and promises now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ComponentTypeInfo {
    /// Its name.
    pub name: ComponentType,
    /// `cell`: each contract asks the pool for itself.
    pub distribution: &'static str,
    /// What its components are made of.
    pub node_type: NodeType,
    /// The power states that its components take.
    pub power_states: Vec<Power>,
    /// The most components of one contract.
    pub count_most: u32,
    /// What it promises now, and what not.
    pub promises: &'static str,
}

impl ComponentType {
    /// What it is made of.
    pub fn node_type(self) -> NodeType {
        match self {
            ComponentType::Container => NodeType::Cm,
        }
    }

    /// The least that one of its components can be given: what its driver can run.
    pub fn least(self) -> Size {
        match self {
            // Docker makes no container with less memory.
            ComponentType::Container => Size { cpu_millicores: 1, memory_bytes: 6 << 20, ..Size::ZERO },
        }
    }

    /// Whether its components take this power state.
    pub fn takes(self, power: Power) -> bool {
        match (self, power) {
            (ComponentType::Container, Power::On | Power::Off) => true,
            (ComponentType::Container, Power::Hibernated) => false, // a container's memory cannot be put on disk
        }
    }

    /// What people should know of it.
    pub fn info(self) -> ComponentTypeInfo {
        match self {
            ComponentType::Container => ComponentTypeInfo {
                name: self,
                distribution: "cell",
                node_type: self.node_type(),
                power_states: Power::ALL.iter().copied().filter(|p| self.takes(*p)).collect(),
                count_most: COUNT_MOST,
                promises: "One container, or n alike, each on a host with room for its whole size, kept apart across \
                           hosts, racks or zones as asked. What is reserved stays reserved while it is off. A \
                           container that dies, or whose host does, is shown so and stays so until someone powers it \
                           on; it is not yet started again or moved by itself.",
            },
        }
    }
}
