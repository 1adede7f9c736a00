//! Between models and messages. Every field is named, so that a new one breaks here.

use yiqiu_base::{Code, Health, Id, NodeState, NodeType, Power, Problem, Size};
use yiqiu_proto::{agent, common, resources as wire};

use crate::{
    model::{
        ContractModel, Counters, DriverStatus, ExecWanted, Finding, Found, FromNode, HealthCheck, HeldLine, HostModel,
        ImageModel, Inventory, LogsWanted, Metered, Mount, NodeModel, NodeSpec, Open, Port, Report, Runtime, Sample,
        StopSignal, ToNode, Variable, Wanted, features_check,
    },
    service::{LineRequest, host::Places},
    store::HostFacts,
};

pub(super) fn port(port: Port) -> common::PortMapping {
    let Port { node_port, host_port, host_address } = port;
    common::PortMapping { node_port: node_port.into(), host_port: host_port.into(), host_address }
}

fn port_from(port: common::PortMapping) -> Result<Port, Problem> {
    let common::PortMapping { node_port, host_port, host_address } = port;
    let number = |n: u32| u16::try_from(n).map_err(|_| Problem::invalid(format!("{n} is not a port number")));
    let host_address = if host_address.is_empty() { "127.0.0.1".to_owned() } else { host_address };
    Ok(Port { node_port: number(node_port)?, host_port: number(host_port)?, host_address })
}

pub(super) fn spec(spec: NodeSpec) -> common::NodeSpec {
    let NodeSpec { image_id, image_sha256, command, environment, ports, size, runtime: how } = spec;
    let environment =
        environment.into_iter().map(|Variable { name, value }| common::EnvironmentVariable { name, value }).collect();
    common::NodeSpec {
        image_id: image_id.map(|id| id.to_string()).unwrap_or_default(),
        image_sha256,
        command,
        environment,
        ports: ports.into_iter().map(port).collect(),
        size: Some(size.into()),
        runtime: Some(runtime(how)),
    }
}

/// Bounded by [`Runtime::check`]: no number is cut.
fn clipped<N: TryInto<u32>>(n: N) -> u32 {
    n.try_into().unwrap_or(u32::MAX)
}

fn runtime(runtime: Runtime) -> common::Runtime {
    let Runtime { pids, read_only_root, mounts, stop_signal, stop_grace_ms, health } = runtime;
    let mount = |mount| match mount {
        Mount::Volume { name, path, read_only } => common::Mount { path, volume: name, size_bytes: 0, read_only },
        Mount::Tmpfs { path, size_bytes } => {
            common::Mount { path, volume: String::new(), size_bytes, read_only: false }
        }
    };
    let check = |HealthCheck { command, interval_ms, timeout_ms, retries, start_ms }| common::HealthCheck {
        command,
        interval_ms: clipped(interval_ms),
        timeout_ms: clipped(timeout_ms),
        retries: clipped(retries),
        start_ms: clipped(start_ms),
    };
    common::Runtime {
        pids: pids.unwrap_or_default(),
        read_only_root,
        mounts: mounts.into_iter().map(mount).collect(),
        stop_signal: stop_signal.map(|s| s.as_str().to_owned()).unwrap_or_default(),
        stop_grace_ms: stop_grace_ms.map(clipped),
        health: health.map(check),
    }
}

fn runtime_from(runtime: common::Runtime) -> Result<Runtime, Problem> {
    let common::Runtime { pids, read_only_root, mounts, stop_signal, stop_grace_ms, health } = runtime;
    let mount = |common::Mount { path, volume, size_bytes, read_only }| match volume.is_empty() {
        false => Mount::Volume { name: volume, path, read_only },
        true => Mount::Tmpfs { path, size_bytes },
    };
    let check = |common::HealthCheck { command, interval_ms, timeout_ms, retries, start_ms }| HealthCheck {
        command,
        interval_ms: interval_ms.into(),
        timeout_ms: timeout_ms.into(),
        retries: retries.into(),
        start_ms: start_ms.into(),
    };
    Ok(Runtime {
        pids: Some(pids).filter(|p| *p != 0),
        read_only_root,
        mounts: mounts.into_iter().map(mount).collect(),
        stop_signal: Some(stop_signal).filter(|s| !s.is_empty()).map(|s| StopSignal::parse(&s)).transpose()?,
        stop_grace_ms: stop_grace_ms.map(i64::from),
        health: health.map(check),
    })
}

