//! How a node runs, beside what runs in it: what it may have, how it ends, how it is told to be well.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{Size, name, size::bytes_shown, words};

/// The most processes and threads that a node may ask for.
const PIDS_MOST: i64 = 1 << 20;
/// The longest that a node may take to stop: 10 minutes.
const GRACE_MOST_MS: i64 = 600_000;
/// The most mounts of a node.
const MOUNTS_MOST: usize = 32;
/// The longest span of a health check: an hour.
const SPAN_MOST_MS: i64 = 3_600_000;

words! {
    /// How a node is asked to end.
    StopSignal, "stop signal" {
        /// SIGTERM.
        Term = "term",
        /// SIGINT.
        Int = "int",
        /// SIGQUIT.
        Quit = "quit",
        /// SIGHUP.
        Hup = "hup",
        /// SIGUSR1.
        Usr1 = "usr1",
        /// SIGUSR2.
        Usr2 = "usr2",
        /// SIGWINCH.
        Winch = "winch",
        /// SIGKILL: it is not asked.
        Kill = "kill",
    }
}

/// How a node runs. Nothing set: bounded and writable, stopped by SIGTERM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The most processes and threads, 1 to 1048576; left out: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
    /// Whether nothing but its mounts can be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root: bool,
    /// Folders that are not part of the root; at most 32.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How it is asked to end; left out: what its image says, else `term`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// Milliseconds it may take to end before it is killed, at most 600000; left out: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<i64>,
    /// What tells whether it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
}

/// A folder that is not part of the root. Paths of the host cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Mount {
    /// Kept on its host over restarts, and gone with the node.
    Volume {
        /// Its name in the node.
        name: String,
        /// Where it is in the node.
        path: String,
        /// Whether it cannot be written.
        #[serde(default)]
        read_only: bool,
    },
    /// In memory, which counts as the node's; empty after each start.
    Tmpfs {
        /// Where it is in the node.
        path: String,
        /// How much it holds: at most the memory of the node.
        size_bytes: i64,
    },
}

/// A command that tells whether the node works: its exit code is 0 then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What to run in the node.
    pub command: Vec<String>,
    /// Milliseconds between two runs: 100 to 3600000.
    #[serde(default = "thirty_seconds")]
    pub interval_ms: i64,
    /// Milliseconds that a run may take: 100 to 3600000.
    #[serde(default = "thirty_seconds")]
    pub timeout_ms: i64,
    /// Failures in a row until it is unhealthy: 1 to 100.
    #[serde(default = "three")]
    pub retries: i64,
    /// Failures this soon after the start do not count: 0 to 3600000 milliseconds.
    #[serde(default)]
    pub start_ms: i64,
}

fn thirty_seconds() -> i64 {
    30_000
}

fn three() -> i64 {
    3
}

impl Mount {
    /// Where it is in the node.
    pub fn path(&self) -> &str {
        match self {
            Mount::Volume { path, .. } | Mount::Tmpfs { path, .. } => path,
        }
    }
}

impl Runtime {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it for a node of this size, in words.
    pub fn check(&self, size: Size) -> Result<(), String> {
        let Self { pids, read_only_root: _, mounts, stop_signal: _, stop_grace_ms, health } = self;
        if let Some(pids) = pids.filter(|p| !(1..=PIDS_MOST).contains(p)) {
            return Err(format!("{pids} processes: expected 1 to {PIDS_MOST}"));
        }
        if let Some(grace) = stop_grace_ms {
            check_grace(*grace)?;
        }
        if mounts.len() > MOUNTS_MOST {
            return Err(format!("{} mounts: expected at most {MOUNTS_MOST}", mounts.len()));
        }
        let (mut paths, mut volumes) = (HashSet::new(), HashSet::new());
        for mount in mounts {
            let path = mount.path();
            check_path(path)?;
            if !paths.insert(path) {
                return Err(format!("two mounts are at {path}"));
            }
            match mount {
                Mount::Volume { name, .. } => {
                    name::check("volume", name).map_err(|problem| problem.detail)?;
                    if !volumes.insert(name) {
                        return Err(format!("the volume {name} is there twice"));
                    }
                }
                Mount::Tmpfs { size_bytes, .. } if !(1..=size.memory_bytes).contains(size_bytes) => {
                    return Err(format!(
                        "{size_bytes} bytes of memory at {path}: expected 1 byte to the memory of the node, {}",
                        bytes_shown(size.memory_bytes)
                    ));
                }
                Mount::Tmpfs { .. } => {}
            }
        }
        health.as_ref().map_or(Ok(()), HealthCheck::check)
    }
}

