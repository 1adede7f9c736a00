//! A tenant rents containers from a real host, and the bill is right.

use serde_json::{Value, json};

use crate::platform::{Mode, Platform, SOON, http, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job_in_one_process() {
    main_job(Mode::Together).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job_in_separate_processes() {
    main_job(Mode::Apart).await;
}

async fn page(component: &Value) -> Option<String> {
    let port = component["ports"].as_array()?.first()?["host_port"].as_u64()?;
    http().get(format!("http://127.0.0.1:{port}/")).send().await.ok()?.text().await.ok()
}

async fn main_job(mode: Mode) {
    let platform = Platform::start(mode).await;
    platform.furnish().await;
    let alice = platform.tenant("alice").await;
    let bob = platform.tenant("bob").await;

    let create = [
        "ccontract",
        "create",
        "web",
        "--image",
        "web",
        "--count",
        "2",
        "--cpu",
        "0.1",
        "--memory",
        "64MiB",
        "--port",
        "8080",
        "--spread",
        "host",
        "--wait",
        "--",
        "/bin/serve",
    ];
    let made = alice.cli_json(&create);
    assert_eq!(made["name"], "web", "{made}");
    let components = alice.get("/v1/components").await.good()["items"].as_array().unwrap().clone();
    assert_eq!(components.len(), 2);
    for component in &components {
        let name = component["name"].as_str().unwrap();
        let text = until("the page answers", SOON, async || page(component).await).await;
        assert!(text.contains(name), "{name} is served by: {text}");
    }

    // Another tenant sees nothing of it, and cannot tell that it is there.
    let id = components[0]["id"].as_str().unwrap();
    bob.get(&format!("/v1/components/{id}")).await.refused(404, "not_found");
    bob.get("/v1/ccontracts/web").await.refused(404, "not_found");
    bob.delete("/v1/ccontracts/web").await.refused(404, "not_found");
    bob.post(&format!("/v1/components/{id}/power"), &json!({ "power": "off" })).await.refused(404, "not_found");
    bob.get("/v1/usage/report?project=alice").await.refused(404, "not_found");
    assert!(bob.get("/v1/components").await.good()["items"].as_array().unwrap().is_empty());
    alice.get("/v1/hosts").await.refused(403, "permission_denied");

    alice.cli_json(&["component", "power-off", "web-0", "--wait"]);
    assert!(page(&components[0]).await.is_none(), "it is off");
    assert!(page(&components[1]).await.is_some(), "the other is on");
    alice.cli_json(&["component", "power-on", "web-0", "--wait"]);
    let again = alice.get("/v1/components/web-0").await.good();
    until("the page answers again", SOON, async || page(&again).await).await;

    // The request id of the tenant's request went through the tiers and into the agent's log.
    let answer = alice
        .send(
            reqwest::Method::POST,
            "/v1/components/web-1/power",
            &[("content-type", "application/json"), ("x-request-id", "follow-me")],
            Some(br#"{"power":"off"}"#.to_vec()),
        )
        .await
        .unwrap();
    assert_eq!(answer.headers["x-request-id"], "follow-me");
    let log = if mode == Mode::Together { "up" } else { "agent" };
    until("the agent logs the request id", SOON, async || platform.logged(log).contains("follow-me").then_some(()))
        .await;

    // Both are billed, also for the time that one was off.
    until("usage of both arrives", SOON, async || {
        let report = alice.cli_json(&["usage", "report", "--project", "alice"]);
        let rows = report["items"].as_array()?.clone();
        let counted = |row: &Value| number(&row["actual"]["memory_byte_ms"]) > 0;
        (rows.len() == 2 && rows.iter().all(counted)).then_some(())
    })
    .await;
    let table = alice.cli(&["usage", "report"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("web-0"), "{table:?}");

    platform.server.books_hold("after the main job").await;
    platform.clear().await;
    platform.server.books_hold("after release").await;
    let host = platform.server.get("/v1/hosts/machine").await.good();
    assert_eq!((host["nodes"].as_i64(), host["used"]["memory_bytes"].as_i64()), (Some(0), Some(0)));
}

/// Integers of the report may be larger than JSON readers hold exactly, and come as text.
pub(crate) fn number(value: &Value) -> i128 {
    match value {
        Value::String(text) => text.parse().unwrap(),
        Value::Number(number) => number.as_i64().unwrap().into(),
        other => panic!("{other} is not a number"),
    }
}