pub(super) fn node(node: NodeModel) -> wire::Node {
    let NodeModel {
        id,
        line_id,
        rcontract_id,
        host_id,
        host_name,
        host_state,
        node_type,
        owner: _,
        name,
        spec: of,
        power,
        generation,
        reboot: _,
        grace_ms: _,
        state,
        carried,
        boot: _,
        detail,
        ports,
        health,
        removed: _,
        resumes: _,
        hold,
        resizing: _,
        revision: _,
        request_id: _,
        changed_ms: _,
    } = node;
    wire::Node {
        id: id.to_string(),
        line_id: line_id.to_string(),
        rcontract_id: rcontract_id.to_string(),
        name,
        host_id: host_id.to_string(),
        host_name,
        node_type: common::NodeType::from(node_type).into(),
        spec: Some(spec(of)),
        power: common::Power::from(power).into(),
        generation,
        state: common::NodeState::from(state).into(),
        carried,
        detail,
        ports: ports.into_iter().map(port).collect(),
        host_state: host_state.as_str().to_owned(),
        health: common::Health::from(health).into(),
        hold: hold.as_str().to_owned(),
    }
}

pub(super) fn contract(contract: ContractModel, nodes: Vec<NodeModel>) -> wire::RContract {
    let ContractModel {
        id,
        name,
        owner,
        state,
        lines: _,
        term: _,
        due_ms: _,
        generation,
        created_ms,
        created_by: _,
        reason: _,
        released_ms: _,
    } = contract;
    wire::RContract {
        id: id.to_string(),
        name,
        owner,
        state: state.as_str().to_owned(),
        created_ms,
        generation,
        nodes: nodes.into_iter().map(node).collect(),
    }
}

pub(super) fn host(host: HostModel, places: &Places) -> wire::Host {
    let place = host.area.and_then(|a| places.get(&a.rack_id)).cloned().unwrap_or_default();
    wire::Host {
        id: host.id.to_string(),
        region: place.region.0,
        zone: place.zone.0,
        rack: place.rack.0,
        unit: host.area.and_then(|a| u32::try_from(a.unit).ok()).unwrap_or_default(),
        node_type: host.node_type.map_or(common::NodeType::Unspecified, Into::into).into(),
        state: host.state().as_str().to_owned(),
        clock_mhz: host.clock_mhz,
        rentable: Some(host.rentable().into()),
        free: Some(host.free().into()),
        overhead_per_node: Some(host.node_overhead.into()),
        nodes: host.nodes,
        refuses: host.refuses().unwrap_or_default(),
        region_id: place.region.1,
        zone_id: place.zone.1,
        rack_id: place.rack.1,
        name: host.name,
    }
}

pub(super) fn image(image: ImageModel) -> wire::Image {
    let ImageModel { id, name, owner, sha256, bytes, state, generation: _, created_ms: _ } = image;
    wire::Image { id: id.to_string(), name, sha256, bytes, state: state.as_str().to_owned(), owner }
}

pub(super) fn line(line: wire::Line) -> Result<LineRequest, Problem> {
    let power = power_from(line.power())?;
    let node_type = match line.node_type() {
        common::NodeType::Unspecified => None,
        node_type => Some(NodeType::try_from(node_type)?),
    };
    let wire::Line { id, name, host_id, spec, power: _, node_type: _, release_while_off } = line;
    let common::NodeSpec { image_id, image_sha256: _, command, environment, ports, size, runtime } =
        spec.unwrap_or_default();
    Ok(LineRequest {
        id: Some(Id::parse(&id)?),
        name,
        host: host_id,
        node_type,
        image: Some(image_id).filter(|i| !i.is_empty()),
        command,
        environment: environment
            .into_iter()
            .map(|common::EnvironmentVariable { name, value }| Variable { name, value })
            .collect(),
        ports: ports.into_iter().map(port_from).collect::<Result<_, _>>()?,
        size: size.map(Size::from),
        runtime: runtime_from(runtime.unwrap_or_default())?,
        power,
        release_while_off,
    })
}

/// `None` where the message leaves it out.
pub(super) fn power_from(power: common::Power) -> Result<Option<Power>, Problem> {
    match power {
        common::Power::Unspecified => Ok(None),
        power => Power::try_from(power).map(Some),
    }
}

