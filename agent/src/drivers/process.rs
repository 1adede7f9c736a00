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
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use yiqiu_base::{Id, NodeType, Size};
use yiqiu_proto::common::{NodeSpec, Runtime};

use super::supervisor::{ARGUMENT, ExitFile, MakeFile, RunFile, end_group, read_json, write_json};
use crate::{
    cgroup::{Cgroups, Limits},
    driver::{Change, Driver, DriverError, Found, Inventory, Make, NodeId, Presence, Reading, Seen, Status},
    processes,
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
    start_within: Duration,
}

impl ProcessDriver {
    /// Keeps a folder for each node in `folder`; `supervisor` is the binary that minds a node (by default the running
    /// one, which has to call [`crate::supervise_main`]).
    pub fn new(folder: PathBuf, supervisor: Option<PathBuf>) -> Self {
        let supervisor = supervisor.or_else(|| std::env::current_exe().ok());
        Self { folder, supervisor, cgroups: Cgroups::find(), start_within: START_WITHIN }
    }

    fn of(&self, node: NodeId) -> PathBuf {
        self.folder.join(node.to_string())
    }

    fn groups(&self) -> Result<&Cgroups, DriverError> {
        self.cgroups.as_ref().ok_or_else(|| {
            DriverError::Refused("this kernel shows no control groups: mount them at /sys/fs/cgroup".to_owned())
        })
    }

    fn pids(&self, node: NodeId) -> Vec<i32> {
        self.cgroups.as_ref().map(|groups| groups.pids(node)).unwrap_or_default()
    }

    /// A node runs while its supervisor or its leader does, or anything at all in its group.
    fn look(&self, node: NodeId) -> Seen {
        let folder = self.of(node);
        let run = read_json::<RunFile>(&folder.join("run.json"));
        if run.as_ref().is_some_and(RunFile::is_minded) || !self.pids(node).is_empty() {
            let run = run.map(|r| r.run).unwrap_or_default();
            return Seen { presence: Presence::Running, run, ..Seen::default() };
        }
        if !folder.join("make.json").exists() {
            return Seen::default();
        }
        let Some(run) = run else {
            return Seen { presence: Presence::Idle, ..Seen::default() };
        };
        let exit = read_json::<ExitFile>(&folder.join("exit.json")).filter(|e| e.run == run.run);
        let detail = match exit {
            Some(ExitFile { why: Some(why), .. }) => why,
            Some(ExitFile { code: Some(code), .. }) => format!("exited with code {code}"),
            Some(ExitFile { signal: Some(signal), .. }) => match Signal::try_from(signal) {
                Ok(signal) => format!("it was ended by {signal}"),
                Err(_) => format!("it was ended by signal {signal}"),
            },
            Some(_) | None => "it ended while nothing minded it: the machine or its supervisor was ended".to_owned(),
        };
        Seen { presence: Presence::Idle, run: run.run, detail, ..Seen::default() }
    }

    /// Ends everything in a node's group.
    async fn end_all(&self, node: NodeId, leader: Option<i32>) -> Result<(), DriverError> {
        let Some(groups) = self.cgroups.clone() else { return Ok(()) }; // nothing was ever started
        let empty = tokio::task::spawn_blocking(move || end_group(&groups, node, leader)).await;
        if empty.unwrap_or(false) {
            return Ok(());
        }
        Err(DriverError::Failed("processes of the node cannot be killed".to_owned()))
    }

    /// A supervisor that did not do its part: ends it, and whatever it started. The run stays noted: nobody can tell
    /// whether the command ran, so its generation is not tried again.
    async fn give_up(&self, node: NodeId, run: String, child: &mut Child, why: String) -> DriverError {
        let exit = ExitFile { run, why: Some(why.clone()), ..ExitFile::default() };
        if let Err(error) = write_json(&self.of(node).join("exit.json"), &exit) {
            tracing::warn!(%node, %error, "how a start ended cannot be kept");
        }
        let _ = child.kill().await; // it may have ended by itself
        match self.end_all(node, None).await {
            Ok(()) => DriverError::Failed(why),
            Err(error) => error,
        }
    }
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
            Ok(()) => Status::ready(Size::ZERO, OVERHEAD_NODE)
                .but("disk space and disk operations are booked, not enforced: a process uses the disk of the host"),
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

