//! From a request to a running container, beside what Docker alone takes.
//!
//! From just before a tenant's `POST /v1/rcontracts` is sent until a long poll of the tier's events answers that the
//! node is `running`. Beside it the Docker API's own create and start of the same container (image, limits, ports,
//! command: the configuration of a node's container, as Docker tells it), pair by pair in turn, on a host that has the
//! image.

use std::time::Instant;

use anyhow::{Context, ensure};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions, StartContainerOptions,
    },
};
use serde_json::{Value, json};

use crate::{
    limits::ms,
    platform::{Platform, text},
    report::{Figure, Report, median},
    wire::{Api, Connection},
};

const PAIRS: usize = 20;
/// Before the pairs, uncounted: brings the image to the host.
const WARM: usize = 3;

pub(crate) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let socket = std::env::var("YIQIU_TEST_DOCKER")
        .context("YIQIU_TEST_DOCKER names no Docker socket: run this by `make bench`")?;
    let platform = Platform::up(&["--docker", &socket]).await?;
    let tar = platform.folder().join("rootfs.tar");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/rootfs.sh");
    let made = std::process::Command::new("sh").arg(script).arg(&tar).output()?;
    ensure!(made.status.success(), "{made:?}");
    let image = platform.image("web", &std::fs::read(&tar)?).await?;
    platform.racks(1).await?;
    let host = placed(&platform).await?;
    let tenant = platform.tenant("web").await?;

    let docker = Docker::connect_with_unix(&socket, 60, API_DEFAULT_VERSION)?.negotiate_version().await?;
    let mut ours = Ours::new(&platform, tenant, &host, &image).await?;
    let mut same = None;
    for _ in 0..WARM {
        let node = ours.start().await?.1;
        same = Some(configuration(&docker, &node).await?);
        ours.release().await?;
    }
    let same = same.context("a configuration")?;
    for _ in 0..WARM {
        bare(&docker, &same).await?;
    }

    let (mut through, mut alone) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        // Each is first in half of the pairs.
        for turn in 0..2 {
            if (pair + turn) % 2 == 0 {
                through.push(ours.start().await?.0);
                ours.release().await?;
            } else {
                alone.push(bare(&docker, &same).await?);
            }
        }
    }
    let (through, alone) = (median(&through), median(&alone));
    report.add(Figure {
        bench: "cnode_start_ratio",
        n: PAIRS,
        value: through / alone,
        unit: "times",
        beside: "Docker's create+start, p50 in ms",
        beside_value: alone,
    })?;
    report.add(Figure {
        bench: "cnode_start_p50",
        n: PAIRS,
        value: through,
        unit: "ms",
        beside: "Docker's create+start, p50 in ms",
        beside_value: alone,
    })
}

/// Places this machine once its agent has joined; its id.
async fn placed(platform: &Platform) -> anyhow::Result<String> {
    let from = Instant::now();
    let place = json!({ "rack": "rack-0", "unit": 1, "node_type": "cm" });
    loop {
        let host = platform.ops.get("/v1/hosts/machine").await?;
        if host["state"] == "online" {
            platform.ops.call("PUT", "/v1/hosts/machine/place", Some(&place)).await?;
            return text(&host, "id");
        }
        ensure!(from.elapsed().as_secs() < 30, "the agent of this machine does not come: {host}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Starts containers through the platform, one at a time.
struct Ours {
    tenant: Api,
    asking: Connection,
    listening: Connection,
    /// Up to where events were read.
    position: String,
    host: String,
    image: String,
    number: usize,
}

impl Ours {
    async fn new(platform: &Platform, tenant: Api, host: &str, image: &str) -> anyhow::Result<Self> {
        let (asking, listening) = (Connection::open(&tenant.address).await?, Connection::open(&tenant.address).await?);
        let next = |page: &Value| text(page, "next");
        let mut position = "0".to_owned();
        loop {
            let page = platform.ops.get(&format!("/v1/events/resources?after={position}&limit=1000")).await?;
            let after = next(&page)?;
            if after == position {
                break;
            }
            position = after;
        }
        Ok(Self { tenant, asking, listening, position, host: host.to_owned(), image: image.to_owned(), number: 0 })
    }

    /// One start: milliseconds until it runs, and the node's id.
    async fn start(&mut self) -> anyhow::Result<(f64, String)> {
        self.number += 1;
        let new = json!({ "name": self.name(), "lines": [{ "name": "web", "host": self.host,
            "image": self.image, "command": ["/bin/serve"], "ports": [{ "node_port": 8080 }],
            "size": { "cpu_millicores": 100, "memory_bytes": 64 << 20 } }] });
        let from = Instant::now();
        let made = self.tenant.call_over(&mut self.asking, "POST", "/v1/rcontracts", Some(&new)).await?;
        let node = text(&made["nodes"][0], "id")?;
        self.until(|e| e["kind"] == "node.changed" && e["subject"] == *node && e["payload"]["state"] == "running")
            .await?;
        let took = ms(from);
        let now = self.tenant.get(&format!("/v1/nodes/{node}")).await?;
        ensure!(now["state"] == "running", "{now}");
        Ok((took, node))
    }

    /// Releases it, and waits until nothing of it is left on the host.
    async fn release(&mut self) -> anyhow::Result<()> {
        let path = format!("/v1/rcontracts/{}", self.name());
        let contract = self.tenant.call_over(&mut self.asking, "DELETE", &path, None).await?;
        let id = text(&contract, "id")?;
        self.until(|e| e["kind"] == "rcontract.released" && e["subject"] == *id).await
    }

    fn name(&self) -> String {
        format!("web-{}", self.number)
    }

    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let from = Instant::now();
        loop {
            let path = format!("/v1/events/resources?after={}&limit=1000&wait_ms=10000", self.position);
            let page = self.tenant.call_over(&mut self.listening, "GET", &path, None).await?;
            self.position = text(&page, "next")?;
            if page["items"].as_array().context("a page of events")?.iter().any(&wanted) {
                return Ok(());
            }
            ensure!(from.elapsed().as_secs() < 60, "what is waited for does not come");
        }
    }
}

/// What Docker says that a node's container is, less what marks it as a node.
async fn configuration(docker: &Docker, node: &str) -> anyhow::Result<ContainerCreateBody> {
    let there = docker.inspect_container(&format!("yiqiu-{node}"), None::<InspectContainerOptions>).await?;
    let config = there.config.context("a container's configuration")?;
    let mut host_config = there.host_config.context("a container's host configuration")?;
    host_config.cgroup_parent = None;
    Ok(ContainerCreateBody {
        image: config.image,
        hostname: config.hostname,
        cmd: config.cmd,
        env: config.env,
        exposed_ports: config.exposed_ports,
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// One create and start through Docker alone, in milliseconds; then it is removed.
async fn bare(docker: &Docker, body: &ContainerCreateBody) -> anyhow::Result<f64> {
    let from = Instant::now();
    let made = docker.create_container(None::<CreateContainerOptions>, body.clone()).await?;
    docker.start_container(&made.id, None::<StartContainerOptions>).await?;
    let took = ms(from);
    let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
    docker.remove_container(&made.id, Some(options)).await?;
    Ok(took)
}
