//! A small tier 1: contracts with nodes on hosts with capacity, in memory, behind the real protocol. It keeps what
//! Components may rely on (an id asked for twice is one contract, a command once), and can be told to fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tonic::{Request, Response, Status};
use yiqiu_base::{Code, Id, Power, Principal, Problem, Size, clock::Clock};
use yiqiu_proto::{
    call::Callee,
    common::{self, NodeState},
    resources::{
        self as wire,
        resources_server::{Resources, ResourcesServer},
    },
};

use super::size;

#[derive(Clone, Default)]
pub struct Peer(Arc<Mutex<Inner>>);

#[derive(Default)]
pub struct Inner {
    pub hosts: Vec<wire::Host>,
    pub leases: BTreeMap<String, wire::RContract>,
    pub commands: HashMap<String, common::Power>,
    pub events: Vec<common::Event>,
    pub epoch: u64,
    /// Answers nothing.
    pub down: bool,
    /// Answers no request for a contract, after carrying it out if `deaf`.
    pub creates_fail: bool,
    pub deaf: bool,
    /// Refuses so many requests for contracts as full, as if others had been faster.
    pub lose: u32,
    /// Requests for contracts, as they came.
    pub creates: Vec<wire::CreateRContractRequest>,
}

impl Peer {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test fails while it holds this")
    }

    pub fn server(&self, callee: Callee) -> ResourcesServer<impl Resources> {
        ResourcesServer::new(Edge { peer: self.clone(), callee })
    }

    /// Adds a host in zone z1, rack r1.
    pub fn host(&self, name: &str, cpu: i64, mib: i64) {
        self.lock().hosts.push(wire::Host {
            id: Id::<yiqiu_base::id::Host>::new().to_string(),
            name: name.into(),
            region: "eu".into(),
            zone: "z1".into(),
            rack: "r1".into(),
            unit: 1,
            node_type: common::NodeType::Cm.into(),
            state: "online".into(),
            clock_mhz: 3000,
            rentable: Some(size(cpu, mib).into()),
            free: Some(size(cpu, mib).into()),
            overhead_per_node: Some(Size::ZERO.into()),
            nodes: 0,
            refuses: String::new(),
            region_id: "eu-id".into(),
            zone_id: "z1-id".into(),
            rack_id: "r1-id".into(),
        });
    }

    /// Contracts that hold something.
    pub fn active(&self) -> Vec<String> {
        self.lock().leases.values().filter(|l| l.state == "active").map(|l| l.id.clone()).collect()
    }

    /// What the agent of a node would report.
    pub fn report(&self, line_id: &str, state: NodeState, ports: &[(u32, u32)]) {
        let mut inner = self.lock();
        let node = inner
            .leases
            .values_mut()
            .flat_map(|lease| &mut lease.nodes)
            .find(|node| node.line_id == line_id)
            .expect("there is such a line");
        node.state = state.into();
        node.carried = node.generation;
        node.ports = ports
            .iter()
            .map(|(node_port, host_port)| common::PortMapping {
                node_port: *node_port,
                host_port: *host_port,
                host_address: "127.0.0.1".into(),
            })
            .collect();
        let node = node.clone();
        inner.changed(&node);
    }

    /// A host is heard of, or no more.
    pub fn host_becomes(&self, name: &str, state: &str) {
        let mut inner = self.lock();
        let host = inner.hosts.iter_mut().find(|host| host.name == name).expect("there is such a host");
        host.state = state.into();
        let (host_id, name) = (host.id.clone(), host.name.clone());
        for node in inner.leases.values_mut().flat_map(|l| &mut l.nodes).filter(|node| node.host_id == host_id) {
            node.host_state = state.into();
        }
        let changed = wire::HostChanged { host_id: host_id.clone(), name, state: state.into(), detail: String::new() };
        inner.emit("host.changed", &host_id, &changed);
    }

    /// Nodes of releasing contracts are reported gone.
    pub fn finish_releases(&self) {
        let mut inner = self.lock();
        let done: Vec<wire::RContract> = inner
            .leases
            .values_mut()
            .filter(|lease| lease.state == "releasing")
            .map(|lease| {
                lease.state = "released".into();
                lease.clone()
            })
            .collect();
        for lease in done {
            for node in &lease.nodes {
                let cost: Size = node.spec.clone().and_then(|s| s.size).unwrap_or_default().into();
                let host = inner.hosts.iter_mut().find(|h| h.id == node.host_id).expect("its host");
                host.free = Some(Size::from(host.free.unwrap_or_default()).plus(cost).into());
            }
            let changed = wire::RContractChanged {
                rcontract_id: lease.id.clone(),
                name: lease.name.clone(),
                state: lease.state.clone(),
                lines: lease.nodes.len() as i64,
                ..wire::RContractChanged::default()
            };
            inner.emit("rcontract.released", &lease.id, &changed);
        }
    }

    /// A contract that nobody asked for through Components.
    pub fn stranger(&self, created_ms: i64) -> String {
        let id = Id::<yiqiu_base::id::RContract>::new().to_string();
        let lease = wire::RContract {
            id: id.clone(),
            name: "stray".into(),
            owner: "tier:components".into(),
            state: "active".into(),
            created_ms,
            generation: 1,
            nodes: Vec::new(),
        };
        self.lock().leases.insert(id.clone(), lease);
        id
    }
}

