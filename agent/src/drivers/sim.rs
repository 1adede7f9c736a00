//! A host that is not there: states, timings and faults by a seed. Thousands fit in one process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, time::Instant};
use yiqiu_base::{NodeType, Size};
use yiqiu_proto::common::{NodeSpec, PortMapping};

use crate::driver::{Change, Driver, DriverError, Found, Inventory, Make, NodeId, Presence, Reading, Seen, Status};

/// How a simulated host behaves. Each duration is drawn evenly from its range of milliseconds.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// What its nodes are.
    pub node_type: NodeType,
    /// How long making a node takes.
    pub create_ms: (u64, u64),
    /// How long starting one takes.
    pub start_ms: (u64, u64),
    /// How long stopping one takes.
    pub stop_ms: (u64, u64),
    /// Of a thousand starts, how many fail.
    pub start_fails_permille: u32,
    /// Of a thousand runs, how many end by themselves…
    pub dies_permille: u32,
    /// …after how long.
    pub dies_after_ms: (u64, u64),
}

impl Default for Behaviour {
    /// Containers on a quick host without faults.
    fn default() -> Self {
        Self {
            node_type: NodeType::Cm,
            create_ms: (0, 0),
            start_ms: (0, 0),
            stop_ms: (0, 0),
            start_fails_permille: 0,
            dies_permille: 0,
            dies_after_ms: (1_000, 60_000),
        }
    }
}

/// The simulated hardware: it outlives the agent on it, so that an agent that comes back finds its nodes.
pub struct SimHost {
    behaviour: Arc<Behaviour>,
    world: Mutex<World>,
}

struct World {
    random: StdRng,
    nodes: HashMap<NodeId, SimNode>,
    changes: Option<mpsc::UnboundedSender<Change>>,
    away: bool,
}

struct SimNode {
    runs: u64,
    size: Size,
    ports: Vec<PortMapping>,
    /// Since when it runs, and when it dies if it does.
    running: Option<(Instant, Option<Instant>)>,
    ended: &'static str,
    /// Running time of earlier runs.
    before: Duration,
}

impl SimNode {
    /// Lets what should have died be dead.
    fn advance(&mut self) {
        if let Some((since, Some(dies))) = self.running
            && dies <= Instant::now()
        {
            self.running = None;
            self.before += dies - since;
            self.ended = "exited with code 1 (simulated)";
        }
    }

    fn seen(&mut self) -> Seen {
        self.advance();
        let run = if self.runs == 0 { String::new() } else { self.runs.to_string() };
        match self.running {
            Some(_) => Seen {
                presence: Presence::Running,
                run,
                detail: String::new(),
                ports: self.ports.clone(),
                ..Seen::default()
            },
            None => Seen { presence: Presence::Idle, run, detail: self.ended.to_owned(), ..Seen::default() },
        }
    }
}

impl SimHost {
    /// A host with nothing on it. The same seed gives the same timings and faults for the same requests.
    pub fn new(seed: u64, behaviour: Arc<Behaviour>) -> Arc<Self> {
        let world = World { random: StdRng::seed_from_u64(seed), nodes: HashMap::new(), changes: None, away: false };
        Arc::new(Self { behaviour, world: Mutex::new(world) })
    }

    /// How many nodes run now, and how often any was started: what a test of "once" counts.
    pub fn running_and_starts(&self) -> (usize, u64) {
        let mut world = self.world();
        let running =
            world.nodes.values_mut().filter_map(|n| (n.seen().presence == Presence::Running).then_some(())).count();
        (running, world.nodes.values().map(|n| n.runs).sum())
    }

    /// Ends a node as if it had crashed.
    pub fn kill(&self, node: NodeId) {
        let mut world = self.world();
        if let Some(SimNode { running: Some((_, dies)), .. }) = world.nodes.get_mut(&node) {
            *dies = Some(Instant::now());
        }
        world.tell(node);
    }

