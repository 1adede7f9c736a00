//! What the engine, the control groups and the process table say of containers with the mark of this host.

use std::{collections::HashMap, time::Duration};

use bollard::{
    models::ContainerInspectResponse,
    query_parameters::{
        InspectContainerOptions, ListContainersOptions, RemoveContainerOptions, RenameContainerOptions,
    },
};
use tokio::time::Instant;

use super::{
    ContainerDriver,
    engine::{Connected, is_status},
    shape::{HOST_LABEL, NODE_LABEL, container_name},
};
use crate::{
    cgroup::Bound,
    driver::{DriverError, Found, Inventory, NodeId},
    processes::{self, Process},
};

/// Over how long the use of processors is measured.
const MOMENT: Duration = Duration::from_millis(250);

/// A container, and where its processes are.
struct Listed {
    found: Found,
    id: String,
    pid: i64,
    ports: Vec<String>,
    cpu_ns: Option<i64>,
}

impl ContainerDriver {
    pub(super) async fn take_stock(&self) -> Result<Inventory, DriverError> {
        let engine = self.engine.get().await?;
        let options = ListContainersOptions { all: true, filters: Some(self.filter(&[])), ..Default::default() };
        let listed = engine.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.engine.error("containers cannot be listed", error))?;
        let mut all = Vec::with_capacity(listed.len());
        for id in listed.into_iter().filter_map(|container| container.id) {
            match engine.docker.inspect_container(&id, None::<InspectContainerOptions>).await {
                Ok(container) => all.push(self.listed(container)),
                Err(error) if is_status(&error, 404) => {} // it went since
                Err(error) => return Err(self.engine.error("a container cannot be inspected", error)),
            }
        }
        let began = Instant::now();
        tokio::time::sleep(MOMENT).await;
        for listed in &mut all {
            let after = self.bound(listed.pid).and_then(|bound| bound.cpu_ns);
            if let (Some(before), Some(after)) = (listed.cpu_ns, after) {
                let moment = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX).max(1);
                listed.found.cpu_millicores = (after - before).max(0) / moment; // ns a µs are thousandths
            }
        }
        let address = self.engine.address().to_owned();
        let (overhead_fixed, overhead_nodes, all) = {
            let daemon = daemon(&address).await;
            let table = processes::all();
            let (fixed, nodes) = cost(&table, daemon, &all).await;
            (processes::cost(fixed), processes::cost(nodes), all)
        };
        let found = all.into_iter().map(|listed| listed.found).collect();
        Ok(Inventory { found, overhead_fixed, overhead_nodes })
    }

    fn bound(&self, pid: i64) -> Option<Bound> {
        self.cgroups.as_ref().filter(|_| pid > 0)?.bound_of_process(pid)
    }

    fn listed(&self, container: ContainerInspectResponse) -> Listed {
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        let labelled = labels.get(NODE_LABEL).cloned().unwrap_or_default();
        let handle = container.name.unwrap_or_default().trim_start_matches('/').to_owned();
        let node = NodeId::parse(&labelled).ok().filter(|node| container_name(*node) == handle);
        let state = container.state.unwrap_or_default();
        let pid = state.pid.unwrap_or(0);
        let host = container.host_config.unwrap_or_default();
        let set = |limit: Option<i64>| limit.filter(|limit| *limit > 0);
        let bound = self.bound(pid);
        // While it runs the kernel knows what binds it; else what it would be started with counts.
        let quota = || set(host.cpu_quota)?.checked_mul(1000)?.checked_div(set(host.cpu_period).unwrap_or(100_000));
        let (cpu_limit_millicores, memory_limit_bytes) = match &bound {
            Some(bound) => (bound.cpu_limit_millicores, bound.memory_limit_bytes),
            None => (set(host.nano_cpus).map(|nano| nano / 1_000_000).or_else(quota), set(host.memory)),
        };
        let published = container.network_settings.and_then(|n| n.ports).unwrap_or_default().into_values();
        let ports = published.flatten().flatten().filter_map(|binding| binding.host_port).collect();
        let bound = bound.unwrap_or_default();
        Listed {
            found: Found {
                node,
                handle,
                labelled,
                running: state.running.unwrap_or(false),
                cpu_limit_millicores,
                memory_limit_bytes,
                cpu_millicores: 0,
                memory_bytes: bound.memory_bytes.unwrap_or(0),
            },
            id: container.id.unwrap_or_default(),
            pid,
            ports,
            cpu_ns: bound.cpu_ns,
        }
    }

    /// The container of this name or id, if it carries the mark of this host; `None` if there is none.
    async fn marked(&self, engine: &Connected, handle: &str) -> Result<Option<ContainerInspectResponse>, DriverError> {
        match engine.docker.inspect_container(handle, None::<InspectContainerOptions>).await {
            Ok(container) => {
                let labels = container.config.as_ref().and_then(|c| c.labels.as_ref());
                if labels.and_then(|labels| labels.get(HOST_LABEL)) != Some(&self.host) {
                    return Err(DriverError::Refused(format!("the container `{handle}` is not of this host")));
                }
                Ok(Some(container))
            }
            Err(error) if is_status(&error, 404) => Ok(None),
            Err(error) => Err(self.engine.error("the container cannot be inspected", error)),
        }
    }

    pub(super) async fn remove_orphan(&self, handle: &str) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        let Some(container) = self.marked(&engine, handle).await? else { return Ok(()) };
        let id = container.id.clone().unwrap_or_default();
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        match engine.docker.remove_container(&id, Some(options)).await {
            Ok(()) => {}
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(self.engine.error("the container cannot be removed", error)),
        }
        if self.marked(&engine, &id).await?.is_some() {
            return Err(DriverError::Failed("the container is still there after it was removed".to_owned()));
        }
        // One that was a node of ours leaves its group behind.
        let node = self.listed(container).found.node;
        if let (Some(node), Some(groups)) = (node, self.cgroups.clone()) {
            let removed = tokio::task::spawn_blocking(move || groups.remove(node)).await;
            let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            removed.map_err(|e| DriverError::Failed(format!("its control group cannot be removed: {e}")))?;
        }
        Ok(())
    }

    pub(super) async fn adopt_orphan(&self, handle: &str, node: NodeId) -> Result<(), DriverError> {
        let engine = self.engine.get().await?;
        let Some(_) = self.marked(&engine, handle).await? else {
            return Err(DriverError::Refused(format!("there is no container `{handle}` any more")));
        };
        let renamed = engine.docker.rename_container(handle, RenameContainerOptions { name: container_name(node) });
        renamed.await.map_err(|error| self.engine.error("the container cannot be renamed", error))?;
        self.known().remove(&node);
        Ok(())
    }
}