impl Inner {
    pub fn emit(&mut self, kind: &str, subject: &str, payload: &impl serde::Serialize) {
        let position = self.events.len() as i64 + 1;
        self.events.push(common::Event {
            position,
            at_ms: Clock::system().now(),
            kind: kind.into(),
            owner: "tier:components".into(),
            subject: subject.into(),
            request_id: String::new(),
            payload_json: serde_json::to_string(payload).expect("JSON"),
        });
    }

    fn changed(&mut self, node: &wire::Node) {
        let changed = wire::NodeChanged {
            node_id: node.id.clone(),
            line_id: node.line_id.clone(),
            rcontract_id: node.rcontract_id.clone(),
            ..Default::default()
        };
        self.emit("node.changed", &node.id, &changed);
    }

    fn up(&self) -> Result<(), Problem> {
        if self.down { Err(Problem::new(Code::Unavailable, "the link is cut")) } else { Ok(()) }
    }

    fn create(&mut self, message: wire::CreateRContractRequest, owner: &str) -> Result<wire::RContract, Problem> {
        if let Some(lease) = self.leases.get(&message.id) {
            return Ok(lease.clone());
        }
        if self.lose > 0 {
            self.lose -= 1;
            return Err(Problem::new(Code::HostFull, "someone was faster"));
        }
        let mut hosts = self.hosts.clone();
        let mut nodes = Vec::new();
        for line in &message.lines {
            let host =
                hosts.iter_mut().find(|h| h.id == line.host_id).ok_or(Problem::not_found("host", &line.host_id))?;
            let spec = line.spec.clone().unwrap_or_default();
            let (free, cost): (Size, Size) =
                (host.free.unwrap_or_default().into(), spec.size.unwrap_or_default().into());
            if !cost.within(free) {
                return Err(Problem::new(Code::HostFull, format!("host {} is full", host.name)));
            }
            host.free = Some(free.minus(cost).into());
            nodes.push(wire::Node {
                health: 0,
                id: Id::<yiqiu_base::id::Node>::new().to_string(),
                line_id: line.id.clone(),
                rcontract_id: message.id.clone(),
                name: line.name.clone(),
                host_id: host.id.clone(),
                host_name: host.name.clone(),
                node_type: host.node_type,
                spec: Some(spec),
                power: line.power,
                generation: 1,
                state: NodeState::Pending.into(),
                carried: 0,
                detail: String::new(),
                ports: Vec::new(),
                host_state: "online".into(),
                hold: "always".into(),
            });
        }
        self.hosts = hosts;
        let lease = wire::RContract {
            id: message.id.clone(),
            name: message.name,
            owner: owner.to_owned(),
            state: "active".into(),
            created_ms: Clock::system().now(),
            generation: 1,
            nodes,
        };
        self.leases.insert(message.id, lease.clone());
        Ok(lease)
    }
}

struct Edge {
    peer: Peer,
    callee: Callee,
}

impl Edge {
    async fn answer<T, R>(
        &self,
        request: Request<T>,
        handle: impl FnOnce(&mut Inner, &Principal, T) -> Result<R, Problem>,
    ) -> Result<Response<R>, Status> {
        self.callee
            .serve(request, |who, message| async move {
                let mut inner = self.peer.lock();
                inner.up()?;
                handle(&mut inner, &who, message)
            })
            .await
    }
}

#[tonic::async_trait]
impl Resources for Edge {
    async fn list_hosts(
        &self,
        request: Request<wire::ListHostsRequest>,
    ) -> Result<Response<wire::ListHostsResponse>, Status> {
        self.answer(request, |inner, _, _| Ok(wire::ListHostsResponse { hosts: inner.hosts.clone() })).await
    }

    async fn create_r_contract(
        &self,
        request: Request<wire::CreateRContractRequest>,
    ) -> Result<Response<wire::RContract>, Status> {
        self.answer(request, |inner, who, message| {
            inner.creates.push(message.clone());
            if inner.creates_fail && !inner.deaf {
                return Err(Problem::new(Code::Unavailable, "the link broke"));
            }
            let made = inner.create(message, &who.owner)?;
            if inner.deaf { Err(Problem::new(Code::Unavailable, "the link broke after that")) } else { Ok(made) }
        })
        .await
    }

