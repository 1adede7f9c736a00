//! The disk under the server's data is full: what cannot be kept is refused in plain words, and can be asked again.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::platform::{Platform, SOON, Sim, place_r, until};

/// A small disk in a folder, taken away whatever becomes of the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(at).output().unwrap();
        assert!(done.status.success(), "mounting needs root: {done:?}");
        Self(at.to_owned())
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output(); // there is nothing else to be done about it
        let _ = self.0.parent().map(std::fs::remove_dir_all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_in_plain_words_and_nothing_is_half_done() {
    let folder = TempDir::new().unwrap();
    let disk = Disk::mount(&folder.path().join("data"));
    let mut platform = Platform::together_in(folder, &["--no-agent".into()], &[]).await;
    let ops = platform.server.clone();
    place_r(&ops).await;
    let alice = platform.tenant("alice").await;
    let sim = Sim::start(&platform, 1).await;
    let body = |name: &str| {
        let line = json!({ "name": name, "host": "sim-0", "command": ["true"],
            "size": { "cpu_millicores": 100, "memory_bytes": 1 << 20 } });
        serde_json::to_vec(&json!({ "name": name, "lines": [line] })).unwrap()
    };
    let headers = |key: &'static str| [("content-type", "application/json"), ("idempotency-key", key)];
    let first =
        alice.send(Method::POST, "/v1/rcontracts", &headers("first"), Some(body("first"))).await.unwrap().good();
    let node = format!("/v1/nodes/{}", first["nodes"][0]["id"].as_str().unwrap());
    let runs = async |path: &str| {
        until("it runs", SOON, async || (alice.get(path).await.body["state"] == "running").then_some(())).await;
    };
    runs(&node).await;

    disk.fill();
    let full = |refusal: Value| assert!(refusal["detail"].as_str().unwrap().contains("is full"), "{refusal}");
    for _ in 0..3 {
        let asked = alice.send(Method::POST, "/v1/rcontracts", &headers("second"), Some(body("second"))).await.unwrap();
        assert!(asked.headers.contains_key("retry-after"));
        full(asked.refused(503, "unavailable"));
    }
    full(alice.post(&format!("{node}/power"), &json!({ "power": "off" })).await.refused(503, "unavailable"));
    let contract = format!("/v1/rcontracts/{}", first["id"].as_str().unwrap());
    full(alice.delete(&contract).await.refused(503, "unavailable"));
    full(ops.post("/v1/users", &json!({ "name": "bob" })).await.refused(503, "unavailable"));
    // What is there can be read, and is as it was.
    let held = alice.get("/v1/rcontracts").await.good();
    assert_eq!(held["items"].as_array().unwrap().len(), 1, "nothing half done: {held}");
    let now = alice.get(&node).await.good();
    assert_eq!(
        (&now["power"], &now["generation"], &now["state"]),
        (&json!("on"), &json!(1), &json!("running")),
        "{now}"
    );
    ops.books_hold("on a full disk").await;
    assert!(!platform.has_ended("up"), "the server lives on");

    disk.make_room();
    let second = until("the same request under the same key", SOON, async || {
        let asked = alice.send(Method::POST, "/v1/rcontracts", &headers("second"), Some(body("second"))).await.unwrap();
        // Its agent may have been let go meanwhile, as nothing of it could be kept.
        assert!(asked.status < 400 || asked.body["code"] == "wrong_state", "{} {}", asked.status, asked.body);
        (asked.status < 400).then_some(asked.body)
    })
    .await;
    let again =
        alice.send(Method::POST, "/v1/rcontracts", &headers("second"), Some(body("second"))).await.unwrap().good();
    assert_eq!(again["id"], second["id"], "once");
    runs(&format!("/v1/nodes/{}", second["nodes"][0]["id"].as_str().unwrap())).await;
    sim.connected(&ops, 1).await;
    ops.books_hold("with room again").await;
    let audit = until("the audit is clean", Duration::from_secs(20), async || {
        let done = ops.cli(&["audit", "-o", "json"]);
        done.status.success().then(|| serde_json::from_slice::<Value>(&done.stdout).unwrap())
    })
    .await;
    assert_eq!(audit["matched"], 2, "{audit}");
    drop(platform);
    drop(disk);
}