    async fn image_remove(&self, _sha256: &str) -> Result<(), DriverError> {
        Ok(())
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
        let Runtime { pids: _, read_only_root, mounts, stop_signal, stop_grace_ms: _, health } =
            spec.runtime.clone().unwrap_or_default();
        if read_only_root || !mounts.is_empty() {
            return Err(DriverError::Refused(
                "a process uses the file system of the host itself: leave mounts and a read-only root out".to_owned(),
            ));
        }
        if health.is_some() {
            return Err(DriverError::Refused(
                "the process driver runs no health commands: leave the health check out".to_owned(),
            ));
        }
        let limits = Limits::of(spec);
        self.groups()?.make(*node, limits).map_err(failed("its control group cannot be made"))?;
        let folder = self.of(*node);
        std::fs::create_dir_all(&folder).map_err(failed("its folder cannot be made"))?;
        let environment = spec.environment.iter().map(|e| (e.name.clone(), e.value.clone())).collect();
        let (command, memory_bytes) = (spec.command.clone(), limits.memory_bytes);
        let make = MakeFile { node: *node, command, environment, stop_signal, memory_bytes };
        write_json(&folder.join("make.json"), &make).map_err(failed("its folder cannot be written"))
    }

    async fn resize(&self, node: NodeId, spec: &NodeSpec) -> Result<(), DriverError> {
        self.groups()?.make(node, Limits::of(spec)).map_err(failed("its control group cannot be bound anew"))
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
        // On disk before anything runs: an agent that ends from here on finds that this run was tried.
        let run_file = self.of(node).join("run.json");
        let before = read_json::<RunFile>(&run_file);
        let run = Id::<yiqiu_base::id::Command>::new().to_string();
        write_json(&run_file, &RunFile::starting(&run)).map_err(failed("its start cannot be noted"))?;
        let never_ran = || match &before {
            Some(before) => write_json(&run_file, before),
            None => std::fs::remove_file(&run_file),
        };
        let spawned = Command::new(supervisor)
            .arg(ARGUMENT)
            .arg(self.of(node))
            .arg(&run)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                never_ran().map_err(failed("its start cannot be taken back"))?;
                return Err(failed("its supervisor cannot be started")(error));
            }
        };
        let said = match child.stdout.take() {
            Some(output) => timeout(self.start_within, BufReader::new(output).lines().next_line()).await,
            None => Ok(Ok(None)),
        };
        let why = match said {
            Ok(Ok(Some(line))) if line == "started" => {
                // Waited for while this agent lives; after that by the machine's first process.
                tokio::spawn(async move { child.wait().await });
                return Ok(self.look(node));
            }
            Ok(Ok(Some(why))) => {
                let _ = child.kill().await; // it said its last word
                self.end_all(node, None).await?;
                never_ran().map_err(failed("its start cannot be taken back"))?;
                return Err(DriverError::Refused(format!("the command cannot be started: {why}")));
            }
            Ok(Ok(None)) => "its supervisor ended without a word".to_owned(),
            Ok(Err(error)) => format!("its supervisor cannot be heard: {error}"),
            Err(_) => {
                format!("its supervisor did not say within {:?} that it started, and was ended", self.start_within)
            }
        };
        Err(self.give_up(node, run, &mut child, why).await)
    }

    async fn stop(&self, node: NodeId, grace: Duration) -> Result<(), DriverError> {
        let run = read_json::<RunFile>(&self.of(node).join("run.json"));
        let leader = run.as_ref().and_then(RunFile::living_leader);
        if let Some(leader) = leader {
            let make = read_json::<MakeFile>(&self.of(node).join("make.json"));
            let signal = make.map_or(Signal::SIGTERM, |make| make.stop_signal());
            let _ = killpg(Pid::from_raw(leader), signal); // it may have ended just now
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline && !self.pids(node).is_empty() {
                sleep(LOOK_EVERY).await;
            }
        }
        if let Some(RunFile { run, supervisor: None, .. }) = &run {
            // Its supervisor may still be about to begin: it looks for this first.
            let why = Some("it was stopped before it was started".to_owned());
            let exit = ExitFile { run: run.clone(), why, ..ExitFile::default() };
            write_json(&self.of(node).join("exit.json"), &exit).map_err(failed("its stop cannot be noted"))?;
        }
        self.end_all(node, leader).await?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while run.as_ref().is_some_and(RunFile::is_minded) {
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

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        let nodes = self.list().await?;
        let used = |node: NodeId| Some((self.cgroups.as_ref()?.bound_of_node(node).cpu_ns?, Instant::now()));
        let before: Vec<_> = nodes.iter().map(|(node, _)| used(*node)).collect();
        sleep(Duration::from_millis(250)).await;
        let (mut found, mut minders) = (Vec::with_capacity(nodes.len()), Vec::new());
        for ((node, seen), before) in nodes.into_iter().zip(before) {
            let bound = self.cgroups.as_ref().map(|groups| groups.bound_of_node(node)).unwrap_or_default();
            let micros = |since: Instant| i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX).max(1);
            let cpu_millicores = before.zip(bound.cpu_ns).map(|((ns, at), now)| (now - ns).max(0) / micros(at));
            minders
                .extend(read_json::<RunFile>(&self.of(node).join("run.json")).and_then(|run| run.living_supervisor()));
            found.push(Found {
                node: Some(node),
                handle: node.to_string(),
                labelled: node.to_string(),
                running: seen.presence == Presence::Running,
                cpu_limit_millicores: bound.cpu_limit_millicores,
                memory_limit_bytes: bound.memory_limit_bytes,
                cpu_millicores: cpu_millicores.unwrap_or(0),
                memory_bytes: bound.memory_bytes.unwrap_or(0),
            });
        }
        let table = processes::all();
        let minders = table.iter().filter(|process| minders.iter().any(|pid| i64::from(*pid) == process.pid));
        Ok(Inventory { found, overhead_fixed: Size::ZERO, overhead_nodes: processes::cost(minders) })
    }

    async fn orphan_remove(&self, handle: &str) -> Result<(), DriverError> {
        let node = NodeId::parse(handle).map_err(|problem| DriverError::Refused(problem.detail))?;
        self.remove(node).await
    }

    async fn orphan_adopt(&self, _handle: &str, _node: NodeId) -> Result<(), DriverError> {
        Err(DriverError::Refused(
            "a process group is the node that its folder names: it cannot become another".to_owned(),
        ))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use yiqiu_proto::common::NodeSpec;

    use super::*;

    /// A driver whose supervisor is a script, and a node made by it. `GROUP` in the script joins the node's group.
    async fn driver(folder: &Path, script: &str) -> (ProcessDriver, NodeId) {
        let node = NodeId::new();
        let supervisor = folder.join("supervisor");
        let mut driver = ProcessDriver::new(folder.join("nodes"), Some(supervisor.clone()));
        driver.start_within = Duration::from_secs(1);
        let joins = driver.groups().unwrap().folders(node);
        let joins: Vec<String> = joins.iter().map(|f| format!("echo $$ > {}/cgroup.procs", f.display())).collect();
        std::fs::write(&supervisor, format!("#!/bin/sh\n{}\n", script.replace("GROUP", &joins.join("; ")))).unwrap();
        std::fs::set_permissions(&supervisor, std::fs::Permissions::from_mode(0o700)).unwrap();
        let size = Size { cpu_millicores: 500, memory_bytes: 64 << 20, ..Size::ZERO };
        let command = vec!["/bin/true".to_owned()];
        let spec = NodeSpec { command, size: Some(size.into()), ..NodeSpec::default() };
        driver.create(&Make { node, name: "n".to_owned(), spec }).await.unwrap();
        (driver, node)
    }

    #[tokio::test]
    async fn a_start_that_is_given_up_leaves_nothing_running_and_counts_as_tried() {
        for (script, why) in [
            ("GROUP\nsleep 1000 &\nsleep 1000", "did not say within"),
            ("GROUP\nsleep 1000 >/dev/null &\nexit 1", "without a word"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (driver, node) = driver(folder.path(), script).await;
            let error = driver.start(node).await.unwrap_err();
            assert!(matches!(&error, DriverError::Failed(detail) if detail.contains(why)), "{error:?}");
            assert_eq!(driver.pids(node), Vec::<i32>::new());
            let seen = driver.inspect(node).await.unwrap();
            assert_eq!((seen.presence, seen.run.is_empty()), (Presence::Idle, false), "a run is noted");
            assert!(seen.detail.contains(why), "{}", seen.detail);
            driver.remove(node).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_start_that_surely_did_nothing_may_be_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (driver, node) = driver(folder.path(), "echo no such program").await;
        let error = driver.start(node).await.unwrap_err();
        assert!(matches!(error, DriverError::Refused(_)), "{error:?}");
        assert_eq!(driver.inspect(node).await.unwrap().run, "");
        driver.remove(node).await.unwrap();
    }

    #[tokio::test]
    async fn whatever_lives_in_the_group_is_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let (driver, node) = driver(folder.path(), "exit 1").await;
        let mut stray = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        for at in driver.groups().unwrap().folders(node) {
            std::fs::write(at.join("cgroup.procs"), stray.id().to_string()).unwrap();
        }
        assert_eq!(driver.start(node).await.unwrap().presence, Presence::Running, "nothing is started beside it");
        assert!(!driver.of(node).join("run.json").exists());
        driver.stop(node, Duration::ZERO).await.unwrap();
        assert!(!stray.wait().unwrap().success());
        assert_eq!(driver.inspect(node).await.unwrap().presence, Presence::Idle);
        driver.remove(node).await.unwrap();
    }
}