pub(super) fn facts(facts: agent::Facts) -> Result<HostFacts, Problem> {
    let agent::Facts { agent_version: _, boot_id, capacity, clock_mhz, drivers, features } = facts;
    let capacity = capacity.map(Size::from).unwrap_or_default();
    capacity.check("the machine")?;
    if drivers.len() > 16 {
        return Err(Problem::invalid("a machine has at most 16 drivers"));
    }
    let drivers = drivers.into_iter().map(driver).collect::<Result<_, _>>()?;
    let boot_id = yiqiu_base::name::shown(&boot_id);
    let features = features.into_iter().collect();
    features_check(&features)?;
    Ok(HostFacts { boot_id, capacity, clock_mhz: clock_mhz.clamp(0, 1_000_000), drivers, features })
}

fn driver(driver: agent::DriverStatus) -> Result<DriverStatus, Problem> {
    let node_type = NodeType::try_from(driver.node_type())?;
    let agent::DriverStatus { node_type: _, name, ready, missing, overhead_fixed, overhead_per_node, unbound } = driver;
    let size = |size: Option<common::Size>| {
        let size = size.map(Size::from).unwrap_or_default();
        let bounded = size.within(Size::ZERO.zip(Size::ZERO, |_, _| yiqiu_base::size::MOST)) && Size::ZERO.within(size);
        bounded.then_some(size).ok_or_else(|| Problem::invalid("the overhead of a driver is not negative"))
    };
    let line = |text: String| text.chars().filter(|c| !c.is_control()).take(300).collect();
    Ok(DriverStatus {
        node_type,
        name: yiqiu_base::name::shown(&name),
        ready,
        missing: line(missing),
        overhead_fixed: size(overhead_fixed)?,
        overhead_per_node: size(overhead_per_node)?,
        unbound: line(unbound),
    })
}

pub(super) fn report(report: agent::NodeReport) -> Result<Report, Problem> {
    let (state, health) = (NodeState::try_from(report.state())?, Health::from(report.health()));
    let agent::NodeReport { node_id, state: _, generation, boot, detail, ports, at_ms: _, revision, health: _, sized } =
        report;
    Ok(Report {
        node_id: Id::parse(&node_id)?,
        state,
        generation,
        boot,
        detail: detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect(),
        ports: ports.into_iter().take(64).map(port_from).collect::<Result<_, _>>()?,
        health,
        revision,
        sized,
    })
}

pub(super) fn sample(sample: agent::Sample) -> Result<Sample, Problem> {
    let agent::Sample {
        node_id,
        boot,
        seq,
        at_ms,
        cpu_ns,
        memory_byte_ms,
        net_rx_bytes,
        net_tx_bytes,
        block_read_bytes,
        block_write_bytes,
        memory_bytes,
    } = sample;
    let counters = Counters { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes };
    Ok(Sample { node_id: Id::parse(&node_id)?, boot, seq, at_ms, counters, memory_bytes })
}

/// What one node should be, as its agent is told.
pub(super) fn assignment(node: NodeModel, stop_grace_ms: u32) -> agent::Assignment {
    let grace_ms = node.grace_ms.or(node.spec.runtime.stop_grace_ms);
    agent::Assignment {
        node_id: node.id.to_string(),
        name: node.name,
        node_type: common::NodeType::from(node.node_type).into(),
        spec: Some(spec(node.spec)),
        power: common::Power::from(node.power).into(),
        generation: node.generation,
        carried: node.carried,
        removed: node.removed,
        revision: node.revision,
        stop_grace_ms: grace_ms.map_or(stop_grace_ms, clipped),
        reboot: node.reboot,
        request_id: node.request_id,
        boot: node.boot,
    }
}

/// What an agent is to open.
pub(super) fn open(open: Open) -> agent::Open {
    let Open { id, node_id, request_id, wanted } = open;
    let what = match wanted {
        Wanted::Logs(LogsWanted { follow, since_ms, tail }) => {
            agent::open::What::Logs(agent::Logs { follow, since_ms, tail })
        }
        Wanted::Exec(ExecWanted { command, tty, input, window }) => {
            agent::open::What::Exec(agent::Exec { command, tty, input, window: Some(window_of(window)) })
        }
    };
    agent::Open { stream_id: id.to_string(), node_id: node_id.to_string(), request_id, what: Some(what) }
}

fn window_of((columns, rows): (u16, u16)) -> agent::Window {
    agent::Window { columns: columns.into(), rows: rows.into() }
}

