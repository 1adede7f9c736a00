//! An acknowledged contract was synced to disk first. A process that is killed proves nothing about the disk, so the
//! system calls are traced: between two acknowledgements there is always a sync that ended well.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;

use crate::platform::{Mode, Platform, SOON, Sim, place_r, until};

const CLAIMS: usize = 25;

/// Traces a process that this test started, with its children, into a file.
struct Trace(Child);

impl Trace {
    /// `None` if the process ended before.
    async fn attach(pid: u32, out: &Path, calls: &str) -> Option<Self> {
        let child = Command::new("strace")
            .args(["-f", "-tt", "-s", "40", "-e", &format!("trace={calls}"), "-p", &pid.to_string(), "-o"])
            .arg(out)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed: scripts/deps.sh test");
        let trace = Self(child);
        let attached = until("strace is attached", SOON, async || {
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return Some(false) };
            status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0")).then_some(true)
        })
        .await;
        attached.then_some(trace)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // SIGTERM lets it detach; the traced process goes on.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// Claims one contract after the other, so that no acknowledgement shares a sync with the next.
async fn claim(platform: &Platform) {
    let alice = platform.tenant("alice").await;
    for n in 0..CLAIMS {
        let body = json!({ "name": format!("c{n}"), "lines": [{ "name": "l", "host": "sim-0", "command": ["true"],
            "power": "off", "size": { "cpu_millicores": 1, "memory_bytes": 1 << 20 } }] });
        alice.post("/v1/rcontracts", &body).await.good();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_every_acknowledged_claim_was_synced_first() {
    let platform = Platform::together(&["--no-agent".into()], &[]).await;
    place_r(&platform.server).await;
    let _sim = Sim::start(&platform, 1).await;
    let out = platform.folder.path().join("trace");
    let trace = Trace::attach(platform.pid("up"), &out, "fsync,fdatasync,sendto,write,writev").await.unwrap();
    claim(&platform).await;
    drop(trace);

    let text = std::fs::read_to_string(&out).unwrap();
    let (mut synced, mut acknowledged) = (0, 0);
    for line in text.lines() {
        if (line.contains("fdatasync") || line.contains("fsync")) && line.trim_end().ends_with("= 0") {
            synced += 1;
        }
        if line.contains("\"HTTP/1.1 201") {
            acknowledged += 1;
            // One tenant's set-up is acknowledged with 201 as well: each of those is a commit of its own.
            assert!(synced >= 1, "acknowledgement {acknowledged} came before any sync since the one before it");
            synced = 0;
        }
    }
    assert!(acknowledged >= CLAIMS, "{acknowledged} of {CLAIMS} acknowledgements were traced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_every_acknowledged_claim_was_synced_first() {
    let platform = Platform::start(Mode::Apart).await;
    place_r(&platform.server).await;
    let _sim = Sim::start(&platform, 1).await;
    // Backends that are there already belong to the tier; the write-ahead log is synced by the one that commits.
    let traces = platform.folder.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let mut attached = Vec::new();
    for pid in backends().await {
        attached.extend(Trace::attach(pid, &traces.join(pid.to_string()), "fsync,fdatasync").await);
    }
    assert!(!attached.is_empty(), "no backend of PostgreSQL was found");
    claim(&platform).await;
    tokio::time::timeout(Duration::from_secs(10), async { drop(attached) }).await.unwrap();
    let syncs: usize = std::fs::read_dir(&traces)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|text| text.lines().filter(|l| l.contains("sync(") && l.trim_end().ends_with("= 0")).count())
        .sum();
    assert!(syncs >= CLAIMS, "{CLAIMS} claims, one after the other, and only {syncs} syncs");
}

/// The processes of the tests' PostgreSQL server, by their parent.
async fn backends() -> Vec<u32> {
    use sea_orm::ConnectionTrait;
    let url = std::env::var("YIQIU_TEST_POSTGRES").unwrap();
    let database = yiqiu_base::database::Database::connect(&url).await.unwrap();
    let row = database.read().query_one_raw(yiqiu_base::database::sql(
        database.backend(),
        "SELECT pg_backend_pid() AS pid",
        [],
    ));
    let own: i32 = row.await.unwrap().unwrap().try_get("", "pid").unwrap();
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let server = parent(u32::try_from(own).unwrap()).unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| parent(*pid) == Some(server))
        .collect()
}
