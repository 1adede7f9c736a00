//! A contract and its components as one value: what each happening makes of it, and which events tell of the
//! difference. Pure; the store writes the difference.

use uuid::Uuid;
use yiqiu_base::{
    Id, NodeState, Power, Problem,
    clock::Ms,
    id::{Command, Component, Host},
    outbox::NewEvent,
};
use yiqiu_proto::components as wire;

use crate::{
    lifecycle::{Happened, after},
    model::{CContractModel, ComponentModel, NodeModel, State, Whole},
};

/// A host that was chosen for a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub id: Id<Host>,
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub state: String,
}

/// Why a contract that someone ended is released.
pub(crate) const ENDED: &str = "it was deleted since it was made";

impl Whole {
    /// A contract that is recorded with a chosen host for each component; the ids of what will be asked for are minted
    /// here.
    pub(crate) fn recorded(contract: CContractModel, chosen: Vec<Chosen>) -> Self {
        let components = (0..).zip(chosen).map(|(ordinal, host)| component(&contract, ordinal, host)).collect();
        Self { contract, components }
    }

    /// The same with other hosts, under another RContract with other lines: an id that was refused is not used again.
    pub(crate) fn replanned(&self, chosen: Vec<Chosen>) -> Self {
        let mut whole = self.clone();
        whole.contract.rcontract_id = Id::new();
        for (component, Chosen { id, name, state }) in whole.components.iter_mut().zip(chosen) {
            component.line_id = Id::new();
            component.node_id = None;
            (component.host_id, component.host_name, component.host_state) = (id, name, state);
        }
        whole
    }

    /// Resources holds its RContract with these nodes. What was seen of a node since is newer and stays.
    pub(crate) fn held(&self, nodes: &[NodeModel]) -> Self {
        let mut whole = self.clone();
        whole.contract.state = after(whole.contract.state, Happened::Held);
        for component in whole.components.iter_mut().filter(|c| c.node_id.is_none()) {
            see(component, nodes);
        }
        whole
    }

    /// Resources says this of its nodes now.
    pub(crate) fn seen(&self, nodes: &[NodeModel]) -> Self {
        let mut whole = self.clone();
        for component in &mut whole.components {
            see(component, nodes);
        }
        whole
    }

    /// A host is in this state now.
    pub(crate) fn host_seen(&self, host: Id<Host>, state: &str) -> Self {
        let mut whole = self.clone();
        for component in whole.components.iter_mut().filter(|c| c.host_id == host) {
            state.clone_into(&mut component.host_state);
        }
        whole
    }

    /// Someone asked for its end.
    pub(crate) fn end_asked(&self) -> Self {
        let mut whole = self.clone();
        whole.contract.state = after(whole.contract.state, Happened::EndAsked);
        whole
    }

    /// Its placement cannot be had.
    pub(crate) fn refused(&self, problem: Problem) -> Self {
        let mut whole = self.clone();
        whole.contract.state = after(whole.contract.state, Happened::Refused);
        if whole.contract.state == State::Released {
            whole.contract.detail = problem.detail.clone();
            whole.contract.refusal = Some(problem);
            whole.components.clear();
        }
        whole
    }

    /// Resources holds nothing of it any more. If nobody here asked for that, its components show it.
    pub(crate) fn let_go(&self, why: &str) -> Self {
        let mut whole = self.clone();
        whole.contract.state = after(whole.contract.state, Happened::LetGo);
        match whole.contract.state {
            State::Released => {
                why.clone_into(&mut whole.contract.detail);
                whole.components.clear();
            }
            State::Placing | State::Placed | State::Releasing => {
                for component in &mut whole.components {
                    component.state = NodeState::Gone;
                    why.clone_into(&mut component.detail);
                    component.ports.clear();
                }
            }
        }
        whole
    }

    /// Someone wishes one of its components to be in this power state: once more, even if it was wished before, since
    /// what died is started again only by a new wish.
    pub(crate) fn wished(&self, component: Id<Component>, power: Power) -> Self {
        self.with(component, |component| {
            component.power = power;
            component.generation += 1;
        })
    }

    /// Resources has answered a wish; `refusal` is what it said against it.
    pub(crate) fn answered(&self, component: Id<Component>, generation: i64, refusal: Option<&str>) -> Self {
        self.with(component, |component| {
            component.asked = component.asked.max(generation);
            if let Some(refusal) = refusal {
                refusal.clone_into(&mut component.detail);
            }
        })
    }

    fn with(&self, id: Id<Component>, change: impl Fn(&mut ComponentModel)) -> Self {
        let mut whole = self.clone();
        whole.components.iter_mut().filter(|c| c.id == id).for_each(change);
        whole
    }
}

