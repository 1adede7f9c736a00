//! The bill against the machine's own counters.

use std::fs;

use serde_json::{Value, json};

use crate::{
    main_job::number,
    platform::{Mode, Platform, SOON, docker_socket, http, until},
};

/// Bytes of the file that the test fetches.
const FILE: i128 = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_is_what_the_kernel_counted() {
    let platform = Platform::start(Mode::Together).await;
    platform.furnish().await;
    let alice = platform.tenant("alice").await;
    // Burns one second of processor time by its own count (field 14 of its stat: hundredths of a second in user mode),
    // makes a file, and serves it.
    let script = "used=0; while [ $used -lt 100 ]; do i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; \
                  read -r stat </proc/self/stat; set -- $stat; used=${14}; done; \
                  dd if=/dev/zero of=/www/file bs=1048576 count=8; exec httpd -f -p 8080 -h /www";
    let body = json!({ "name": "burn", "component_type": "container", "count": 1, "need": {
        "size": { "cpu_millicores": 500, "memory_bytes": 64 << 20 }, "image": "web",
        "command": ["/bin/sh", "-c", script], "ports": [{ "node_port": 8080 }] } });
    alice.post("/v1/ccontracts", &body).await.good();
    let port = until("the file is served", SOON, async || {
        let component = alice.get("/v1/components/burn-0").await.good();
        let port = component["ports"].as_array()?.first()?["host_port"].as_u64()?;
        let answer = http().head(format!("http://127.0.0.1:{port}/file")).send().await.ok()?;
        (answer.status() == 200 && answer.content_length_header() == Some(FILE)).then_some(port)
    })
    .await;
    let file = http().get(format!("http://127.0.0.1:{port}/file")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(file.len() as i128, FILE);

    let nodes = platform.server.get("/v1/nodes").await.good();
    let node = nodes["items"][0]["id"].as_str().unwrap().to_owned();
    let sent_by_kernel = net_tx_bytes(&node).await;
    alice.cli_json(&["component", "power-off", "burn-0", "--wait"]);
    // Nothing runs any more: the kernel's counter of the node's control group stands still.
    let kernel = cpu_ns(&node);
    let row = until("the report has the kernel's processor time", SOON, async || {
        let row = report(&alice).await;
        (number(&row["actual"]["cpu_ns"]) == kernel).then_some(row)
    })
    .await;
    let cpu_ms = kernel / 1_000_000;
    assert!(
        (1_000..2_500).contains(&cpu_ms),
        "a second of processor time, and some to serve the file, not {cpu_ms} ms"
    );
    let sent = number(&row["actual"]["net_tx_bytes"]);
    assert!(sent_by_kernel > FILE, "the kernel counted the file: {sent_by_kernel}");
    // What closes the connection may still have been on its way.
    assert!((sent_by_kernel..sent_by_kernel + 10_000).contains(&sent), "{sent_by_kernel} bytes sent, {sent} reported");
    assert!(number(&row["actual"]["memory_byte_ms"]) > 0);

    // The preset follows the state changes to the millisecond: the events say when they were.
    platform.clear().await;
    let (on, off) = from_events(&platform.server.events("resources").await);
    let row = until("the last segment is closed in the report", SOON, async || {
        let row = report(&alice).await;
        (number(&row["off_ms"]) == off).then_some(row)
    })
    .await;
    assert_eq!(number(&row["on_ms"]), on);
    assert_eq!(number(&row["preset"]["on"]["cpu_millicore_ms"]), on * 500);
    assert_eq!(number(&row["preset"]["on"]["memory_byte_ms"]), on * (64 << 20));
    assert!(on >= 2_000, "half a processor burns a second in two seconds at least, not {on} ms");

    // The same as a table for a spreadsheet.
    let csv = alice.cli(&["usage", "report", "-o", "csv"]);
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert!(csv.lines().count() >= 2 && csv.contains("burn-0"), "{csv}");
}

trait ContentLength {
    fn content_length_header(&self) -> Option<i128>;
}

impl ContentLength for reqwest::Response {
    /// Of a HEAD answer, whose body is empty whatever the header says.
    fn content_length_header(&self) -> Option<i128> {
        self.headers().get("content-length")?.to_str().ok()?.parse().ok()
    }
}

async fn report(alice: &crate::platform::Server) -> Value {
    let report = alice.get("/v1/usage/report?project=alice").await.good();
    assert_eq!(report["items"].as_array().unwrap().len(), 1, "{report}");
    report["items"][0].clone()
}

/// Milliseconds on and off, by the events of the meter's segments.
fn from_events(events: &[Value]) -> (i128, i128) {
    let mut power = std::collections::HashMap::new();
    let (mut on, mut off) = (0, 0);
    for event in events {
        let payload = &event["payload"];
        let key = (payload["line_id"].to_string(), payload["from_ms"].as_i64());
        match event["kind"].as_str() {
            Some("segment.opened") => {
                power.insert(key, payload["power"].as_str().unwrap() == "on");
            }
            Some("segment.closed") => {
                let span = i128::from(payload["to_ms"].as_i64().unwrap() - payload["from_ms"].as_i64().unwrap());
                if power[&key] { on += span } else { off += span }
            }
            _ => {}
        }
    }
    (on, off)
}

/// The processor time that the kernel counted for a node, in nanoseconds; of either version of control groups.
fn cpu_ns(node: &str) -> i128 {
    for first in ["cpuacct", "cpu,cpuacct"] {
        if let Ok(text) = fs::read_to_string(format!("/sys/fs/cgroup/{first}/yiqiu/{node}/cpuacct.usage")) {
            return text.trim().parse().unwrap();
        }
    }
    let text = fs::read_to_string(format!("/sys/fs/cgroup/yiqiu/{node}/cpu.stat")).expect("the node's control group");
    let micros = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap();
    micros.parse::<i128>().unwrap() * 1_000
}

/// The bytes that the kernel counted as sent from a node's network.
async fn net_tx_bytes(node: &str) -> i128 {
    let docker = bollard::Docker::connect_with_unix(&docker_socket(), 60, bollard::API_DEFAULT_VERSION).unwrap();
    let docker = docker.negotiate_version().await.unwrap();
    let container = docker.inspect_container(&format!("yiqiu-{node}"), None).await.unwrap();
    let pid = container.state.unwrap().pid.unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let devices = text.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    devices.map(|(_, counters)| counters.split_whitespace().nth(8).unwrap().parse::<i128>().unwrap()).sum()
}
