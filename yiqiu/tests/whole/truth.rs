//! The audit tells what is really there: containers that others took away, made or changed behind the platform's back,
//! and hosts that leave in the middle.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use yiqiu_base::database::{Database, sql};

use crate::platform::{Mode, Platform, SOON, Server, Sim, docker_socket, place_r, until};

/// Docker behind the platform's back.
fn docker(arguments: &[&str]) -> String {
    let done = Command::new("docker")
        .args(["-H", &format!("unix://{}", docker_socket().trim_start_matches("unix://"))])
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Containers that a test made by hand, taken away whatever becomes of it.
struct ByHand(Vec<String>);

impl Drop for ByHand {
    fn drop(&mut self) {
        let address = format!("unix://{}", docker_socket().trim_start_matches("unix://"));
        for name in &self.0 {
            let _ = Command::new("docker").args(["-H", &address, "rm", "-f", name]).output(); // it may be gone
        }
    }
}

/// `yiqiu audit -o json` with its exit code.
fn audit(ops: &Server, arguments: &[&str]) -> (Option<i32>, Value) {
    let done = ops.cli(&[&["audit", "-o", "json"], arguments].concat());
    let out = String::from_utf8_lossy(&done.stdout);
    let audit = serde_json::from_str(&out);
    (done.status.code(), audit.unwrap_or_else(|_| panic!("{out}{}", String::from_utf8_lossy(&done.stderr))))
}

fn kinds(audit: &Value) -> Vec<(String, String)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = audit["findings"].as_array().unwrap();
    let mut kinds: Vec<_> = findings.iter().map(|f| (text(f, "kind"), text(f, "name") + &text(f, "handle"))).collect();
    kinds.sort();
    kinds
}

fn groups(node: &str) -> Vec<PathBuf> {
    let roots = ["", "cpu", "cpuacct", "cpu,cpuacct", "memory", "pids", "blkio", "unified"];
    let folders = roots.map(|root| Path::new("/sys/fs/cgroup").join(root).join("yiqiu").join(node));
    folders.into_iter().filter(|folder| folder.exists()).collect()
}