/// The id of the command that carries a wish down: the same for the same wish, so that asking twice is once.
pub(crate) fn command(component: &ComponentModel) -> Id<Command> {
    // Ids differ in their upper bits already; the generation goes into the lowest ones.
    Uuid::from_u128(component.id.uuid().as_u128() ^ u128::from(component.generation.unsigned_abs())).into()
}

fn component(contract: &CContractModel, ordinal: u32, host: Chosen) -> ComponentModel {
    ComponentModel {
        id: Id::new(),
        ccontract_id: contract.id,
        owner: contract.owner.clone(),
        ordinal,
        name: format!("{}-{ordinal}", contract.name),
        line_id: Id::new(),
        node_id: None,
        host_id: host.id,
        host_name: host.name,
        host_state: host.state,
        power: Power::On,
        generation: 1,
        asked: 1, // the lines ask for it
        carried: 0,
        state: NodeState::Pending,
        detail: String::new(),
        ports: Vec::new(),
        version: 1,
    }
}

fn see(component: &mut ComponentModel, nodes: &[NodeModel]) {
    let Some(node) = nodes.iter().find(|node| node.line_id == component.line_id) else { return };
    let NodeModel { id, line_id: _, host_id, host_name, host_state, carried, state, detail, ports } = node.clone();
    if carried {
        component.carried = component.asked;
    }
    component.node_id = Some(id);
    // Where nothing is said of the host's state, what was known of that host stays.
    if !host_state.is_empty() || component.host_id != host_id {
        component.host_state = host_state;
    }
    (component.host_id, component.host_name) = (host_id, host_name);
    (component.state, component.detail, component.ports) = (state, detail, ports);
}

/// The events that tell of the difference between two versions of a contract.
pub(crate) fn events(old: Option<&Whole>, new: &Whole, now: Ms) -> Vec<NewEvent> {
    let owner = &new.contract.owner;
    let mut events = Vec::new();
    let ended = new.contract.state == State::Released;
    if !ended {
        events.extend(contract_event(old, &new.contract, now));
    }
    let olds = old.map_or(&[][..], |old| &old.components);
    for before in olds {
        if new.components.iter().all(|c| c.line_id != before.line_id) {
            events.push(unbound(owner, before, now));
        }
    }
    for component in &new.components {
        let before = olds.iter().find(|c| c.id == component.id);
        if before.is_none_or(|before| before.line_id != component.line_id) {
            events.push(bound(&new.contract, component, now));
        }
        if before.is_some_and(|before| shown(before) != shown(component)) {
            let changed = wire::ComponentChanged {
                component_id: component.id.to_string(),
                ccontract_id: component.ccontract_id.to_string(),
                name: component.name.clone(),
                power: component.power.to_string(),
                state: component.state.to_string(),
                detail: component.detail.clone(),
            };
            events.push(NewEvent::new(now, "component.changed", owner, component.id, &changed));
        }
    }
    // Its end is told last, when nothing is bound to it any more.
    if ended {
        events.extend(contract_event(old, &new.contract, now));
    }
    events
}

fn contract_event(old: Option<&Whole>, contract: &CContractModel, now: Ms) -> Option<NewEvent> {
    let kind = match (old.map(|old| old.contract.state), contract.state) {
        (Some(before), state) if before == state => return None,
        (None, _) | (Some(_), State::Placing) => "ccontract.created",
        (Some(_), State::Placed) => "ccontract.placed",
        (Some(_), State::Releasing) => "ccontract.releasing",
        (Some(_), State::Released) => "ccontract.released",
    };
    let changed = wire::CContractChanged {
        ccontract_id: contract.id.to_string(),
        name: contract.name.clone(),
        state: contract.state.to_string(),
    };
    Some(NewEvent::new(now, kind, &contract.owner, contract.id, &changed))
}

/// What watchers of a component would notice.
fn shown(component: &ComponentModel) -> impl PartialEq + '_ {
    let ComponentModel { host_name, host_state, power, generation, carried, state, detail, ports, .. } = component;
    (host_name, host_state, (power, generation, carried), (state, detail, ports))
}

fn bound(contract: &CContractModel, component: &ComponentModel, now: Ms) -> NewEvent {
    let payload = wire::ComponentBound {
        line_id: component.line_id.to_string(),
        rcontract_id: contract.rcontract_id.to_string(),
        component_id: component.id.to_string(),
        component_name: component.name.clone(),
        ccontract_id: contract.id.to_string(),
        ccontract_name: contract.name.clone(),
        owner: contract.owner.clone(),
        from_ms: now,
    };
    NewEvent::new(now, "component.bound", &contract.owner, component.id, &payload)
}

fn unbound(owner: &str, component: &ComponentModel, now: Ms) -> NewEvent {
    let payload = wire::ComponentUnbound {
        line_id: component.line_id.to_string(),
        component_id: component.id.to_string(),
        to_ms: now,
    };
    NewEvent::new(now, "component.unbound", owner, component.id, &payload)
}
