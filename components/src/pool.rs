//! The pool that components get their resources from: contracts of Resources, through its generated client.

use std::{future::Future, time::Duration};

use tonic::{Response, Status};
use yiqiu_base::{
    Code, Id, NodeState, NodeType, Power, Problem,
    clock::Ms,
    id::{Command, Line, Node, RContract},
};
use yiqiu_proto::{
    call::Caller,
    common,
    link::{Link, MESSAGE_MOST},
    resources::{self as wire, resources_client::ResourcesClient},
    status::from_status,
};

use crate::{
    ledger::{HeldLine, OWN},
    model::{NodeModel, Port, Whole},
    scheduler::{Host, Place},
};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many events are read at once.
pub(crate) const EVENTS_AT_ONCE: u32 = 1000;

/// Asks Resources in the name of this tier.
#[derive(Clone)]
pub(crate) struct Pool {
    client: ResourcesClient<Link>,
    caller: Caller,
}

/// The life of an RContract, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    Active,
    Releasing,
    Released,
}

/// An RContract with its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: Id<RContract>,
    pub(crate) state: LeaseState,
    pub(crate) created_ms: Ms,
    pub(crate) nodes: Vec<NodeModel>,
}

/// Events of Resources, and which history they are of.
pub(crate) struct Events {
    pub(crate) events: Vec<common::Event>,
    pub(crate) epoch: u64,
    /// The newest position of that history.
    pub(crate) head: i64,
}

impl Pool {
    pub(crate) fn new(link: Link, caller: Caller) -> Self {
        Self { client: ResourcesClient::new(link).max_decoding_message_size(MESSAGE_MOST), caller }
    }

    fn client(&self) -> ResourcesClient<Link> {
        self.client.clone()
    }

    /// Every host with what is free on it now.
    pub(crate) async fn hosts(&self) -> Result<Vec<Host>, Problem> {
        let request = self.caller.request(wire::ListHostsRequest {});
        let answer = ask(PATIENCE, self.client().list_hosts(request)).await?;
        answer.hosts.into_iter().map(host).collect()
    }

    /// The id of an image that an owner's components can be started from: one of its own, or one that is everyone's.
    pub(crate) async fn image(&self, name_or_id: &str, owner: &str) -> Result<String, Problem> {
        let message = wire::GetImageRequest { name_or_id: name_or_id.to_owned(), owner: owner.to_owned() };
        let image = ask(PATIENCE, self.client().get_image(self.caller.request(message))).await?;
        if image.state == "ready" {
            return Ok(image.id);
        }
        Err(Problem::new(
            Code::WrongState,
            format!("image {} is {}: upload its content first", image.name, image.state),
        ))
    }

    /// Asks for the RContract that a contract has recorded. Asking twice is the same as once.
    pub(crate) async fn lease_create(&self, whole: &Whole) -> Result<Lease, Problem> {
        let request = self.caller.request(wire::CreateRContractRequest {
            id: whole.contract.rcontract_id.to_string(),
            name: format!("cc-{}", whole.contract.id),
            lines: lines(whole),
            dry_run: false,
        });
        lease(ask(PATIENCE, self.client().create_r_contract(request)).await?)
    }

    /// An RContract of ours; `None` where Resources knows of none.
    pub(crate) async fn lease_get(&self, id: Id<RContract>) -> Result<Option<Lease>, Problem> {
        let request = self.caller.request(wire::GetRContractRequest { id: id.to_string() });
        known(ask(PATIENCE, self.client().get_r_contract(request)).await)
    }

    /// Asks for its end; `None` where Resources knows of none.
    pub(crate) async fn lease_release(&self, id: Id<RContract>) -> Result<Option<Lease>, Problem> {
        let request = self.caller.request(wire::ReleaseRContractRequest { id: id.to_string() });
        known(ask(PATIENCE, self.client().release_r_contract(request)).await)
    }

    /// Our own RContracts, without their nodes, oldest first.
    pub(crate) async fn lease_list(&self, created_before_ms: i64, after_id: &str) -> Result<Vec<Lease>, Problem> {
        let message = wire::ListRContractsRequest { created_before_ms, after_id: after_id.to_owned(), limit: 500 };
        let answer = ask(PATIENCE, self.client().list_r_contracts(self.caller.request(message))).await?;
        answer.contracts.into_iter().map(lease).collect()
    }

    /// Asks for a power state. The same command again changes nothing.
    pub(crate) async fn node_power(&self, node: Id<Node>, power: Power, command: Id<Command>) -> Result<(), Problem> {
        let request = self.caller.request(wire::SetNodePowerRequest {
            reboot: false,
            grace_ms: None,
            node_id: node.to_string(),
            power: common::Power::from(power).into(),
            command_id: command.to_string(),
            if_generation: 0,
        });
        ask(PATIENCE, self.client().set_node_power(request)).await.map(|_| ())
    }

    /// Our own lines, in the order of their ids.
    pub(crate) async fn line_list(&self, after: Option<Id<Line>>) -> Result<Vec<HeldLine>, Problem> {
        let after_id = after.map(|id| id.to_string()).unwrap_or_default();
        let message = wire::ListLinesRequest { owner: OWN.to_owned(), after_id, limit: 1000 };
        let answer = ask(PATIENCE, self.client().list_lines(self.caller.request(message))).await?;
        answer.lines.into_iter().map(held_line).collect()
    }