/// `None` for what is of no use after the first frame, or of a newer agent.
pub(super) fn from_node(what: agent::from_node::What) -> Option<FromNode> {
    use agent::from_node::What;
    Some(match what {
        What::StreamId(_) => return None,
        What::Opened(agent::Opened {}) => FromNode::Opened,
        What::Refused(agent::Refused { code, detail }) => {
            let code = Code::ALL.iter().copied().find(|c| c.as_str() == code).unwrap_or(Code::WrongState);
            FromNode::Refused(Problem::new(code, detail))
        }
        What::Piece(agent::Piece { error, at_ms, data }) => FromNode::Piece { error, at_ms, data: data.into() },
        What::Exited(agent::Exited { code }) => FromNode::Exited(code),
    })
}

pub(super) fn to_node(told: ToNode) -> agent::ToNode {
    use agent::to_node::What;
    let what = match told {
        ToNode::Input(data) => What::Input(data.to_vec()),
        ToNode::EndOfInput => What::EndOfInput(agent::EndOfInput {}),
        ToNode::Window(columns, rows) => What::Window(window_of((columns, rows))),
    };
    agent::ToNode { what: Some(what) }
}

pub(super) fn question(id: &str) -> Result<uuid::Uuid, Problem> {
    id.parse().map_err(|_| Problem::invalid("an answer names no question"))
}

/// What an agent says, for people: bounded, and nothing in it steers a terminal.
pub(super) fn sentence(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

pub(super) fn orphan(
    id: uuid::Uuid,
    node_type: NodeType,
    handle: String,
    adopt_as: Option<Id<yiqiu_base::id::Node>>,
) -> agent::OrphanCommand {
    agent::OrphanCommand {
        id: id.to_string(),
        node_type: common::NodeType::from(node_type).into(),
        handle,
        adopt_as: adopt_as.map(|node| node.to_string()).unwrap_or_default(),
    }
}

/// The most things on a host that are looked at.
const FOUND_MOST: usize = 100_000;

pub(super) fn inventory(drivers: Vec<agent::DriverInventory>) -> Result<Inventory, Problem> {
    let mut inventory = Inventory::default();
    for driver in drivers.into_iter().take(16) {
        let node_type = NodeType::try_from(driver.node_type())?;
        let agent::DriverInventory { node_type: _, missing, found, overhead_fixed, overhead_nodes } = driver;
        if !missing.is_empty() {
            inventory.missing.push((node_type, sentence(&missing)));
            continue;
        }
        let size = |size: Option<common::Size>| size.map(Size::from).unwrap_or_default();
        let overhead = size(overhead_fixed).zip(size(overhead_nodes), i64::saturating_add);
        inventory.overhead.push((node_type, overhead));
        for found in found.into_iter().take(FOUND_MOST) {
            let agent::Found {
                node_id,
                handle,
                labelled,
                running,
                cpu_limit_millicores,
                memory_limit_bytes,
                cpu_millicores,
                memory_bytes,
            } = found;
            inventory.found.push(Found {
                node_id: if node_id.is_empty() { None } else { Some(Id::parse(&node_id)?) },
                node_type,
                handle: sentence(&handle),
                labelled: sentence(&labelled),
                running,
                cpu_limit_millicores,
                memory_limit_bytes,
                cpu_millicores,
                memory_bytes,
            });
        }
    }
    Ok(inventory)
}

pub(super) fn held_line(line: HeldLine) -> wire::HeldLine {
    let HeldLine { id, rcontract_id, owner, name, host_id, ending, size, metered } = line;
    let (power, from_ms, metered) = match metered {
        Some(Metered { power, from_ms, size }) => (power.as_str(), from_ms, Some(size.into())),
        None => ("", 0, None),
    };
    wire::HeldLine {
        id: id.to_string(),
        rcontract_id: rcontract_id.to_string(),
        owner,
        name,
        host_id: host_id.to_string(),
        ending,
        size: Some(size.into()),
        power: power.to_owned(),
        from_ms,
        metered,
    }
}

/// As it is told of a line: the rest is for ops.
pub(super) fn finding(finding: Finding) -> common::Finding {
    let Finding { kind, at_ms, host_name, line_id, name, detail, .. } = finding;
    common::Finding {
        kind: kind.as_str().to_owned(),
        line_id: line_id.map(|id| id.to_string()).unwrap_or_default(),
        host_name,
        name,
        detail,
        at_ms,
    }
}