/// The process behind a socket.
async fn daemon(address: &str) -> Option<i64> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    let stream = tokio::net::UnixStream::connect(path).await.ok()?;
    stream.peer_cred().ok()?.pid().map(i64::from)
}

/// The engine's own processes: the daemon, what it started, and the `containerd` that its containers' shims name; and
/// those that each container of ours has beside its own: its shim and the forwarders of its ports.
async fn cost<'a>(
    table: &'a [Process],
    daemon_pid: Option<i64>,
    all: &[Listed],
) -> (Vec<&'a Process>, Vec<&'a Process>) {
    let ids: HashMap<&str, &Listed> = all.iter().map(|listed| (listed.id.as_str(), listed)).collect();
    let (mut fixed, mut nodes, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for process in table {
        if process.name.starts_with("containerd-shim") {
            if process.argument("-id").is_some_and(|id| ids.contains_key(id.as_str())) {
                sockets.extend(process.argument("-address"));
                nodes.push(process);
            }
        } else if process.name == "docker-proxy" {
            let port = process.argument("-host-port");
            if port.is_some_and(|port| all.iter().any(|listed| listed.ports.contains(&port))) {
                nodes.push(process);
            }
        } else if Some(process.pid) == daemon_pid
            || (Some(process.parent) == daemon_pid && process.name == "containerd")
        {
            fixed.push(process);
        }
    }
    sockets.sort_unstable();
    sockets.dedup();
    for socket in sockets {
        let pid = daemon(&socket).await;
        if !fixed.iter().any(|process| Some(process.pid) == pid) {
            fixed.extend(table.iter().find(|process| Some(process.pid) == pid));
        }
    }
    (fixed, nodes)
}