    /// Restarts it: nothing runs any more. Its agent, which went down with it, is told another boot id.
    pub fn restart(&self) {
        for node in self.world().nodes.values_mut() {
            node.advance();
            if let Some((since, _)) = node.running.take() {
                node.before += since.elapsed();
                node.ended = "exited with code 255 (simulated)";
            }
        }
    }

    /// Has the driver answer from now on, or not: its nodes go on either way.
    pub fn answers(&self, answers: bool) {
        let mut world = self.world();
        world.away = !answers;
        if let Some(changes) = &world.changes {
            let _ = changes.send(Change::All); // no agent is there to hear it
        }
    }

    /// The world, if the driver answers.
    fn asked(&self) -> Result<MutexGuard<'_, World>, DriverError> {
        let world = self.world();
        if world.away {
            return Err(DriverError::Unavailable("the simulated host does not answer: wait".to_owned()));
        }
        Ok(world)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn takes(&self, range: (u64, u64)) {
        let ms = self.world().draw(range);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }
}

impl World {
    fn draw(&mut self, (least, most): (u64, u64)) -> u64 {
        if most == 0 { 0 } else { self.random.random_range(least.min(most)..=most) }
    }

    fn happens(&mut self, permille: u32) -> bool {
        permille > 0 && self.random.random_range(0..1000) < permille
    }

    fn tell(&self, node: NodeId) {
        if let Some(changes) = &self.changes {
            let _ = changes.send(Change::Node(node)); // no agent is there to hear it
        }
    }
}

/// The driver of a simulated host.
pub struct SimDriver(pub Arc<SimHost>);

#[async_trait]
impl Driver for SimDriver {
    fn node_type(&self) -> NodeType {
        self.0.behaviour.node_type
    }

