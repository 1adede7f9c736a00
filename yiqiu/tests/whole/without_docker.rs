//! A machine without Docker: the platform runs, and says what is missing in the same words everywhere.

use serde_json::json;

use crate::platform::{Platform, SOON, place_r, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_docker_the_platform_runs_and_says_what_to_install() {
    let platform = Platform::together(&["--docker".into(), "/nonexistent/docker.sock".into()], &[]).await;
    let ops = &platform.server;
    place_r(ops).await;
    let host = until("the agent connects", SOON, async || {
        let host = ops.get("/v1/hosts/machine").await.good();
        (host["state"] == "online").then_some(host)
    })
    .await;
    let driver = host["drivers"].as_array().unwrap().iter().find(|d| d["node_type"] == "cm").unwrap();
    let missing = driver["missing"].as_str().unwrap();
    assert!(missing.contains("docker.io"), "it says what to install: {missing}");
    assert!(platform.logged("up").contains(missing), "the log says it too");

    let place = json!({ "rack": "r", "unit": 1, "node_type": "cm" });
    let refused = ops.put("/v1/hosts/machine/place", &place).await.refused(409, "driver_missing");
    assert!(refused["detail"].as_str().unwrap().contains(missing), "the same words: {refused}");
    let done = ops.cli(&["host", "place", "machine", "--rack", "r", "--unit", "1", "--node-type", "cm"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains(missing), "{done:?}");
}
