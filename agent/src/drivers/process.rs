//! One supervised process group a node, on the host itself: the stand-in for a BNode until bare machines can be
//! switched on. It runs a command of the host, bound by a control group; there is no root of its own, so an image is
//! refused.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use yiqiu_base::{Id, NodeType, Size};

use super::supervisor::{ARGUMENT, ExitFile, MakeFile, RunFile, boot_id, end_group, read_json, write_json};
use crate::{
    cgroup::{Cgroups, Limits},
    driver::{Change, Driver, DriverError, Make, NodeId, Presence, Reading, Seen, Status},
};

/// A supervisor of a BNode: an estimate of its resident memory.
const OVERHEAD_NODE: Size = Size { cpu_millicores: 0, memory_bytes: 8 << 20, disk_bytes: 16 << 20, disk_iops: 0 };
/// How long a supervisor may take to say that the command was started.
const START_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The driver of process groups.
pub struct ProcessDriver {
    folder: PathBuf,
    supervisor: Option<PathBuf>,
    cgroups: Option<Cgroups>,
}

impl ProcessDriver {
    /// Keeps a folder for each node in `folder`; `supervisor` is the binary that minds a node (by default the running
    /// one, which has to call [`crate::supervise_main`]).
    pub fn new(folder: PathBuf, supervisor: Option<PathBuf>) -> Self {
        let supervisor = supervisor.or_else(|| std::env::current_exe().ok());
        Self { folder, supervisor, cgroups: Cgroups::find() }
    }

    fn of(&self, node: NodeId) -> PathBuf {
        self.folder.join(node.to_string())
    }

    fn groups(&self) -> Result<&Cgroups, DriverError> {
        self.cgroups.as_ref().ok_or_else(|| {
            DriverError::Refused("this kernel shows no control groups: mount them at /sys/fs/cgroup".to_owned())
        })
    }

    fn look(&self, node: NodeId) -> Seen {
        let folder = self.of(node);
        if !folder.join("make.json").exists() {
            return Seen::default();
        }
        let Some(run) = read_json::<RunFile>(&folder.join("run.json")) else {
            return Seen { presence: Presence::Idle, ..Seen::default() };
        };
        if is_running(&run) {
            return Seen { presence: Presence::Running, run: run.run, ..Seen::default() };
        }
        let exit = read_json::<ExitFile>(&folder.join("exit.json")).filter(|e| e.run == run.run);
        let detail = match exit {
            Some(ExitFile { code: Some(code), .. }) => format!("exited with code {code}"),
            Some(ExitFile { signal: Some(signal), .. }) => format!("it was killed by signal {signal}"),
            Some(_) | None => "it ended while nothing minded it: the machine or its supervisor was ended".to_owned(),
        };
        Seen { presence: Presence::Idle, run: run.run, detail, ports: Vec::new() }
    }
}

/// Whether a run goes on: its supervisor writes how it ended before it ends itself.
fn is_running(run: &RunFile) -> bool {
    run.boot_id == boot_id() && (run.supervisor.is_alive() || run.leader.is_alive())
}

fn failed(doing: &str) -> impl Fn(std::io::Error) -> DriverError + '_ {
    move |error| DriverError::Failed(format!("{doing}: {error}"))
}

#[async_trait]
impl Driver for ProcessDriver {
    fn node_type(&self) -> NodeType {
        NodeType::Bm
    }