    fn name(&self) -> &'static str {
        "sim"
    }

    async fn status(&self) -> Status {
        match self.0.asked() {
            Ok(_) => Status::ready(Size::ZERO, Size::ZERO),
            Err(error) => Status::missing(error.detail()),
        }
    }

    async fn list(&self) -> Result<Vec<(NodeId, Seen)>, DriverError> {
        Ok(self.0.asked()?.nodes.iter_mut().map(|(id, node)| (*id, node.seen())).collect())
    }

    async fn inspect(&self, node: NodeId) -> Result<Seen, DriverError> {
        Ok(self.0.asked()?.nodes.get_mut(&node).map(SimNode::seen).unwrap_or_default())
    }

    async fn image_present(&self, _sha256: &str) -> Result<bool, DriverError> {
        Ok(true)
    }

    async fn image_import(&self, _sha256: &str, _tar: &std::path::Path) -> Result<(), DriverError> {
        Ok(())
    }

    async fn image_remove(&self, _sha256: &str) -> Result<(), DriverError> {
        Ok(())
    }

    async fn create(&self, make: &Make) -> Result<(), DriverError> {
        self.0.takes(self.0.behaviour.create_ms).await;
        let mut world = self.0.asked()?;
        let mut ports = make.spec.ports.clone();
        for port in &mut ports {
            if port.host_port == 0 {
                port.host_port = world.random.random_range(20_000..60_000);
            }
            port.host_address = "127.0.0.1".to_owned();
        }
        let size = make.spec.size.map(Size::from).unwrap_or_default();
        let node = world.nodes.entry(make.node).or_insert_with(|| SimNode {
            runs: 0,
            size,
            ports,
            running: None,
            ended: "",
            before: Duration::ZERO,
        });
        node.size = size;
        Ok(())
    }

    async fn resize(&self, node: NodeId, spec: &NodeSpec) -> Result<(), DriverError> {
        if let Some(sim) = self.0.asked()?.nodes.get_mut(&node) {
            sim.size = spec.size.map(Size::from).unwrap_or_default();
        }
        Ok(())
    }

    async fn start(&self, node: NodeId) -> Result<Seen, DriverError> {
        self.0.takes(self.0.behaviour.start_ms).await;
        let behaviour = Arc::clone(&self.0.behaviour);
        let mut world = self.0.asked()?;
        if world.happens(behaviour.start_fails_permille) {
            return Err(DriverError::Refused("the start failed (simulated): power it on again".to_owned()));
        }
        let now = Instant::now();
        let dies = if world.happens(behaviour.dies_permille) {
            Some(now + Duration::from_millis(world.draw(behaviour.dies_after_ms)))
        } else {
            None
        };
        let Some(sim) = world.nodes.get_mut(&node) else {
            return Err(DriverError::Failed("nothing of the node is there".to_owned()));
        };
        sim.advance();
        if sim.running.is_none() {
            sim.runs += 1;
            sim.running = Some((now, dies));
            if let Some(dies) = dies {
                let host = Arc::clone(&self.0);
                tokio::spawn(async move {
                    tokio::time::sleep_until(dies).await;
                    host.world().tell(node);
                });
            }
        }
        Ok(sim.seen())
    }

    async fn stop(&self, node: NodeId, grace: Duration) -> Result<(), DriverError> {
        let ms = self.0.asked()?.draw(self.0.behaviour.stop_ms);
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms).min(grace.max(Duration::from_millis(1)))).await;
        }
        if let Some(sim) = self.0.asked()?.nodes.get_mut(&node) {
            sim.advance();
            if let Some((since, _)) = sim.running.take() {
                sim.before += since.elapsed();
                sim.ended = "stopped";
            }
        }
        Ok(())
    }

    async fn remove(&self, node: NodeId) -> Result<(), DriverError> {
        self.0.asked()?.nodes.remove(&node);
        Ok(())
    }

    /// Grows with the time it runs: half of its processors, three quarters of its memory, and a little traffic.
    async fn usage(&self, node: NodeId) -> Result<Reading, DriverError> {
        let mut world = self.0.asked()?;
        let Some(sim) = world.nodes.get_mut(&node) else { return Ok(Reading::default()) };
        sim.advance();
        let ran = sim.before + sim.running.map_or(Duration::ZERO, |(since, _)| since.elapsed());
        let ms = i64::try_from(ran.as_millis()).unwrap_or(i64::MAX);
        let grows = |each_ms: i64| Some(ms.saturating_mul(each_ms));
        Ok(Reading {
            cpu_ns: grows(sim.size.cpu_millicores.saturating_mul(500)),
            memory_bytes: Some(if sim.running.is_some() { sim.size.memory_bytes / 4 * 3 } else { 0 }),
            net_rx_bytes: grows(10),
            net_tx_bytes: grows(20),
            block_read_bytes: grows(5),
            block_write_bytes: grows(5),
        })
    }

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        let mut world = self.0.asked()?;
        let found = world.nodes.iter_mut().map(|(node, sim)| {
            let running = sim.seen().presence == Presence::Running;
            Found {
                node: Some(*node),
                handle: node.to_string(),
                labelled: node.to_string(),
                running,
                cpu_limit_millicores: Some(sim.size.cpu_millicores),
                memory_limit_bytes: Some(sim.size.memory_bytes),
                cpu_millicores: if running { sim.size.cpu_millicores / 2 } else { 0 },
                memory_bytes: if running { sim.size.memory_bytes / 4 * 3 } else { 0 },
            }
        });
        Ok(Inventory { found: found.collect(), ..Inventory::default() })
    }

    async fn orphan_remove(&self, handle: &str) -> Result<(), DriverError> {
        let node = NodeId::parse(handle).map_err(|problem| DriverError::Refused(problem.detail))?;
        self.remove(node).await
    }

    async fn orphan_adopt(&self, _handle: &str, _node: NodeId) -> Result<(), DriverError> {
        Err(DriverError::Refused("a simulated node is the node that it is".to_owned()))
    }

    fn changes(&self) -> mpsc::UnboundedReceiver<Change> {
        let (changes, receiver) = mpsc::unbounded_channel();
        self.0.world().changes = Some(changes);
        receiver
    }

    fn poll_every(&self) -> Option<Duration> {
        None
    }

    fn sample_every(&self) -> Option<Duration> {
        None
    }
}
