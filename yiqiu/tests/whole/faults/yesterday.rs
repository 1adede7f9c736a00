//! Old copies of data: a host that returns with yesterday's journal, and a server restored from yesterday's backup.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use reqwest::Method;
use serde_json::json;

use super::bench::Bench;
use crate::platform::{SOON, until, yiqiu};

fn copy(from: &Path, to: &Path, which: impl Fn(&str) -> bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && which(&entry.file_name().to_string_lossy()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Waits until a node began so often by its own account: a shell takes a moment to say so.
async fn began(bench: &Bench, node: &str, starts: usize) {
    until("it began", Duration::from_secs(10), async || (bench.docker.starts(node) >= starts).then_some(())).await;
    assert_eq!(bench.docker.starts(node), starts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_returns_with_yesterdays_state_brings_nothing_back_and_starts_nothing_twice() {
    let mut bench = Bench::start().await;
    let [stops, goes, wakes, reboots, late] = bench.leases(["stops", "goes", "wakes", "reboots", "late"]).await;
    for node in [&wakes, &late] {
        bench.power(node, "off").await;
        bench.reads(node, "off").await;
    }
    // Yesterday ended in the middle: a start was asked for, and Docker was away.
    bench.docker.kill().await;
    let asked = bench.alice.post(&format!("{}/power", late.path), &json!({ "power": "on" })).await;
    let request = asked.headers["x-request-id"].to_str().unwrap().to_owned();
    asked.good();
    until("the journal has it", SOON, async || {
        let files = std::fs::read_dir(bench.agent_data()).unwrap().map(|entry| entry.unwrap().path());
        let mut texts = files.filter_map(|file| std::fs::read(file).ok());
        texts.any(|text| text.windows(request.len()).any(|part| part == request.as_bytes())).then_some(())
    })
    .await;
    bench.platform.kill("agent");
    let yesterday = bench.platform.folder.path().join("yesterday");
    copy(&bench.agent_data(), &yesterday, |_| true);
    bench.docker.up();
    bench.agent_up();
    bench.online().await;
    bench.reads(&late, "running").await;

    bench.power(&stops, "off").await;
    bench.power(&wakes, "on").await;
    bench.alice.post(&format!("{}/reboot", reboots.path), &json!({})).await.good();
    bench.reads(&stops, "off").await;
    bench.reads(&wakes, "running").await;
    until("it is rebooted", SOON, async || (bench.node(&reboots).await["boot"] == 2).then_some(())).await;
    bench.reads(&reboots, "running").await;
    for node in [&goes, &late] {
        bench.alice.delete(&node.contract).await.good();
        bench.released(node).await;
    }
    bench.all_is_well("before").await;

    bench.platform.kill("agent");
    std::fs::remove_dir_all(bench.agent_data()).unwrap();
    copy(&yesterday, &bench.agent_data(), |_| true);
    bench.agent_up();
    bench.online().await;
    // It obeys: whatever it would do of itself is done before this is.
    bench.power(&stops, "on").await;
    bench.reads(&stops, "running").await;
    for (node, starts) in [(&stops, 2), (&wakes, 2), (&reboots, 2)] {
        began(&bench, &node.id, starts).await;
        bench.reads(node, "running").await;
    }
    let mut left = vec![stops.id.clone(), wakes.id.clone(), reboots.id.clone()];
    left.sort();
    assert_eq!(bench.containers(), left, "nothing released comes back");
    bench.all_is_well("with yesterday's journal").await;
    bench.alice.delete(&wakes.contract).await.good();
    bench.released(&wakes).await;
    bench.all_is_well("it can be worked with").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restored_from_yesterdays_backup_destroys_nothing_and_says_what_differs() {
    let mut bench = Bench::start().await;
    let [stays, goes, stops] = bench.leases(["stays", "goes", "stops"]).await;
    let (data, backup) = (bench.platform.data(), bench.platform.folder.path().join("backup"));
    let databases = |name: &str| name.contains(".sqlite");
    bench.platform.kill("up");
    copy(&data, &backup, databases);
    bench.server_up();
    bench.online().await;

    bench.alice.delete(&goes.contract).await.good();
    bench.released(&goes).await;
    bench.power(&stops, "off").await;
    bench.reads(&stops, "off").await;
    let [new] = bench.leases(["new"]).await;
    began(&bench, &new.id, 1).await;
    bench.all_is_well("before").await;

    let restored = |data: &PathBuf| Command::new(yiqiu()).args(["restored", "--data-dir"]).arg(data).output().unwrap();
    let refused = restored(&data);
    assert!(!refused.status.success(), "not while a server runs on it: {refused:?}");
    for _ in 0..2 {
        // Twice from the same backup: each is another history.
        bench.platform.kill("up");
        for entry in std::fs::read_dir(&data).unwrap() {
            let entry = entry.unwrap();
            if databases(&entry.file_name().to_string_lossy()) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        copy(&backup, &data, databases);
        let done = restored(&data);
        assert!(done.status.success(), "{done:?}");
        bench.server_up();
        bench.online().await;
        bench.audit_finds(&[("ghost", &goes.id), ("orphan", &new.id)]).await;
    }
    let mut left = vec![stays.id.clone(), stops.id.clone(), new.id.clone()];
    left.sort();
    assert_eq!(bench.containers(), left, "nothing is destroyed");
    assert_eq!(bench.docker.run(&["inspect", "-f", "{{.State.Running}}", &format!("yiqiu-{}", new.id)]), "true");
    assert_eq!(bench.docker.run(&["ps", "-q"]).lines().count(), 2, "what was stopped is not started by itself");
    let ghost = bench.node(&goes).await;
    assert!(
        ghost["state"] == "failed" && ghost["detail"].as_str().unwrap().contains("nothing of it is left"),
        "{ghost}"
    );
    bench.ops.books_hold("restored").await;
    let health = bench.ops.get("/readyz").await;
    assert!(
        health.status == 200 && !health.body.to_string().contains("has stopped"),
        "the meter goes on: {}",
        health.body
    );

    // What differs is settled by whoever knows.
    let finding = bench.audit();
    let orphan = finding["findings"].as_array().unwrap().iter().find(|f| f["kind"] == "orphan").unwrap().clone();
    bench.ops.cli_json(&["audit", "remove", orphan["id"].as_str().unwrap(), "--why", "made after the backup"]);
    bench.power(&stops, "on").await;
    bench.reads(&stops, "running").await;
    bench.asked(Method::DELETE, &goes.contract, "goes", None).await.good();
    bench.released(&goes).await;
    for (node, starts) in [(&stays, 1), (&stops, 2)] {
        began(&bench, &node.id, starts).await;
    }
    bench.all_is_well("settled").await;
}