    fn name(&self) -> &'static str {
        "process"
    }

    async fn status(&self) -> Status {
        let Some(groups) = &self.cgroups else {
            return Status::missing("this kernel shows no control groups: mount them at /sys/fs/cgroup");
        };
        match groups.writable() {
            Ok(()) => Status::ready(Size::ZERO, OVERHEAD_NODE),
            Err(error) => Status::missing(format!("control groups cannot be made ({error}): run the agent as root")),
        }
    }

    async fn list(&self) -> Result<Vec<(NodeId, Seen)>, DriverError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("process groups cannot be listed")(error)),
        };
        let nodes = entries.flatten().filter_map(|e| NodeId::parse(e.file_name().to_str()?).ok());
        Ok(nodes.map(|node| (node, self.look(node))).filter(|(_, s)| s.presence != Presence::Absent).collect())
    }

    async fn inspect(&self, node: NodeId) -> Result<Seen, DriverError> {
        Ok(self.look(node))
    }

    async fn image_present(&self, _sha256: &str) -> Result<bool, DriverError> {
        Err(DriverError::Refused(
            "the process driver runs a command of the host itself: leave the image out".to_owned(),
        ))
    }

    async fn image_import(&self, sha256: &str, _tar: &Path) -> Result<(), DriverError> {
        self.image_present(sha256).await.map(drop)
    }

    async fn create(&self, make: &Make) -> Result<(), DriverError> {
        let Make { node, name: _, spec } = make;
        if !spec.image_id.is_empty() || !spec.image_sha256.is_empty() {
            return self.image_present(&spec.image_sha256).await.map(drop);
        }
        if spec.command.is_empty() {
            return Err(DriverError::Refused(
                "the process driver needs a command to run on the host: name one".to_owned(),
            ));
        }
        if !spec.ports.is_empty() {
            return Err(DriverError::Refused(
                "a process uses the ports of the host itself: leave ports out, and have the command listen".to_owned(),
            ));
        }
        let size = spec.size.map(Size::from).unwrap_or_default();
        let limits = Limits { cpu_millicores: size.cpu_millicores, memory_bytes: size.memory_bytes };
        self.groups()?.make(*node, limits).map_err(failed("its control group cannot be made"))?;
        let folder = self.of(*node);
        std::fs::create_dir_all(&folder).map_err(failed("its folder cannot be made"))?;
        let environment = spec.environment.iter().map(|e| (e.name.clone(), e.value.clone())).collect();
        let make = MakeFile { node: *node, command: spec.command.clone(), environment };
        write_json(&folder.join("make.json"), &make).map_err(failed("its folder cannot be written"))
    }

    async fn start(&self, node: NodeId) -> Result<Seen, DriverError> {
        let seen = self.look(node);
        match seen.presence {
            Presence::Running => return Ok(seen),
            Presence::Absent => return Err(DriverError::Failed("nothing of the node is there".to_owned())),
            Presence::Idle => {}
        }
        let Some(supervisor) = &self.supervisor else {
            return Err(DriverError::Refused("the program that minds processes is not known".to_owned()));
        };
        let run = Id::<yiqiu_base::id::Command>::new().to_string();
        let mut child = Command::new(supervisor)
            .arg(ARGUMENT)
            .arg(self.of(node))
            .arg(&run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("its supervisor cannot be started"))?;
        let Some(output) = child.stdout.take() else {
            return Err(DriverError::Failed("its supervisor says nothing".to_owned()));
        };
        let mut lines = BufReader::new(output).lines();
        let said = timeout(START_WITHIN, lines.next_line()).await;
        // Waited for while this agent lives; after that by the machine's first process.
        tokio::spawn(async move { child.wait().await });
        match said {
            Ok(Ok(Some(line))) if line == "started" => Ok(self.look(node)),
            Ok(Ok(Some(why))) => Err(DriverError::Refused(format!("the command cannot be started: {why}"))),
            Ok(Ok(None)) => Err(DriverError::Failed("its supervisor ended without a word".to_owned())),
            Ok(Err(error)) => Err(failed("its supervisor cannot be heard")(error)),
            Err(_) => Err(DriverError::Failed("its supervisor does not say that it started".to_owned())),
        }
    }

    async fn stop(&self, node: NodeId, grace: Duration) -> Result<(), DriverError> {
        let Some(run) = read_json::<RunFile>(&self.of(node).join("run.json")) else { return Ok(()) };
        let groups = self.groups()?.clone();
        if run.leader.is_alive() && run.boot_id == boot_id() {
            let _ = killpg(Pid::from_raw(run.leader.pid), Signal::SIGTERM); // it may have ended just now
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline && !groups.pids(node).is_empty() {
                sleep(LOOK_EVERY).await;
            }
        }
        let leader = run.leader.pid;
        let empty = tokio::task::spawn_blocking(move || end_group(&groups, node, leader)).await;
        if !empty.unwrap_or(false) {
            return Err(DriverError::Failed("processes of the node cannot be killed".to_owned()));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_running(&run) {
            if Instant::now() > deadline {
                return Err(DriverError::Failed("its supervisor does not end".to_owned()));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn remove(&self, node: NodeId) -> Result<(), DriverError> {
        self.stop(node, Duration::ZERO).await?;
        if let Some(groups) = self.cgroups.clone() {
            let removed = tokio::task::spawn_blocking(move || groups.remove(node)).await;
            let removed = removed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            removed.map_err(failed("its control group cannot be removed"))?;
        }
        match std::fs::remove_dir_all(self.of(node)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("its folder cannot be removed")(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A process shares the network of its host, so its network bytes are not its own and not counted.
    async fn usage(&self, node: NodeId) -> Result<Reading, DriverError> {
        Ok(self.groups()?.usage(node))
    }

    fn changes(&self) -> mpsc::UnboundedReceiver<Change> {
        mpsc::unbounded_channel().1 // files are looked at instead
    }

    fn poll_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }

    fn sample_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}
