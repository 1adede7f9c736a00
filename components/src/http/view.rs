//! What people send and see. Conversions name every field, so that a new one breaks here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Code, Id, NodeState, Power, Problem,
    clock::Ms,
    id::{CContract, Component, Host, Line, Node, RContract},
};

use crate::{
    model::{CContractModel, ComponentModel, ComponentType, Need, NewCContract, Port, Spread, State, Whole},
    scheduler::Explanation,
    whole::Chosen,
};

/// A list that has one page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemsView<T> {
    /// The rows.
    pub(super) items: Vec<T>,
}

/// A ccontract that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewCContract)]
#[serde(deny_unknown_fields)]
pub(super) struct CContractAsk {
    /// Minted by the caller, if asking twice is to be the same as once.
    id: Option<Id<CContract>>,
    /// 1 to 60 of a-z, 0-9 and -; unique in the project until the contract is released.
    name: String,
    /// What its components are.
    component_type: ComponentType,
    /// How many: 1 to 100.
    #[serde(default = "one")]
    count: u32,
    /// What each needs.
    need: Need,
    /// How they keep apart; across hosts as far as can be had, if not said.
    #[serde(default)]
    spread: Spread,
    /// Only in this region, by name or id.
    region: Option<String>,
    /// Only in this zone, by name or id.
    zone: Option<String>,
}

fn one() -> u32 {
    1
}

impl From<CContractAsk> for NewCContract {
    fn from(ask: CContractAsk) -> Self {
        let CContractAsk { id, name, component_type, count, need, spread, region, zone } = ask;
        Self { id, name, component_type, count, need, region, zone, spread }
    }
}

/// The refusal of a contract for which there is no room.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)] // describes what `Problem` becomes under the code `no_placement`
pub(super) struct NoPlacement {
    code: Code,
    detail: String,
    data: Explanation,
}

/// A ccontract.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CContract)]
pub(super) struct CContractView {
    id: Id<CContract>,
    owner: String,
    name: String,
    component_type: ComponentType,
    count: u32,
    /// What each component needs: its preset.
    need: Need,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    spread: Spread,
    state: State,
    /// Why it is where it is; empty when that says itself.
    detail: String,
    /// Why it could not be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Problem>,
    /// Grows with every change.
    generation: i64,
    created_ms: Ms,
    created_by: String,
    /// The lease of Resources that it holds or is to hold.
    rcontract_id: Id<RContract>,
    /// What it keeps; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    components: Option<Vec<ComponentView>>,
}

impl CContractView {
    pub(super) fn whole(whole: Whole) -> Self {
        let Whole { contract, components } = whole;
        let components = components.into_iter().map(|component| ComponentView::of(&contract, component)).collect();
        Self { components: Some(components), ..Self::alone(contract) }
    }

    pub(super) fn alone(contract: CContractModel) -> Self {
        let CContractModel {
            id,
            owner,
            name,
            component_type,
            count,
            need,
            region,
            zone,
            spread,
            state,
            generation,
            created_ms,
            created_by,
            rcontract_id,
            image_id: _,
            detail,
            refusal,
        } = contract;
        Self {
            id,
            owner,
            name,
            component_type,
            count,
            need,
            region,
            zone,
            spread,
            state,
            detail,
            refusal,
            generation,
            created_ms,
            created_by,
            rcontract_id,
            components: None,
        }
    }
}

/// A component: what was asked for beside what there is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Component)]
pub(super) struct ComponentView {
    id: Id<Component>,
    name: String,
    owner: String,
    ccontract_id: Id<CContract>,
    /// Its contract by name.
    ccontract: String,
    /// Its number in the contract, from 0.
    ordinal: u32,
    /// Its line of the RContract.
    line_id: Id<Line>,
    /// Wished.
    power: Power,
    /// Grows with every wish; what `If-Match` takes.
    generation: i64,
    /// The newest generation that its host carried out, or tried to.
    carried: i64,
    /// As in `actual`.
    state: NodeState,
    /// As in `actual`.
    host: String,
    /// As in `actual`.
    ports: Vec<Port>,
    /// As in `actual`.
    detail: String,
    /// What it reserves and runs.
    preset: Need,
    /// What Resources says of it.
    actual: Actual,
}

/// What Resources says of a component.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ComponentActual)]
struct Actual {
    /// Its node; absent until Resources has made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_id: Option<Id<Node>>,
    host_id: Id<Host>,
    host: String,
    /// Of an unreachable host the rest is what was last heard.
    host_state: String,
    state: NodeState,
    /// Why it failed, or how far it is.
    detail: String,
    /// Where it can be reached.
    ports: Vec<Port>,
}

impl ComponentView {
    pub(super) fn of(contract: &CContractModel, component: ComponentModel) -> Self {
        let ComponentModel {
            id,
            ccontract_id,
            owner,
            ordinal,
            name,
            line_id,
            node_id,
            host_id,
            host_name,
            host_state,
            power,
            generation,
            asked: _,
            carried,
            state,
            detail,
            ports,
            version: _,
        } = component;
        let detail = detailed(&host_name, &host_state, state, detail);
        Self {
            id,
            name,
            owner,
            ccontract_id,
            ccontract: contract.name.clone(),
            ordinal,
            line_id,
            power,
            generation,
            carried,
            state,
            host: host_name.clone(),
            ports: ports.clone(),
            detail: detail.clone(),
            preset: contract.need.clone(),
            actual: Actual { node_id, host_id, host: host_name, host_state, state, detail, ports },
        }
    }
}

/// The detail, after a hint where its host cannot be heard: the state that is shown may be over.
fn detailed(host: &str, host_state: &str, state: NodeState, detail: String) -> String {
    if matches!(host_state, "" | "online") || state == NodeState::Gone {
        return detail;
    }
    let hint = match host_state {
        "draining" => format!("host {host} is draining: ops want it empty, so this has to go elsewhere"),
        _ => format!("host {host} is {host_state}: this is what was last heard of the component"),
    };
    if detail.is_empty() { hint } else { format!("{hint}; {detail}") }
}

/// Where a component would go.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlacementView {
    /// Its name.
    component: String,
    host_id: Id<Host>,
    host: String,
}

impl From<(String, Chosen)> for PlacementView {
    fn from((component, Chosen { id, name, state: _ }): (String, Chosen)) -> Self {
        Self { component, host_id: id, host: name }
    }
}

/// Where the components of a contract would go. Nothing was recorded.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRunView {
    pub(super) placements: Vec<PlacementView>,
}

/// A wish for a power state.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ComponentPower)]
#[serde(deny_unknown_fields)]
pub(super) struct PowerAsk {
    /// `on` or `off`.
    pub(super) power: Power,
}
