//! Containers of a Docker engine: CNodes.
//!
//! A container is ours by its label `yiqiu.host`. It is never restarted by the engine: what died is shown. Its ports
//! answer on 127.0.0.1 only. What it used is read from the control group that it is given, which outlives it.

mod engine;
mod inventory;
mod shape;
mod streams;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    body_try_stream,
    models::{ContainerInspectResponse, ContainerStatsResponse},
    query_parameters::{
        CreateContainerOptions, CreateImageOptions, EventsOptions, InspectContainerOptions, ListContainersOptions,
        ListVolumesOptions, RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions, StartContainerOptions,
        StatsOptions, StopContainerOptions, TagImageOptions,
    },
};
use futures::StreamExt;
use tokio::sync::mpsc;
use yiqiu_base::{NodeType, Size};
use yiqiu_proto::common::NodeSpec;

use self::{
    engine::{Connected, Engine, is_forgotten, is_status},
    shape::{HOST_LABEL, NODE_LABEL, container_name, image_name},
};
use crate::{
    cgroup::{self, Cgroups},
    driver::{
        Change, Driver, DriverError, Exec, ExecWanted, Inventory, LogsWanted, Make, NodeId, Pieces, Presence, Reading,
        Seen, Status,
    },
};

/// What the engine and its helpers take themselves: an estimate from `dockerd` and `containerd` at rest.
const OVERHEAD_FIXED: Size = Size { cpu_millicores: 50, memory_bytes: 160 << 20, disk_bytes: 256 << 20, disk_iops: 0 };
/// What a container takes beside its own size: its shim, its port forwarders, its bounded log.
const OVERHEAD_NODE: Size = Size { cpu_millicores: 5, memory_bytes: 16 << 20, disk_bytes: 24 << 20, disk_iops: 0 };

/// The driver of containers.
pub struct ContainerDriver {
    engine: Arc<Engine>,
    host: String,
    cgroups: Option<Cgroups>,
    known: Arc<Mutex<HashMap<NodeId, Known>>>,
}

/// What an inspection told of a container; good until an event or a listing says that it changed.
#[derive(Clone, Debug)]
struct Known {
    container: String,
    state: String,
    pid: i64,
    seen: Seen,
}

