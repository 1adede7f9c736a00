//! The way to a container engine: connected when needed, and again when it came back.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error, models::SystemInfoCgroupDriverEnum};

use crate::driver::DriverError;

const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";
/// Seconds that a request may take.
const TIMEOUT_S: u64 = 120;

/// A container engine at an address.
pub(super) struct Engine {
    address: String,
    connected: Mutex<Option<Connected>>,
}

/// A connected engine, with what was asked of it once.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) docker: Docker,
    /// Whether containers can have an init that reaps and forwards signals.
    pub(super) init: bool,
    /// Whether groups are plain folders, so that a node can be given one of its own.
    pub(super) cgroupfs: bool,
    /// Whether the root of a container can be bound to a number of bytes.
    pub(super) bounds_disk: bool,
}

impl Connected {
    /// Which parts of a size are not enforced here.
    pub(super) fn unbound(&self) -> String {
        if self.bounds_disk {
            "disk operations and the disk of volumes are booked, not enforced".to_owned()
        } else {
            "disk space and disk operations are booked, not enforced: Docker binds disk space on overlay2 over XFS with \
             pquota, btrfs or zfs"
                .to_owned()
        }
    }
}

/// Whether a storage driver binds the space of a container. With overlay2 that needs project quotas of XFS.
fn bounds_disk(driver: &str, root: &Path, mounts: &str) -> bool {
    match driver {
        "btrfs" | "zfs" => true,
        "overlay2" => {
            let of = |line: &str| {
                let mut fields = line.split(' ').skip(1);
                Some((fields.next()?.to_owned(), fields.next()?.to_owned(), fields.next()?.to_owned()))
            };
            // The deepest mount above the folder is its file system; of several at one place the last.
            let above = mounts.lines().filter_map(of).filter(|(at, ..)| root.starts_with(at));
            above.max_by_key(|(at, ..)| at.len()).is_some_and(|(_, kind, options)| {
                kind == "xfs" && options.split(',').any(|option| option == "prjquota" || option == "pquota")
            })
        }
        _ => false,
    }
}

impl Engine {
    /// The engine at a socket's path or URL; else at `DOCKER_HOST`; else where it is by default.
    pub(super) fn new(socket: Option<&str>) -> Self {
        let given = socket.map(str::to_owned).or_else(|| std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()));
        let address = match given {
            Some(address) if address.contains("://") => address,
            Some(path) => format!("unix://{path}"),
            None => DEFAULT_SOCKET.to_owned(),
        };
        Self { address, connected: Mutex::new(None) }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Connects, unless that was done since it was last lost.
    pub(super) async fn get(&self) -> Result<Connected, DriverError> {
        if let Some(connected) = &*self.connected.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(connected.clone());
        }
        let connected = self.connect().await.map_err(|error| self.away(&error))?;
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.clone());
        Ok(connected)
    }

    async fn connect(&self) -> Result<Connected, Error> {
        let docker = if self.address.starts_with("unix://") {
            Docker::connect_with_unix(&self.address, TIMEOUT_S, API_DEFAULT_VERSION)?
        } else {
            Docker::connect_with_http(&self.address, TIMEOUT_S, API_DEFAULT_VERSION)?
        };
        let docker = docker.negotiate_version().await?;
        let info = docker.info().await?;
        let init = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/libexec/docker", "/usr/local/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join("docker-init").exists());
        let cgroupfs = info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::CGROUPFS);
        let (driver, root) = (info.driver.unwrap_or_default(), info.docker_root_dir.unwrap_or_default());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let bounds_disk = bounds_disk(&driver, Path::new(&root), &mounts);
        tracing::debug!(version = info.server_version, init, cgroupfs, driver, bounds_disk, "connected to the engine");
        Ok(Connected { docker, init, cgroupfs, bounds_disk })
    }

    /// The engine may be another one when it answers again.
    pub(super) fn lost(&self) {
        *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn away(&self, error: &Error) -> DriverError {
        tracing::debug!(%error, "the container engine does not answer");
        DriverError::Unavailable(format!(
            "Docker does not answer at {}: install docker.io and start dockerd",
            self.address
        ))
    }

    /// What an engine's error means for the worker.
    pub(super) fn error(&self, doing: &str, error: Error) -> DriverError {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let detail = format!("{doing}: Docker says: {}", message.trim());
                let port = message.contains("port is already allocated") || message.contains("address already in use");
                if port {
                    DriverError::Refused(format!("{detail}; ask for another host port, or for 0 to have one picked"))
                } else if message.contains("No command specified") {
                    DriverError::Refused(format!("{doing}: the image names no command, so the node needs one"))
                } else if message.contains("cgroup") {
                    DriverError::Failed(detail) // a group that was being made as the last one beside it was removed
                } else if status_code == 400 || message.contains("OCI runtime create failed") {
                    DriverError::Refused(detail)
                } else {
                    DriverError::Failed(detail)
                }
            }
            Error::DockerStreamError { error } => DriverError::Failed(format!("{doing}: Docker says: {error}")),
            Error::JsonDataError { message, .. } => {
                DriverError::Failed(format!("{doing}: Docker's answer is not understood: {message}"))
            }
            other => {
                self.lost();
                self.away(&other)
            }
        }
    }
}

/// Whether the engine answered with this status.
pub(super) fn is_status(error: &Error, status: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

/// Whether Docker's containerd has a start that Docker itself has forgotten.
pub(super) fn is_forgotten(error: &Error) -> bool {
    let Error::DockerResponseServerError { message, .. } = error else { return false };
    message.contains("task ") && message.contains("already exists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_bound_by_project_quotas_or_not_at_all() {
        let xfs = "/dev/a / ext4 rw 0 0\n/dev/b /var/lib/docker xfs rw,noatime,prjquota 0 0\n/dev/c /var ext4 rw 0 0\n";
        for (driver, root, mounts, bounds) in [
            ("overlay2", "/var/lib/docker", xfs, true),
            ("overlay2", "/var/lib/other", xfs, false),
            ("overlay2", "/var/lib/docker", "/dev/b / xfs rw,noquota 0 0\n", false),
            ("overlay2", "/var/lib/docker", "", false),
            ("btrfs", "/var/lib/docker", "", true),
            ("vfs", "/var/lib/docker", xfs, false),
        ] {
            assert_eq!(bounds_disk(driver, Path::new(root), mounts), bounds, "{driver} {root} {mounts}");
        }
    }
}
