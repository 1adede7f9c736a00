//! The small process that minds one process group, and outlives the agent: `yiqiu-agent __supervise <folder>`.
//!
//! The agent writes `run.json` before it starts one, so that a start that was tried is known whatever happens next. The
//! supervisor reads `make.json` in its folder, puts itself into `run.json`, starts the command in the node's control
//! group, adds it to `run.json`, says one line on its standard output (`started`, or why not), waits for the command to
//! end, ends whatever that left behind in the group, and writes `exit.json`. Each file is there whole or not at all.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use yiqiu_base::size;

use crate::{cgroup::Cgroups, driver::NodeId, files::write_private};

/// The argument that turns a binary into a supervisor.
pub(crate) const ARGUMENT: &str = "__supervise";
/// A log larger than this is set aside as `log.1`, which replaces the one before.
const LOG_MOST: u64 = 8 << 20;

/// What to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MakeFile {
    pub(crate) node: NodeId,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Such as `quit`; empty: SIGTERM.
    #[serde(default)]
    pub(crate) stop_signal: String,
    #[serde(default)]
    pub(crate) memory_bytes: i64,
}

impl MakeFile {
    /// How it is asked to end.
    pub(crate) fn stop_signal(&self) -> Signal {
        format!("SIG{}", self.stop_signal.to_ascii_uppercase()).parse().unwrap_or(Signal::SIGTERM)
    }
}

/// A run that was started, or is about to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Unlike every other run's.
    pub(crate) run: String,
    /// The machine's boot: process numbers mean nothing in another one.
    pub(crate) boot_id: String,
    /// `None` until it has begun.
    pub(crate) supervisor: Option<Process>,
    /// The leader of the process group; `None` until the command was started.
    pub(crate) leader: Option<Process>,
}

impl RunFile {
    /// A run that is about to be started.
    pub(crate) fn starting(run: &str) -> Self {
        Self { run: run.to_owned(), boot_id: boot_id(), supervisor: None, leader: None }
    }

    /// Its leader, if that lives.
    pub(crate) fn living_leader(&self) -> Option<i32> {
        self.leader.filter(|l| self.boot_id == boot_id() && l.is_alive()).map(|l| l.pid)
    }

    /// Its supervisor, if that lives.
    pub(crate) fn living_supervisor(&self) -> Option<i32> {
        self.supervisor.filter(|s| self.boot_id == boot_id() && s.is_alive()).map(|s| s.pid)
    }

    /// Whether its supervisor or its leader lives.
    pub(crate) fn is_minded(&self) -> bool {
        self.living_leader().is_some() || self.living_supervisor().is_some()
    }
}

/// A process, told from another one that got the same number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since the machine's boot.
    pub(crate) start: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ExitFile {
    pub(crate) run: String,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// In words, where code and signal do not tell.
    #[serde(default)]
    pub(crate) why: Option<String>,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the name in parentheses may hold anything; state is the 1st field after it, starttime the 20th.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, start })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

pub(crate) fn write_json<T: Serialize>(file: &Path, value: &T) -> std::io::Result<()> {
    write_private(file, &serde_json::to_vec(value)?)
}

/// Runs as a supervisor if the arguments (without the program's name) say so.
pub fn supervise_main(args: &[String]) -> Option<ExitCode> {
    let [first, folder, run] = args else { return None };
    (first == ARGUMENT).then(|| match supervise(Path::new(folder), run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn supervise(folder: &Path, run: &str) -> anyhow::Result<()> {
    // A session of its own: no terminal's and no agent's signals reach it. It fails for a group's leader only.
    nix::unistd::setsid().context("it cannot have a session of its own")?;
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        tracing::debug!(%error, "privileges can grow");
    }
    let make: MakeFile = read_json(&folder.join("make.json")).context("make.json is missing or broken")?;
    let cgroups = Cgroups::find().context("this kernel has no control groups")?;
    let Some((program, arguments)) = make.command.split_first() else { bail!("there is no command") };
    let log_file = folder.join("log");
    let log = OpenOptions::new().create(true).append(true).open(&log_file).context("its log cannot be opened")?;
    let me = std::process::id();
    let myself = Process::of(i32::try_from(me)?).context("/proc does not know this process")?;
    let run_file = folder.join("run.json");
    let oom_kills = cgroups.oom_kills(make.node);
    let home = own_groups(&cgroups, make.node);
    // The command is born in the group; the supervisor leaves it again, so that neither counts the other.
    for at in cgroups.folders(make.node) {
        fs::write(at.join("cgroup.procs"), me.to_string())
            .with_context(|| format!("{} cannot be joined", at.display()))?;
    }
    let file: RunFile = read_json(&run_file).context("run.json is missing or broken")?;
    let given_up = read_json::<ExitFile>(&folder.join("exit.json")).is_some_and(|e| e.run == run);
    if file.run != run || given_up {
        bail!("the agent gave this start up"); // another start, or a power-off, came first
    }
    let file = RunFile { supervisor: Some(myself), ..file };
    write_json(&run_file, &file).context("run.json cannot be written")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(make.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("its log cannot be opened")?)
        .stderr(log)
        .process_group(0)
        .spawn();
    for at in home {
        let _ = fs::write(at.join("cgroup.procs"), me.to_string()); // where it stays, its little use is counted
    }
    let mut child = child.with_context(|| format!("`{program}` cannot be started"))?;
    let started = || -> anyhow::Result<()> {
        let leader = i32::try_from(child.id())?;
        // A command that ended at once is a zombie until it is waited for: its start does not matter any more.
        let leader = Process::of(leader).unwrap_or(Process { pid: leader, start: 0 });
        write_json(&run_file, &RunFile { leader: Some(leader), ..file })?;
        Ok(())
    };
    if let Err(error) = started() {
        let _ = child.kill(); // what nobody would know of must not run
        let _ = child.wait();
        return Err(error);
    }
    println!("started");
    std::io::stdout().flush()?;
    let watched = log_file.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            bound_log(&watched);
        }
    });
    let status = child.wait()?;
    let short = cgroups.oom_kills(make.node) > oom_kills && status.signal() == Some(Signal::SIGKILL as i32);
    end_group(&cgroups, make.node, Some(i32::try_from(child.id())?));
    let why =
        short.then(|| format!("it was killed for using more memory than its {}", size::bytes_shown(make.memory_bytes)));
    write_json(
        &folder.join("exit.json"),
        &ExitFile { run: run.to_owned(), code: status.code(), signal: status.signal(), why },
    )?;
    Ok(())
}

/// The groups that this process is in now, as folders, in the hierarchies of the node's group.
fn own_groups(cgroups: &Cgroups, node: NodeId) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroups.homes(node, &own)
}

/// Keeps a log within bounds. It is written by appending, so it can be cut while it is written.
fn bound_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|m| m.len() > LOG_MOST) {
        let aside = log.with_extension("1");
        let _ = fs::copy(log, aside);
        let _ = OpenOptions::new().write(true).open(log).and_then(|f| f.set_len(0));
    }
}

/// Ends what is left in a node's group and in the process group of its leader. Nothing else is touched.
pub(crate) fn end_group(cgroups: &Cgroups, node: NodeId, leader: Option<i32>) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = cgroups.pids(node);
        if left.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        if let Some(leader) = leader.filter(|l| left.contains(l)) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