impl ContainerDriver {
    /// Drives the engine at `socket` (a path or URL; by default `DOCKER_HOST`, else the usual one), and in it what
    /// carries the mark of this host.
    pub fn new(socket: Option<&str>, host: &str) -> Self {
        Self {
            engine: Arc::new(Engine::new(socket)),
            host: host.to_owned(),
            cgroups: Cgroups::find(),
            known: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<NodeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups in which nodes are counted, if the engine can be told to use them.
    fn groups(&self, engine: &Connected) -> Option<&Cgroups> {
        self.cgroups.as_ref().filter(|_| engine.cgroupfs)
    }

    async fn look(&self, engine: &Connected, node: NodeId) -> Result<Seen, DriverError> {
        match engine.docker.inspect_container(&container_name(node), None::<InspectContainerOptions>).await {
            Ok(container) if self.is_ours(&container, node) => {
                let known = shape::known(container);
                let seen = known.seen.clone();
                self.known().insert(node, known);
                Ok(seen)
            }
            Ok(_) => Err(DriverError::Refused(format!(
                "there is a container `{}` that is not of this host: remove or rename it",
                container_name(node)
            ))),
            Err(error) if is_status(&error, 404) => {
                self.known().remove(&node);
                Ok(Seen::default())
            }
            Err(error) => Err(self.engine.error("the container cannot be inspected", error)),
        }
    }

    fn is_ours(&self, container: &ContainerInspectResponse, node: NodeId) -> bool {
        let labels = container.config.as_ref().and_then(|c| c.labels.as_ref());
        labels.is_some_and(|l| {
            l.get(HOST_LABEL) == Some(&self.host) && l.get(NODE_LABEL).is_some_and(|n| *n == node.to_string())
        })
    }

    /// The volumes of a node, by their mark: they may outlive its container.
    async fn volumes(&self, engine: &Connected, node: NodeId) -> Result<Vec<String>, DriverError> {
        let marks = [(NODE_LABEL, node.to_string()), (HOST_LABEL, self.host.clone())];
        let marks = marks.map(|(label, value)| format!("{label}={value}")).to_vec();
        let options = ListVolumesOptions { filters: Some(HashMap::from([("label".to_owned(), marks)])) };
        let listed = engine.docker.list_volumes(Some(options)).await;
        let listed = listed.map_err(|error| self.engine.error("its volumes cannot be listed", error))?;
        Ok(listed.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Removes the volumes of a node, and verifies that.
    async fn remove_volumes(&self, engine: &Connected, node: NodeId) -> Result<(), DriverError> {
        for volume in self.volumes(engine, node).await? {
            match engine.docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await {
                Ok(()) => {}
                Err(error) if is_status(&error, 404) => {}
                Err(error) => return Err(self.engine.error(&format!("the volume {volume} cannot be removed"), error)),
            }
        }
        match self.volumes(engine, node).await?.as_slice() {
            [] => Ok(()),
            left => Err(DriverError::Failed(format!("volumes are still there after removal: {}", left.join(", ")))),
        }
    }

    /// Docker was killed while it started the container, and forgot that; its containerd did not, so it can never be
    /// started again. What lives of it is ended, and the container let go: the next power-on makes it anew, with its
    /// volumes.
    async fn let_go(&self, engine: &Connected, node: NodeId) -> DriverError {
        if let Some(groups) = self.cgroups.clone() {
            let ended = tokio::task::spawn_blocking(move || {
                for pid in groups.pids(node) {
                    // It may have ended by itself.
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
            });
            let _ = ended.await; // what is left is found by the audit
        }
        let options = RemoveContainerOptions { force: true, ..Default::default() };
        match engine.docker.remove_container(&container_name(node), Some(options)).await {
            Ok(()) => DriverError::Failed("Docker ended while it started the container, and lost it".to_owned()),
            Err(error) => self.engine.error("Docker lost a start, and the container cannot be removed", error),
        }
    }

    /// Counters from the engine, where groups cannot be read.
    async fn usage_of_stats(&self, engine: &Connected, node: NodeId) -> Result<Reading, DriverError> {
        let options = StatsOptions { stream: false, one_shot: true };
        let mut stats = Box::pin(engine.docker.stats(&container_name(node), Some(options)));
        match stats.next().await {
            Some(Ok(stats)) => Ok(stats_reading(stats)),
            Some(Err(error)) if is_status(&error, 404) => Ok(Reading::default()),
            Some(Err(error)) => Err(self.engine.error("the container's counters cannot be read", error)),
            None => Ok(Reading::default()),
        }
    }
}

#[async_trait]
impl Driver for ContainerDriver {
    fn node_type(&self) -> NodeType {
        NodeType::Cm
    }

    fn name(&self) -> &'static str {
        "container"
    }

    async fn status(&self) -> Status {
        let ping = match self.engine.get().await {
            Ok(engine) => match engine.docker.ping().await {
                Ok(_) => Ok(engine.unbound()),
                Err(error) => Err(self.engine.error("it does not answer", error)),
            },
            Err(error) => Err(error),
        };
        match ping {
            Ok(unbound) => Status::ready(OVERHEAD_FIXED, OVERHEAD_NODE).but(unbound),
            Err(error) => Status::missing(error.detail()),
        }
    }

    async fn list(&self) -> Result<Vec<(NodeId, Seen)>, DriverError> {
        let engine = self.engine.get().await?;
        let options = ListContainersOptions { all: true, filters: Some(self.filter(&[])), ..Default::default() };
        let listed = engine.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.engine.error("containers cannot be listed", error))?;
        let mut all = Vec::with_capacity(listed.len());
        for container in listed {
            let label = container.labels.as_ref().and_then(|l| l.get(NODE_LABEL));
            let Some(node) = label.and_then(|l| NodeId::parse(l).ok()) else { continue };
            let state = container.state.map(|s| s.to_string()).unwrap_or_default();
            let known = self.known().get(&node).cloned();
            let health = shape::listed_health(container.status.as_deref().unwrap_or_default());
            let same =
                |k: &Known| k.state == state && k.seen.health == health && Some(&k.container) == container.id.as_ref();
            let seen = match known.filter(same) {
                Some(known) => known.seen,
                None => self.look(&engine, node).await?,
            };
            if seen.presence != Presence::Absent {
                all.push((node, seen));
            }
        }
        let there: std::collections::HashSet<NodeId> = all.iter().map(|(node, _)| *node).collect();
        self.known().retain(|node, _| there.contains(node));
        Ok(all)
    }

    async fn inspect(&self, node: NodeId) -> Result<Seen, DriverError> {
        let engine = self.engine.get().await?;
        self.look(&engine, node).await
    }

    async fn image_present(&self, sha256: &str) -> Result<bool, DriverError> {
        let engine = self.engine.get().await?;
        match engine.docker.inspect_image(&image_name(sha256)).await {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, 404) => Ok(false),
            Err(error) => Err(self.engine.error("the image cannot be inspected", error)),
        }
    }

    async fn image_import(&self, sha256: &str, tar: &Path) -> Result<(), DriverError> {
        let doing = "the image cannot be imported";
        let engine = self.engine.get().await?;
        let file = tokio::fs::File::open(tar).await.map_err(|e| DriverError::Failed(format!("{doing}: {e}")))?;
        let body = body_try_stream(tokio_util::io::ReaderStream::with_capacity(file, 256 << 10));
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(shape::IMAGES.to_owned()),
            tag: Some(sha256.to_owned()),
            ..Default::default()
        };
        let docker = engine.docker.clone().with_timeout(Duration::from_secs(1800));
        let mut answers = Box::pin(docker.create_image(Some(options), Some(body), None));
        let mut id = None;
        while let Some(answer) = answers.next().await {
            id = answer.map_err(|error| self.engine.error(doing, error))?.status.or(id);
        }
        if !self.image_present(sha256).await? {
            // Engines that speak Docker's API may leave repository and tag out.
            let id = id.ok_or_else(|| DriverError::Failed(format!("{doing}: the engine does not say its id")))?;
            let options = TagImageOptions { repo: Some(shape::IMAGES.to_owned()), tag: Some(sha256.to_owned()) };
            let tagged = engine.docker.tag_image(id.trim(), Some(options)).await;
            tagged.map_err(|error| self.engine.error(doing, error))?;
        }
        Ok(())
    }

    async fn image_remove(&self, sha256: &str) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        match engine.docker.remove_image(&image_name(sha256), None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(()),
            // Gone already, or another host of this engine uses it: that one removes it in its time.
            Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
            Err(error) => Err(self.engine.error("the image cannot be removed", error)),
        }
    }