    async fn get_r_contract(
        &self,
        request: Request<wire::GetRContractRequest>,
    ) -> Result<Response<wire::RContract>, Status> {
        self.answer(request, |inner, _, message| {
            inner.leases.get(&message.id).cloned().ok_or(Problem::not_found("rcontract", message.id))
        })
        .await
    }

    async fn list_r_contracts(
        &self,
        request: Request<wire::ListRContractsRequest>,
    ) -> Result<Response<wire::ListRContractsResponse>, Status> {
        self.answer(request, |inner, who, message| {
            let contracts = inner
                .leases
                .values()
                .filter(|l| l.owner == who.owner && l.id > message.after_id)
                .filter(|l| message.created_before_ms == 0 || l.created_ms < message.created_before_ms)
                .take(message.limit as usize)
                .map(|l| wire::RContract { nodes: Vec::new(), ..l.clone() })
                .collect();
            Ok(wire::ListRContractsResponse { contracts })
        })
        .await
    }

    async fn release_r_contract(
        &self,
        request: Request<wire::ReleaseRContractRequest>,
    ) -> Result<Response<wire::RContract>, Status> {
        self.answer(request, |inner, _, message| {
            let lease = inner.leases.get_mut(&message.id).ok_or(Problem::not_found("rcontract", message.id))?;
            if lease.state == "active" {
                lease.state = "releasing".into();
            }
            Ok(lease.clone())
        })
        .await
    }

    async fn set_node_power(
        &self,
        request: Request<wire::SetNodePowerRequest>,
    ) -> Result<Response<wire::Node>, Status> {
        self.answer(request, |inner, _, message| {
            let power = message.power();
            Power::try_from(power)?;
            let node = inner
                .leases
                .values_mut()
                .flat_map(|lease| &mut lease.nodes)
                .find(|node| node.id == message.node_id)
                .ok_or(Problem::not_found("node", &message.node_id))?;
            if inner.commands.insert(message.command_id, power).is_none() {
                node.power = power.into();
                node.generation += 1;
            }
            Ok(node.clone())
        })
        .await
    }

    async fn get_image(&self, request: Request<wire::GetImageRequest>) -> Result<Response<wire::Image>, Status> {
        self.answer(request, |_, _, message| match message.name_or_id.as_str() {
            "theirs" if message.owner != "project:theirs" => Err(Problem::not_found("image", "theirs")),
            name @ ("busybox" | "busybox-id" | "empty" | "theirs") => Ok(wire::Image {
                id: format!("{}-id", name.trim_end_matches("-id")),
                name: name.into(),
                sha256: String::new(),
                bytes: 1,
                owner: if name == "theirs" { "project:theirs".into() } else { String::new() },
                state: if name == "empty" { "pending".into() } else { "ready".into() },
            }),
            other => Err(Problem::not_found("image", other)),
        })
        .await
    }

    async fn list_lines(
        &self,
        request: Request<wire::ListLinesRequest>,
    ) -> Result<Response<wire::ListLinesResponse>, Status> {
        self.answer(request, |inner, _, wire::ListLinesRequest { owner, after_id, limit: _ }| {
            let held = inner.leases.values().filter(|lease| lease.owner == owner && lease.state != "released");
            let mut lines: Vec<wire::HeldLine> = held
                .flat_map(|lease| lease.nodes.iter().map(|node| (lease.state == "releasing", node)))
                .map(|(ending, node)| wire::HeldLine {
                    id: node.line_id.clone(),
                    rcontract_id: node.rcontract_id.clone(),
                    owner: owner.clone(),
                    name: node.name.clone(),
                    host_id: node.host_id.clone(),
                    ending,
                    size: node.spec.clone().and_then(|spec| spec.size),
                    ..wire::HeldLine::default()
                })
                .filter(|line| line.id > after_id)
                .collect();
            lines.sort_by(|a, b| a.id.cmp(&b.id));
            lines.truncate(2); // so that there are pages
            Ok(wire::ListLinesResponse { lines })
        })
        .await
    }

    async fn findings(
        &self,
        request: Request<common::FindingsRequest>,
    ) -> Result<Response<common::FindingsResponse>, Status> {
        self.answer(request, |_, _, _| Err(Problem::invalid("Components does not ask this"))).await
    }

    async fn events(
        &self,
        request: Request<common::EventsRequest>,
    ) -> Result<Response<common::EventsResponse>, Status> {
        let message = *request.get_ref();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(message.wait_ms.into());
        while !self.peer.lock().down
            && self.peer.lock().events.len() as i64 <= message.after
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.answer(request, |inner, _, message| {
            let events = inner.events.iter().filter(|e| e.position > message.after).cloned().collect();
            let head = inner.events.len() as i64;
            Ok(common::EventsResponse { events, epoch: inner.epoch + 1, head })
        })
        .await
    }
}