    /// What follows a position in the history of Resources; waits for a first event.
    pub(crate) async fn events(&self, after: i64, wait: Duration) -> Result<Events, Problem> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).min(30_000);
        let request = self.caller.request(common::EventsRequest { after, limit: EVENTS_AT_ONCE, wait_ms });
        let common::EventsResponse { events, epoch, head } =
            ask(wait + PATIENCE, self.client().events(request)).await?;
        Ok(Events { events, epoch, head })
    }
}

async fn ask<T>(patience: Duration, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Problem> {
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer.map(Response::into_inner).map_err(from_status),
        Err(_) => Err(Problem {
            retry_after_s: Some(1),
            ..Problem::new(Code::Unavailable, "Resources does not answer in time; try the same request again")
        }),
    }
}

fn held_line(line: wire::HeldLine) -> Result<HeldLine, Problem> {
    let wire::HeldLine { id, rcontract_id, owner: _, name, host_id, ending, size, power: _, from_ms: _, metered: _ } =
        line;
    Ok(HeldLine {
        id: Id::parse(&id)?,
        rcontract_id: Id::parse(&rcontract_id)?,
        name,
        host_id: Id::parse(&host_id)?,
        ending,
        size: size.unwrap_or_default().into(),
    })
}

fn known(answer: Result<wire::RContract, Problem>) -> Result<Option<Lease>, Problem> {
    match answer {
        Ok(contract) => lease(contract).map(Some),
        Err(problem) if problem.code == Code::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

fn lines(whole: &Whole) -> Vec<wire::Line> {
    let need = &whole.contract.need;
    let spec = common::NodeSpec {
        image_id: whole.contract.image_id.clone(),
        image_sha256: String::new(), // Resources fills it in
        command: need.command.clone(),
        environment: need
            .environment
            .iter()
            .map(|v| common::EnvironmentVariable { name: v.name.clone(), value: v.value.clone() })
            .collect(),
        ports: need
            .ports
            .iter()
            .map(|Port { node_port, host_port, host_address }| common::PortMapping {
                node_port: (*node_port).into(),
                host_port: (*host_port).into(),
                host_address: host_address.clone(),
            })
            .collect(),
        size: Some(need.size.into()),
        runtime: None, // bounded as every node is
    };
    whole
        .components
        .iter()
        .map(|component| wire::Line {
            id: component.line_id.to_string(),
            name: component.name.clone(),
            host_id: component.host_id.to_string(),
            spec: Some(spec.clone()),
            power: common::Power::On.into(),
            node_type: common::NodeType::Cm.into(),
            release_while_off: false,
        })
        .collect()
}

fn host(host: wire::Host) -> Result<Host, Problem> {
    let wire::Host {
        id,
        name,
        region,
        zone,
        rack,
        unit: _,
        node_type,
        state,
        clock_mhz,
        rentable,
        free,
        overhead_per_node,
        nodes: _,
        refuses,
        region_id,
        zone_id,
        rack_id,
    } = host;
    let whole_size = |size: Option<common::Size>| size.unwrap_or_default().into();
    Ok(Host {
        id: Id::parse(&id)?,
        name,
        region: Place { id: region_id, name: region },
        zone: Place { id: zone_id, name: zone },
        rack: Place { id: rack_id, name: rack },
        node_type: common::NodeType::try_from(node_type).ok().and_then(|t| NodeType::try_from(t).ok()),
        state,
        refuses,
        clock_mhz,
        rentable: whole_size(rentable),
        free: whole_size(free),
        overhead_per_node: whole_size(overhead_per_node),
    })
}

fn lease(contract: wire::RContract) -> Result<Lease, Problem> {
    let wire::RContract { id, name: _, owner: _, state, created_ms, generation: _, nodes } = contract;
    let state = match state.as_str() {
        "scheduled" | "active" | "ending" => LeaseState::Active,
        "releasing" => LeaseState::Releasing,
        "released" => LeaseState::Released,
        other => return Err(Problem::internal(format!("Resources calls an rcontract `{other}`"))),
    };
    let nodes = nodes.into_iter().map(node).collect::<Result<_, _>>()?;
    Ok(Lease { id: Id::parse(&id)?, state, created_ms, nodes })
}

fn node(node: wire::Node) -> Result<NodeModel, Problem> {
    let wire::Node {
        id,
        line_id,
        rcontract_id: _,
        name: _,
        host_id,
        host_name,
        node_type: _,
        spec: _,
        power: _,
        generation,
        state,
        carried,
        detail,
        ports,
        host_state,
        hold: _, // none of its lines is ever parked
        health: _,
    } = node;
    let state = common::NodeState::try_from(state)
        .map_err(|_| Problem::internal(format!("Resources calls a node state {state}")))?;
    Ok(NodeModel {
        id: Id::parse(&id)?,
        line_id: Id::<Line>::parse(&line_id)?,
        host_id: Id::parse(&host_id)?,
        host_name,
        host_state,
        carried: carried >= generation,
        state: NodeState::try_from(state)?,
        detail,
        ports: ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn port(port: common::PortMapping) -> Result<Port, Problem> {
    let common::PortMapping { node_port, host_port, host_address } = port;
    let narrow = |n: u32| u16::try_from(n).map_err(|_| Problem::internal(format!("Resources names port {n}")));
    Ok(Port { node_port: narrow(node_port)?, host_port: narrow(host_port)?, host_address })
}
