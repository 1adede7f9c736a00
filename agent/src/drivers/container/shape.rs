//! From a node to Docker's words and back.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigLogConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use yiqiu_base::{Size, size::bytes_shown};
use yiqiu_proto::common::{NodeSpec, PortMapping};

use super::Known;
use crate::{
    cgroup::{PARENT, PIDS_MOST},
    driver::{DriverError, Make, NodeId, Presence, Seen},
};

/// Which node a container is.
pub(super) const NODE_LABEL: &str = "yiqiu.node";
/// Which host it belongs to: several agents may share an engine.
pub(super) const HOST_LABEL: &str = "yiqiu.host";
/// The node's name, for people.
const NAME_LABEL: &str = "yiqiu.name";
/// The repository of imported images.
pub(super) const IMAGES: &str = "yiqiu/image";
/// The least memory that Docker gives a container.
const MEMORY_LEAST: i64 = 6 << 20;
/// Of Docker's default capabilities, those that a service does not need.
const DROPPED: [&str; 5] = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP", "SETPCAP"];

pub(super) fn container_name(node: NodeId) -> String {
    format!("yiqiu-{node}")
}

pub(super) fn image_name(sha256: &str) -> String {
    format!("{IMAGES}:{sha256}")
}

/// What to create.
pub(super) fn body(make: &Make, host: &str, init: bool, own_group: bool) -> Result<ContainerCreateBody, DriverError> {
    let Make { node, name, spec } = make;
    let NodeSpec { image_id: _, image_sha256, command, environment, ports, size } = spec;
    if image_sha256.is_empty() {
        return Err(DriverError::Refused("a container needs an image: name one".to_owned()));
    }
    let size = size.map(Size::from).unwrap_or_default();
    if size.memory_bytes < MEMORY_LEAST {
        return Err(DriverError::Refused(format!(
            "a container of {} is smaller than Docker makes: ask for at least {}",
            bytes_shown(size.memory_bytes),
            bytes_shown(MEMORY_LEAST)
        )));
    }
    let mut bindings = HashMap::new();
    for PortMapping { node_port, host_port, host_address: _ } in ports {
        let port = if *host_port == 0 { String::new() } else { host_port.to_string() };
        let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port) };
        bindings
            .entry(format!("{node_port}/tcp"))
            .or_insert_with(|| Some(Vec::new()))
            .get_or_insert_default()
            .push(binding);
    }
    let log = HashMap::from([("max-size".to_owned(), "10m".to_owned()), ("max-file".to_owned(), "2".to_owned())]);
    let host_config = HostConfig {
        nano_cpus: Some(size.cpu_millicores.saturating_mul(1_000_000)),
        memory: Some(size.memory_bytes),
        memory_swap: Some(size.memory_bytes), // together with swap: none
        pids_limit: Some(PIDS_MOST),
        cgroup_parent: own_group.then(|| format!("/{PARENT}/{node}")),
        port_bindings: Some(bindings.clone()),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        init: init.then_some(true),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        cap_drop: Some(DROPPED.map(str::to_owned).to_vec()),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log) }),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: Some(image_name(image_sha256)),
        hostname: is_hostname(name).then(|| name.clone()),
        cmd: (!command.is_empty()).then(|| command.clone()),
        env: Some(environment.iter().map(|e| format!("{}={}", e.name, e.value)).collect()),
        exposed_ports: Some(bindings.into_keys().collect()),
        labels: Some(HashMap::from([
            (NODE_LABEL.to_owned(), node.to_string()),
            (HOST_LABEL.to_owned(), host.to_owned()),
            (NAME_LABEL.to_owned(), name.clone()),
        ])),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// What an inspection says.
pub(super) fn known(container: ContainerInspectResponse) -> Known {
    let state = container.state.unwrap_or_default();
    let status = state.status.map(|s| s.to_string()).unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let run = state.started_at.filter(|t| !t.starts_with("0001-")).unwrap_or_default();
    let memory = container.host_config.as_ref().and_then(|h| h.memory).unwrap_or(0);
    let detail = if running || run.is_empty() {
        String::new()
    } else if state.oom_killed == Some(true) {
        format!("it was killed for using more memory than its {}", bytes_shown(memory))
    } else {
        let code = state.exit_code.unwrap_or(-1);
        let command = container.path.unwrap_or_default();
        // What a shell and the engine's init both mean by these codes.
        let code = match code {
            126 => format!("exited with code 126: `{command}`, or what it ran, cannot be executed"),
            127 => format!("exited with code 127: `{command}`, or what it ran, was not found"),
            code => format!("exited with code {code}"),
        };
        match state.error.filter(|e| !e.is_empty()) {
            Some(error) => format!("{code}: {error}"),
            None => code,
        }
    };
    let mut ports: Vec<PortMapping> = Vec::new();
    if running {
        let published = container.network_settings.and_then(|n| n.ports).unwrap_or_default();
        for (port, bindings) in published {
            let Some(node_port) = port.split('/').next().and_then(|p| p.parse().ok()) else { continue };
            for binding in bindings.unwrap_or_default() {
                let Some(host_port) = binding.host_port.and_then(|p| p.parse().ok()) else { continue };
                let host_address = binding.host_ip.unwrap_or_else(|| "127.0.0.1".to_owned());
                ports.push(PortMapping { node_port, host_port, host_address });
            }
        }
        ports.sort_by_key(|p| (p.node_port, p.host_port));
    }
    let presence = if running { Presence::Running } else { Presence::Idle };
    Known {
        container: container.id.unwrap_or_default(),
        state: status,
        pid: state.pid.unwrap_or(0),
        seen: Seen { presence, run, detail, ports },
    }
}