async fn running(who: &Server, contract: &str) -> Vec<Value> {
    until("every node runs", SOON, async || {
        let nodes = who.get(contract).await.good()["nodes"].as_array().unwrap().clone();
        nodes.iter().all(|node| node["state"] == "running").then_some(nodes)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_behind_the_platforms_back_is_told_and_settled_by_command_only() {
    let platform = Platform::start(Mode::Together).await;
    platform.furnish().await;
    let (ops, alice) = (platform.server.clone(), platform.tenant("alice").await);
    let line = |name: &str| {
        json!({ "name": name, "host": "machine", "image": "web", "command": ["/bin/serve"],
            "ports": [{ "node_port": 8080 }], "size": { "cpu_millicores": 100, "memory_bytes": 64 << 20 },
            "runtime": { "mounts": [{ "kind": "volume", "name": "kept", "path": "/kept" }] } })
    };
    let body = json!({ "name": "c", "lines": [line("gone"), line("grown"), line("moved")] });
    let made = alice.post("/v1/rcontracts", &body).await.good();
    let contract = format!("/v1/rcontracts/{}", made["id"].as_str().unwrap());
    let nodes = running(&alice, &contract).await;
    let node = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap()["id"].as_str().unwrap().to_owned();
    let container = |name: &str| format!("yiqiu-{}", node(name));

    let (code, clean) = audit(&ops, &[]);
    assert_eq!((code, &clean["clean"], &clean["matched"]), (Some(0), &json!(true), &json!(3)), "{clean}");
    let host = &clean["host_list"][0];
    assert!(host["overhead_measured"]["memory_bytes"].as_i64().unwrap() > 10 << 20, "dockerd and three shims: {host}");

    assert_eq!(clean["ledgers"].as_array().unwrap().len(), 2, "the tiers' ledgers are compared as well: {clean}");

    // Behind its back.
    let id = ops.get("/v1/hosts/machine").await.good()["id"].as_str().unwrap().to_owned();
    let image = docker(&["inspect", "-f", "{{.Config.Image}}", &container("gone")]);
    let (by_hand, elsewhere) = (format!("by-hand-{id}"), format!("elsewhere-{id}"));
    let _by_hand = ByHand(vec![by_hand.clone(), elsewhere.clone()]);
    docker(&["rm", "-f", &container("gone")]);
    docker(&["update", "--memory", "256m", "--memory-swap", "256m", &container("grown")]);
    docker(&["rename", &container("moved"), &elsewhere]);
    docker(&["run", "-d", "--name", &by_hand, "--label", &format!("yiqiu.host={id}"), &image, "/bin/serve"]);

    let (code, dirty) = until("the audit sees it all", SOON, async || {
        let (code, dirty) = audit(&ops, &["--host", "machine"]);
        (dirty["findings"].as_array().unwrap().len() == 5).then_some((code, dirty))
    })
    .await;
    let mut expected = vec![
        ("ghost".to_owned(), "gone".to_owned()),
        ("ghost".to_owned(), "moved".to_owned()),
        ("over".to_owned(), format!("grown{}", container("grown"))),
        ("orphan".to_owned(), by_hand.clone()),
        ("orphan".to_owned(), elsewhere.clone()),
    ];
    expected.sort();
    assert_eq!(kinds(&dirty), expected, "{dirty}");
    assert_eq!((code, &dirty["matched"], &dirty["clean"]), (Some(1), &json!(0), &json!(false)));
    let table = ops.cli(&["audit"]);
    let (out, told) = (String::from_utf8(table.stdout).unwrap(), String::from_utf8(table.stderr).unwrap());
    assert_eq!(table.status.code(), Some(1));
    assert!(out.contains("node grown may use 256 MiB memory; its claim is 0.1 cpu, 64 MiB memory"), "{out}");
    assert!(out.contains("alice") && told.contains("2 ghosts, 2 orphans, 1 over"), "{out}{told}");
    let metrics = reqwest::get(format!("{}/metrics", ops.resources)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("yiqiu_audit_findings{kind=\"ghost\"} 2"), "{metrics}");

    let volumes = || docker(&["volume", "ls", "-q", "--filter", &format!("label=yiqiu.host={id}")]);
    assert_eq!(volumes().lines().count(), 3, "each node keeps a volume: {}", volumes());

    // Nothing of it is touched but by command.
    let of = |handle: &str| {
        let findings = dirty["findings"].as_array().unwrap();
        findings.iter().find(|f| f["handle"] == handle).unwrap()["id"].as_str().unwrap().to_owned()
    };
    docker(&["inspect", &by_hand]);
    let no = ops.cli(&["audit", "adopt", &of(&by_hand)]);
    assert!(!no.status.success() && String::from_utf8_lossy(&no.stderr).contains("nothing on this host claims"));
    let gone = ops.cli_json(&["audit", "remove", &of(&by_hand), "--why", "made by hand"]);
    assert!(gone["settled"].as_str().unwrap().starts_with("removed by"), "{gone}");
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={by_hand}")]), "");
    ops.cli_json(&["audit", "adopt", &of(&elsewhere), "--why", "renamed by hand"]);
    docker(&["update", "--memory", "64m", "--memory-swap", "64m", &container("grown")]);
    // The ghost is started anew by whoever wants it.
    alice.post(&format!("/v1/nodes/{}/power", node("gone")), &json!({ "power": "on" })).await.good();
    let nodes = running(&alice, &contract).await;
    let (code, clean) = audit(&ops, &[]);
    assert_eq!((code, &clean["matched"]), (Some(0), &json!(3)), "{clean}");

    // A claim ends only when nothing is left of its node: here a process in its group keeps it.
    let stuck = node("grown");
    let mut stray = Command::new("sleep").arg("1000").spawn().unwrap();
    let held = groups(&stuck);
    assert!(!held.is_empty(), "nodes have groups of their own");
    for group in &held {
        std::fs::write(group.join("cgroup.procs"), stray.id().to_string()).unwrap();
    }
    alice.delete(&contract).await.good();
    until("the others are gone", SOON, async || {
        let left = ops.get("/v1/nodes").await.good()["items"].as_array().unwrap().len();
        (left == 1).then_some(())
    })
    .await;
    let host = ops.get("/v1/hosts/machine").await.good();
    let state = alice.get(&contract).await.good()["state"].clone();
    assert_eq!((&host["nodes"], &state), (&json!(1), &json!("releasing")), "the claim stands while something is left");
    stray.kill().unwrap();
    stray.wait().unwrap();
    until("it is released", SOON, async || (alice.get(&contract).await.good()["state"] == "released").then_some(()))
        .await;
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("label=yiqiu.host={id}")]), "");
    assert_eq!(volumes(), "", "what a node kept goes with it");
    for node in nodes {
        assert_eq!(groups(node["id"].as_str().unwrap()), Vec::<PathBuf>::new());
        let port = u16::try_from(node["ports"][0]["host_port"].as_u64().unwrap()).unwrap();
        std::net::TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
    }
    assert_eq!(ops.get("/v1/hosts/machine").await.good()["nodes"], 0);
    ops.books_hold("after it all").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_while_hosts_leave_says_whom_it_could_not_ask() {
    let platform = Platform::together(&["--no-agent".into(), "--audit-interval".into(), "1s".into()], &[]).await;
    let ops = platform.server.clone();
    place_r(&ops).await;
    let sim = Sim::start(&platform, 3).await;
    // It also comes by itself.
    until("an audit of every host", SOON, async || {
        let audit = ops.get("/v1/audits/latest").await;
        (audit.status == 200 && audit.body["hosts"] == 3 && audit.body["clean"] == true).then_some(())
    })
    .await;
    sim.freeze();
    let asked = tokio::task::spawn_blocking({
        let ops = ops.clone();
        move || audit(&ops, &[])
    });
    until("the audit is under way", SOON, async || {
        let audits = ops.get("/v1/audits").await.good();
        let running = |a: &Value| a["state"] == "running" && a["asked_by"] != "";
        audits["items"].as_array().unwrap().iter().any(running).then_some(())
    })
    .await;
    drop(sim);
    let (code, audit) = asked.await.unwrap();
    assert_eq!((code, &audit["unknown"], &audit["matched"]), (Some(1), &json!(3), &json!(0)), "{audit}");
    let findings = audit["findings"].as_array().unwrap();
    assert!(findings.iter().all(|f| f["kind"] == "unknown" && f["host_name"].as_str().unwrap().starts_with("sim-")));
    assert!(findings.iter().any(|f| f["detail"].as_str().unwrap().contains("left while it was asked")), "{audit}");
    let refused = ops.cli(&["audit", "--host", "nowhere"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not_found"));
}

/// Changes the books of one tier by hand.
async fn by_hand(platform: &Platform, tier: &str, text: &str) {
    let books = platform.data().join(format!("{tier}.sqlite"));
    let database = Database::connect(&format!("sqlite:{}", books.display())).await.unwrap();
    let change = database.begin().await.unwrap();
    let done = change.execute_raw(sql(database.backend(), text, [])).await.unwrap();
    assert!(done.rows_affected() > 0, "{text}");
    change.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledgers_that_differ_are_told_and_a_report_says_what_is_amiss_with_its_own() {
    let platform = Platform::start(Mode::Together).await;
    platform.furnish().await;
    let (ops, alice, bob) = (platform.server.clone(), platform.tenant("alice").await, platform.tenant("bob").await);
    let body = |name: &str| {
        json!({ "name": name, "component_type": "container", "count": 1, "need": { "image": "web",
            "command": ["/bin/serve"], "size": { "cpu_millicores": 100, "memory_bytes": 64 << 20 } } })
    };
    for (who, name) in [(&alice, "pair"), (&bob, "other")] {
        who.post("/v1/ccontracts", &body(name)).await.good();
        until("it runs", SOON, async || {
            let component = who.get(&format!("/v1/components/{name}-0")).await.good();
            (component["state"] == "running").then_some(())
        })
        .await;
    }
    let (code, clean) = audit(&ops, &[]);
    assert_eq!((code, &clean["clean"], &clean["matched"]), (Some(0), &json!(true), &json!(2)), "{clean}");
    for (ledger, tier) in clean["ledgers"].as_array().unwrap().iter().zip(["components", "projects"]) {
        assert_eq!((&ledger["tier"], &ledger["compared"], &ledger["clean"]), (&json!(tier), &json!(2), &json!(true)));
    }

    // A difference in the books of each tier above, by hand, told by that tier until it is put right.
    for (tier, wrong, right, told) in [
        (
            "components",
            "UPDATE ccontract SET need = REPLACE(need, ':100,', ':90,') WHERE name = 'pair'",
            "UPDATE ccontract SET need = REPLACE(need, ':90,', ':100,') WHERE name = 'pair'",
            "component pair-0 needs 0.09 cpu, 64 MiB memory, and its line holds 0.1 cpu, 64 MiB memory",
        ),
        (
            "projects",
            "UPDATE segments SET power = 'off' WHERE to_ms IS NULL AND node_name = 'pair-0'",
            "UPDATE segments SET power = 'on' WHERE to_ms IS NULL AND node_name = 'pair-0'",
            "and Projects as off, 0.1 cpu, 64 MiB memory",
        ),
    ] {
        by_hand(&platform, tier, wrong).await;
        let table = ops.cli(&["audit"]);
        let (out, err) = (String::from_utf8_lossy(&table.stdout), String::from_utf8_lossy(&table.stderr));
        assert!(out.contains(told) && out.contains("alice"), "{out}{err}");
        let counted = format!("2 matched, 0 ghosts, 0 orphans, 0 over, 1 difference in the ledger of {tier}");
        assert!(table.status.code() == Some(1) && err.contains(&counted), "{out}{err}");
        let metrics = reqwest::get(format!("{}/metrics", ops.resources)).await.unwrap().text().await.unwrap();
        assert!(metrics.contains(&format!("yiqiu_ledger_findings{{tier=\"{tier}\"}} 1")), "{metrics}");
        let report = alice.cli_json(&["usage", "report"]);
        let finding = &report["items"][0]["findings"][0];
        assert_eq!((&finding["kind"], &finding["tier"]), (&json!("ledger"), &json!(tier)), "{report}");
        by_hand(&platform, tier, right).await;
        let (code, clean) = audit(&ops, &[]);
        assert_eq!((code, &clean["clean"]), (Some(0), &json!(true)), "{clean}");
    }

    // What the hosts say is in the report of whose line it is, and in no other.
    let nodes = ops.get("/v1/nodes").await.good();
    let node = nodes["items"].as_array().unwrap().iter().find(|node| node["name"] == "pair-0").unwrap();
    docker(&["rm", "-f", &format!("yiqiu-{}", node["id"].as_str().unwrap())]);
    until("the audit sees it", SOON, async || (audit(&ops, &[]).1["ghosts"] == 1).then_some(())).await;
    let report = alice.cli_json(&["usage", "report"]);
    let finding = &report["items"][0]["findings"][0];
    let said = (&finding["kind"], &finding["tier"], &finding["host_name"]);
    assert_eq!(said, (&json!("ghost"), &json!("resources"), &json!("machine")), "{report}");
    assert!(report["audit"]["at_ms"].is_i64() && report["audit"]["unknown"] == "", "{report}");
    let table = String::from_utf8(alice.cli(&["usage", "report"]).stdout).unwrap();
    assert!(table.contains("pair-0") && table.contains("ghost"), "{table}");
    let csv = String::from_utf8(alice.cli(&["usage", "report", "-o", "csv"]).stdout).unwrap();
    assert!(csv.lines().any(|line| line.contains("pair-0") && line.contains("ghost: ")), "{csv}");
    let other = bob.cli_json(&["usage", "report"]);
    assert_eq!(other["items"][0]["findings"], json!([]), "{other}");
    platform.clear().await;
}
