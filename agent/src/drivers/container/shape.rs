//! From a node to Docker's words and back.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, HealthConfig, HealthStatusEnum, HostConfig,
    HostConfigLogConfig, Mount as DockerMount, MountTmpfsOptions, MountType, MountVolumeOptions, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use yiqiu_base::{Health, size::bytes_shown};
use yiqiu_proto::common::{HealthCheck, Mount, NodeSpec, PortMapping, Runtime};

use super::{Known, engine::Connected};
use crate::{
    cgroup::{Limits, PARENT},
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

/// The engine's name of a volume of a node.
fn volume_name(node: NodeId, name: &str) -> String {
    format!("yiqiu-{node}-{name}")
}

/// What to create.
pub(super) fn body(
    make: &Make,
    host: &str,
    engine: &Connected,
    own_group: bool,
) -> Result<ContainerCreateBody, DriverError> {
    let Make { node, name, spec } = make;
    let NodeSpec { image_id: _, image_sha256, command, environment, ports, size, runtime } = spec;
    let Runtime { pids: _, read_only_root, mounts, stop_signal, stop_grace_ms: _, health } =
        runtime.clone().unwrap_or_default();
    if image_sha256.is_empty() {
        return Err(DriverError::Refused("a container needs an image: name one".to_owned()));
    }
    let Limits { cpu_millicores, memory_bytes, pids } = Limits::of(spec);
    let disk_bytes = size.map_or(0, |s| s.disk_bytes);
    if memory_bytes < MEMORY_LEAST {
        return Err(DriverError::Refused(format!(
            "a container of {} is smaller than Docker makes: ask for at least {}",
            bytes_shown(memory_bytes),
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
        nano_cpus: Some(cpu_millicores.saturating_mul(1_000_000)),
        memory: Some(memory_bytes),
        memory_swap: Some(memory_bytes), // together with swap: none
        pids_limit: Some(pids),
        readonly_rootfs: Some(read_only_root),
        storage_opt: (engine.bounds_disk && disk_bytes > 0)
            .then(|| HashMap::from([("size".to_owned(), disk_bytes.to_string())])),
        mounts: Some(mounts.into_iter().map(|m| mount(*node, host, m)).collect()),
        cgroup_parent: own_group.then(|| format!("/{PARENT}/{node}")),
        port_bindings: Some(bindings.clone()),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        init: engine.init.then_some(true),
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
        stop_signal: (!stop_signal.is_empty()).then(|| format!("SIG{}", stop_signal.to_ascii_uppercase())),
        healthcheck: health.map(health_config),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// The limits of a container of another size. Once `nano_cpus` is set, it is what has to be updated.
pub(super) fn resized(limits: Limits) -> ContainerUpdateBody {
    let Limits { cpu_millicores, memory_bytes, pids: _ } = limits; // no size has a say in those
    ContainerUpdateBody {
        nano_cpus: Some(cpu_millicores.saturating_mul(1_000_000)),
        memory: Some(memory_bytes),
        memory_swap: Some(memory_bytes), // together with swap: none
        ..ContainerUpdateBody::default()
    }
}

/// A volume carries the marks of its node and host, so that it is found when its container is gone.
fn mount(node: NodeId, host: &str, mount: Mount) -> DockerMount {
    let Mount { path, volume, size_bytes, read_only } = mount;
    if volume.is_empty() {
        let options = MountTmpfsOptions { size_bytes: Some(size_bytes), ..MountTmpfsOptions::default() };
        return DockerMount {
            target: Some(path),
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(options),
            ..DockerMount::default()
        };
    }
    let labels = HashMap::from([(NODE_LABEL.to_owned(), node.to_string()), (HOST_LABEL.to_owned(), host.to_owned())]);
    DockerMount {
        target: Some(path),
        source: Some(volume_name(node, &volume)),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        volume_options: Some(MountVolumeOptions { labels: Some(labels), ..MountVolumeOptions::default() }),
        ..DockerMount::default()
    }
}

fn health_config(check: HealthCheck) -> HealthConfig {
    let HealthCheck { command, interval_ms, timeout_ms, retries, start_ms } = check;
    let ns = |ms: u32| Some(i64::from(ms) * 1_000_000);
    HealthConfig {
        test: Some(std::iter::once("CMD".to_owned()).chain(command).collect()),
        interval: ns(interval_ms),
        timeout: ns(timeout_ms),
        retries: Some(retries.into()),
        start_period: ns(start_ms),
        ..HealthConfig::default()
    }
}

/// The health in the line that a listing has for a container, such as `Up 3 minutes (health: starting)`.
pub(super) fn listed_health(line: &str) -> Health {
    match line.rsplit_once('(').map(|(_, health)| health) {
        Some("healthy)") => Health::Healthy,
        Some("unhealthy)") => Health::Unhealthy,
        Some("health: starting)") => Health::Starting,
        Some(_) | None => Health::None,
    }
}

fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The signal that a code of 128 and more stands for.
fn signal_of(code: i64) -> Option<nix::sys::signal::Signal> {
    nix::sys::signal::Signal::try_from(i32::try_from(code - 128).ok().filter(|s| *s > 0)?).ok()
}

/// What an inspection says.
pub(super) fn known(container: ContainerInspectResponse) -> Known {
    let state = container.state.unwrap_or_default();
    let status = state.status.map(|s| s.to_string()).unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let run = state.started_at.filter(|t| !t.starts_with("0001-")).unwrap_or_default();
    let health = state.health.and_then(|h| h.status).filter(|_| running);
    let health = match health {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) | None => Health::None,
    };
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
            code => match signal_of(code) {
                Some(signal) => format!("exited with code {code}: ended by {signal}"),
                None => format!("exited with code {code}"),
            },
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
        seen: Seen { presence, run, detail, ports, health },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_engine() {
        for (line, health) in [
            ("Up 3 minutes (healthy)", Health::Healthy),
            ("Up 3 minutes (unhealthy)", Health::Unhealthy),
            ("Up 2 seconds (health: starting)", Health::Starting),
            ("Up 3 minutes", Health::None),
            ("Up 3 minutes (Paused)", Health::None),
            ("Exited (0) 3 minutes ago", Health::None),
        ] {
            assert_eq!(listed_health(line), health, "{line}");
        }
        assert_eq!(signal_of(137).map(nix::sys::signal::Signal::as_str), Some("SIGKILL"));
        assert_eq!(signal_of(143).map(nix::sys::signal::Signal::as_str), Some("SIGTERM"));
        assert!([0, 1, 127, 128, 255, -1, i64::MAX].into_iter().all(|code| signal_of(code).is_none()));
    }
}