impl HealthCheck {
    fn check(&self) -> Result<(), String> {
        let Self { command, interval_ms, timeout_ms, retries, start_ms } = self;
        let text: usize = command.iter().map(String::len).sum();
        let first = command.first().is_some_and(|word| !word.is_empty());
        if !first || command.len() > 256 || text > 16 << 10 || command.iter().any(|word| word.contains('\0')) {
            return Err("the health command has 1 to 256 words without NUL, 16 KiB in all".to_owned());
        }
        for (what, ms, least) in [("interval", interval_ms, 100), ("timeout", timeout_ms, 100), ("start", start_ms, 0)]
        {
            if !(least..=SPAN_MOST_MS).contains(ms) {
                return Err(format!("the {what} of the health check is {ms} ms: expected {least} to {SPAN_MOST_MS}"));
            }
        }
        if !(1..=100).contains(retries) {
            return Err(format!("{retries} retries of the health check: expected 1 to 100"));
        }
        Ok(())
    }
}

/// Whether a node may take so long to stop.
pub fn check_grace(ms: i64) -> Result<(), String> {
    if (0..=GRACE_MOST_MS).contains(&ms) {
        return Ok(());
    }
    Err(format!("{ms} ms to stop: expected 0 to {GRACE_MOST_MS}"))
}

/// A folder of the node that may be mounted over: what the kernel and the engine provide may not.
fn check_path(path: &str) -> Result<(), String> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let plain = path.len() <= 255 && !path.chars().any(|c| c.is_control() || matches!(c, ',' | ':' | '\\'));
    let whole = path.starts_with('/') && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
    let theirs = matches!(parts.first(), Some(&("proc" | "sys" | "dev"))) && path != "/dev/shm";
    if plain && whole && !theirs {
        return Ok(());
    }
    Err(format!(
        "`{}` cannot be mounted: expected an absolute path such as /data, without `.`, `..`, `,`, `:` or `\\`, and not \
         in /proc, /sys or /dev (but /dev/shm)",
        name::shown(path)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &str) -> Mount {
        Mount::Volume { name: name.to_owned(), path: path.to_owned(), read_only: false }
    }

    fn tmpfs(path: &str, size_bytes: i64) -> Mount {
        Mount::Tmpfs { path: path.to_owned(), size_bytes }
    }

    fn health(change: fn(&mut HealthCheck)) -> Runtime {
        let mut check = HealthCheck {
            command: vec!["true".to_owned()],
            interval_ms: 1_000,
            timeout_ms: 1_000,
            retries: 1,
            start_ms: 0,
        };
        change(&mut check);
        Runtime { health: Some(check), ..Runtime::default() }
    }

    #[test]
    fn what_may_run() {
        let with = |mounts: Vec<Mount>| Runtime { mounts, ..Runtime::default() };
        let size = Size { memory_bytes: 100, ..Size::ZERO };
        let good = [
            Runtime::default(),
            Runtime { pids: Some(1), stop_grace_ms: Some(0), ..Runtime::default() },
            Runtime { pids: Some(PIDS_MOST), stop_grace_ms: Some(GRACE_MOST_MS), ..Runtime::default() },
            with(vec![volume("data", "/data"), volume("more", "/data/more"), tmpfs("/tmp", 100), tmpfs("/dev/shm", 1)]),
            health(|_| {}),
        ];
        for runtime in good {
            assert_eq!(runtime.check(size), Ok(()), "{runtime:?}");
        }
        let bad = [
            (Runtime { pids: Some(0), ..Runtime::default() }, "processes"),
            (Runtime { pids: Some(i64::MAX), ..Runtime::default() }, "processes"),
            (Runtime { stop_grace_ms: Some(-1), ..Runtime::default() }, "to stop"),
            (Runtime { stop_grace_ms: Some(i64::MAX), ..Runtime::default() }, "to stop"),
            (with(vec![volume("data", "/data"), tmpfs("/data", 1)]), "two mounts"),
            (with(vec![volume("data", "/a"), volume("data", "/b")]), "there twice"),
            (with(vec![volume("../etc", "/a")]), "volume"),
            (with(vec![tmpfs("/tmp", 0)]), "expected 1 byte"),
            (with(vec![tmpfs("/tmp", 101)]), "expected 1 byte"),
            (with(vec![tmpfs("/tmp", i64::MIN)]), "expected 1 byte"),
            (with((0..33).map(|n| tmpfs(&format!("/{n}"), 1)).collect()), "at most 32"),
            (health(|h| h.command.clear()), "health command"),
            (health(|h| h.command = vec![String::new()]), "health command"),
            (health(|h| h.command.push("a\0".to_owned())), "health command"),
            (health(|h| h.interval_ms = 99), "interval"),
            (health(|h| h.timeout_ms = i64::MAX), "timeout"),
            (health(|h| h.start_ms = -1), "start"),
            (health(|h| h.retries = 0), "retries"),
        ];
        for (runtime, words) in bad {
            let refused = runtime.check(size).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        for path in
            ["", "/", "data", "/a/../b", "/a//b", "/a/", "/.", "/proc", "/sys/fs", "/dev", "/dev/x", "/a:b", "/a,b"]
        {
            assert!(with(vec![tmpfs(path, 1)]).check(size).is_err(), "{path}");
        }
    }
}