    async fn create(&self, make: &Make) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        let parent = self.groups(&engine).is_some();
        let body = shape::body(make, &self.host, &engine, parent)?;
        let options = CreateContainerOptions { name: Some(container_name(make.node)), ..Default::default() };
        match engine.docker.create_container(Some(options), body).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 409) => {
                self.look(&engine, make.node).await?;
                self.resize(make.node, &make.spec).await
            }
            Err(error) => Err(self.engine.error("the container cannot be made", error)),
        }
    }

    async fn resize(&self, node: NodeId, spec: &NodeSpec) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        match engine.docker.update_container(&container_name(node), shape::resized(cgroup::Limits::of(spec))).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.engine.error("the container's limits cannot be changed", error)),
        }
    }

    async fn start(&self, node: NodeId) -> Result<Seen, DriverError> {
        let engine = self.engine.get().await?;
        match engine.docker.start_container(&container_name(node), None::<StartContainerOptions>).await {
            Ok(()) => {}
            Err(error) if is_status(&error, 304) => {} // it runs already
            Err(error) if is_forgotten(&error) => return Err(self.let_go(&engine, node).await),
            Err(error) => return Err(self.engine.error("the container cannot be started", error)),
        }
        self.look(&engine, node).await
    }

    async fn stop(&self, node: NodeId, grace: Duration) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptions { t: Some(seconds), ..Default::default() };
        let docker = engine.docker.clone().with_timeout(grace + Duration::from_secs(60));
        match docker.stop_container(&container_name(node), Some(options)).await {
            Ok(()) => {}
            Err(error) if is_status(&error, 304) || is_status(&error, 404) => {}
            Err(error) => return Err(self.engine.error("the container cannot be stopped", error)),
        }
        match self.look(&engine, node).await?.presence {
            Presence::Running => Err(DriverError::Failed("the container still runs after it was stopped".to_owned())),
            Presence::Idle | Presence::Absent => Ok(()),
        }
    }

    async fn remove(&self, node: NodeId) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        if self.look(&engine, node).await?.presence != Presence::Absent {
            let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            match engine.docker.remove_container(&container_name(node), Some(options)).await {
                Ok(()) => {}
                Err(error) if is_status(&error, 404) => {}
                Err(error) => return Err(self.engine.error("the container cannot be removed", error)),
            }
            if self.look(&engine, node).await?.presence != Presence::Absent {
                return Err(DriverError::Failed("the container is still there after it was removed".to_owned()));
            }
        }
        self.remove_volumes(&engine, node).await?;
        if let Some(groups) = self.cgroups.clone() {
            let removed = tokio::task::spawn_blocking(move || groups.remove(node)).await;
            let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            removed.map_err(|e| DriverError::Failed(format!("its control group cannot be removed: {e}")))?;
        }
        Ok(())
    }

    async fn usage(&self, node: NodeId) -> Result<Reading, DriverError> {
        let known = self.known().get(&node).map(|k| (k.pid, k.container.clone()));
        let Some(groups) = self.cgroups.as_ref().filter(|g| g.exists(node)) else {
            let engine = self.engine.get().await?;
            return self.usage_of_stats(&engine, node).await;
        };
        let mut reading = groups.usage(node);
        if let Some((pid, container)) = known.filter(|(pid, _)| *pid > 0)
            && is_in_container(pid, &container)
            && let Some((rx, tx)) = cgroup::network(pid)
        {
            reading.net_rx_bytes = Some(rx);
            reading.net_tx_bytes = Some(tx);
        }
        Ok(reading)
    }

    async fn logs(&self, node: NodeId, wanted: LogsWanted) -> Result<Pieces, DriverError> {
        self.logs_of(node, wanted).await
    }

    async fn exec(&self, node: NodeId, wanted: &ExecWanted) -> Result<Exec, DriverError> {
        self.exec_in(node, wanted).await
    }

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        self.take_stock().await
    }

    async fn orphan_remove(&self, handle: &str) -> Result<(), DriverError> {
        self.remove_orphan(handle).await
    }

    async fn orphan_adopt(&self, handle: &str, node: NodeId) -> Result<(), DriverError> {
        self.adopt_orphan(handle, node).await
    }

    fn changes(&self) -> mpsc::UnboundedReceiver<Change> {
        let (changes, receiver) = mpsc::unbounded_channel();
        let filters = self.filter(&["start", "die", "oom", "destroy", "stop", "pause", "unpause", "health_status"]);
        tokio::spawn(follow(Arc::clone(&self.engine), Arc::clone(&self.known), filters, changes));
        receiver
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(2))
    }

    fn sample_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

impl ContainerDriver {
    fn filter(&self, events: &[&str]) -> HashMap<String, Vec<String>> {
        let mut filters = HashMap::from([("label".to_owned(), vec![format!("{HOST_LABEL}={}", self.host)])]);
        if !events.is_empty() {
            filters.insert("type".to_owned(), vec!["container".to_owned()]);
            filters.insert("event".to_owned(), events.iter().map(ToString::to_string).collect());
        }
        filters
    }
}

/// Follows the engine's events, and comes back to it when it went away.
async fn follow(
    engine: Arc<Engine>,
    known: Arc<Mutex<HashMap<NodeId, Known>>>,
    filters: HashMap<String, Vec<String>>,
    changes: mpsc::UnboundedSender<Change>,
) {
    loop {
        if let Ok(connected) = engine.get().await {
            let options = EventsOptions { filters: Some(filters.clone()), ..Default::default() };
            let mut events = Box::pin(connected.docker.events(Some(options)));
            // What happened before the stream was there is found by looking.
            let _ = changes.send(Change::All);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = changes.closed() => return,
                };
                let Some(Ok(event)) = event else { break };
                let attributes = event.actor.and_then(|a| a.attributes).unwrap_or_default();
                let Some(node) = attributes.get(NODE_LABEL).and_then(|n| NodeId::parse(n).ok()) else { continue };
                known.lock().unwrap_or_else(PoisonError::into_inner).entry(node).and_modify(|k| k.state.clear());
                if changes.send(Change::Node(node)).is_err() {
                    return;
                }
            }
            engine.lost();
            known.lock().unwrap_or_else(PoisonError::into_inner).values_mut().for_each(|k| k.state.clear());
            let _ = changes.send(Change::All);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            () = changes.closed() => return,
        }
    }
}

/// Whether a process is (still) one of a container: its number may have been given to another since.
fn is_in_container(pid: i64, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}

fn stats_reading(stats: ContainerStatsResponse) -> Reading {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = stats.memory_stats.and_then(|m| m.usage).map(signed);
    let networks = stats.networks.unwrap_or_default();
    let sum = |f: fn(&bollard::models::ContainerNetworkStats) -> Option<u64>| -> Option<i64> {
        (!networks.is_empty()).then(|| networks.values().filter_map(f).map(signed).sum())
    };
    let blocks = stats.blkio_stats.and_then(|b| b.io_service_bytes_recursive).unwrap_or_default();
    let block = |op: &str| -> Option<i64> {
        let mine = blocks.iter().filter(|b| b.op.as_deref().is_some_and(|o| o.eq_ignore_ascii_case(op)));
        (!blocks.is_empty()).then(|| mine.filter_map(|b| b.value).map(signed).sum())
    };
    Reading {
        // A container that does not run answers with zeros: what was read before still holds.
        cpu_ns: stats.cpu_stats.and_then(|c| c.cpu_usage?.total_usage).filter(|n| *n > 0).map(signed),
        memory_bytes: memory,
        net_rx_bytes: sum(|n| n.rx_bytes),
        net_tx_bytes: sum(|n| n.tx_bytes),
        block_read_bytes: block("read"),
        block_write_bytes: block("write"),
    }
}
