//! Watching: the stream of a tier is its outbox, whole and in order, whatever happens to the connection or the server.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::{io::copy_bidirectional, net::TcpListener, sync::watch};
use yiqiu_base::database::Database;

use crate::platform::{Platform, SOON, Server, Sim, place_r, until, yiqiu};

/// A way to the server whose connections can be cut.
struct Wire {
    base: String,
    cuts: watch::Sender<u32>,
}

impl Wire {
    async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (cuts, _) = watch::channel(0);
        let (server, cut) = (server.trim_start_matches("http://").to_owned(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), cut.subscribe());
                tokio::spawn(async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect(server).await {
                        tokio::select! {
                            _ = copy_bidirectional(&mut near, &mut far) => {}
                            _ = cut.changed() => {}
                        }
                    }
                });
            }
        });
        Self { base, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// `yiqiu events --follow -o json`, and what it printed so far.
struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn start(ops: &Server, through: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(yiqiu())
            .args(["events", "--follow", "-o", "json"])
            .args(arguments)
            .env("YIQIU_SERVER", through)
            .env("YIQIU_TOKEN", &ops.token)
            .env_remove("YIQIU_TOKEN_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let (out, kept) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    async fn told(&self, count: usize) -> Vec<Value> {
        until("the follower told it all", SOON, async || (self.lines().len() >= count).then(|| self.lines())).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A contract of one node on `sim-0`, running and released.
async fn life(who: &Server, name: &str) {
    let size = json!({ "cpu_millicores": 10, "memory_bytes": 1 << 20 });
    let line = json!({ "name": name, "host": "sim-0", "command": ["true"], "size": size });
    let path = until("the contract is made", SOON, async || {
        let body = serde_json::to_vec(&json!({ "name": name, "lines": [line] })).unwrap();
        let headers = [("content-type", "application/json"), ("idempotency-key", name)];
        let answer = who.send(reqwest::Method::POST, "/v1/rcontracts", &headers, Some(body)).await.ok()?;
        (answer.status < 400).then(|| format!("/v1/rcontracts/{}", answer.body["id"].as_str().unwrap()))
    })
    .await;
    until("its node runs", SOON, async || {
        let contract = who.send(reqwest::Method::GET, &path, &[], None).await.ok()?;
        (contract.body["nodes"][0]["state"] == "running").then_some(())
    })
    .await;
    until("it is released", SOON, async || {
        let _ = who.send(reqwest::Method::DELETE, &path, &[], None).await; // asked again if it got lost
        let contract = who.send(reqwest::Method::GET, &path, &[], None).await.ok()?;
        (contract.body["state"] == "released").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_tells_the_whole_outbox_through_cuts_and_kills() {
    let mut platform = Platform::together(&["--no-agent".into()], &[]).await;
    let ops = platform.server.clone();
    place_r(&ops).await;
    let alice = platform.tenant("alice").await;
    let sim = Sim::start(&platform, 1).await;
    let wire = Wire::to(&ops.resources).await;
    let all = Follower::start(&ops, &wire.base, &["--tier", "resources"]);
    let nodes = Follower::start(&ops, &wire.base, &["--kind", "node.*", "--project", "alice"]);
    until("the follower begins", SOON, async || (!all.lines().is_empty()).then_some(())).await;
    for round in 0..3 {
        for cut in 0..2 {
            let name = format!("cut-{round}-{cut}");
            let (life, cuts) = (life(&alice, &name), async {
                tokio::time::sleep(Duration::from_millis(20)).await; // anywhere in the middle of it
                wire.cut();
            });
            tokio::join!(life, cuts);
        }
        platform.kill("up");
        platform.up(&["--no-agent".into()], &[]);
        platform.ready().await;
        sim.connected(&ops, 1).await;
        life(&alice, &format!("kill-{round}")).await;
    }
    let outbox = ops.events("resources").await;
    let told = all.told(outbox.len()).await;
    let plain: Vec<Value> = told
        .into_iter()
        .take(outbox.len())
        .map(|mut event| {
            assert_eq!(event.as_object_mut().unwrap().remove("tier"), Some(json!("resources")));
            event
        })
        .collect();
    assert_eq!(plain, outbox, "what was told is the outbox: no gap, no repeat, in order");

    // The filtered one: those events of the outbox, and nothing else.
    let owner = own_label(&ops, "alice").await;
    let wanted = |e: &&Value| e["owner"] == owner.as_str() && e["kind"].as_str().unwrap().starts_with("node.");
    let wanted: Vec<i64> = outbox.iter().filter(wanted).map(|e| e["position"].as_i64().unwrap()).collect();
    let told: Vec<i64> = nodes.told(wanted.len()).await.iter().map(|e| e["position"].as_i64().unwrap()).collect();
    assert_eq!(told, wanted);
}

/// A stream as a browser would read it.
struct Stream {
    answer: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(who: &Server, path: &str, last: Option<i64>) -> Self {
        let answer = ask(who, path, last.map(|last| last.to_string())).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next block: what it has as `id`, `event` and `data`. `None` at the end of the stream.
    async fn next(&mut self) -> Option<(Option<i64>, String, Value)> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
                let id = field("id").map(|id| id.parse().unwrap());
                let data = field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
                let block = (id, field("event").unwrap_or_default().to_owned(), data);
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk = tokio::time::timeout(SOON, self.answer.chunk()).await.expect("a stream is never silent");
            self.text += std::str::from_utf8(&chunk.ok()??).unwrap();
        }
    }
}

async fn ask(who: &Server, path: &str, last: Option<String>) -> reqwest::Response {
    let client = reqwest::Client::builder().build().unwrap();
    let mut request = client.get(format!("{}{path}", who.resources)).header("accept", "text/event-stream");
    if !who.token.is_empty() {
        request = request.bearer_auth(&who.token);
    }
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_resumes_tells_of_another_history_and_ends_when_the_server_stops() {
    let mut platform = Platform::together(&["--no-agent".into()], &[]).await;
    let ops = platform.server.clone();
    place_r(&ops).await;
    let (alice, bob) = (platform.tenant("alice").await, platform.tenant("bob").await);
    let sim = Sim::start(&platform, 1).await;
    life(&alice, "a").await;
    life(&bob, "b").await;
    let outbox = ops.events("resources").await;
    let epoch = ops.get("/v1/events/resources").await.good()["epoch"].as_i64().unwrap();

    // From any position: what follows it, and nothing twice.
    let middle = i64::try_from(outbox.len() / 2).unwrap();
    for (path, last, from) in [
        ("/v1/events/resources", None, 0),
        ("/v1/events/resources?after=3", None, 3),
        ("/v1/events/resources?after=3", Some(middle), middle),
    ] {
        let mut stream = Stream::open(&ops, path, last).await;
        let (id, event, data) = stream.next().await.unwrap();
        assert_eq!((id, event.as_str(), &data["epoch"], &data["after"]), (None, "epoch", &json!(epoch), &json!(from)));
        for expected in &outbox[usize::try_from(from).unwrap()..] {
            let (id, event, data) = stream.next().await.unwrap();
            assert_eq!((id, json!(event), &data), (expected["position"].as_i64(), expected["kind"].clone(), expected));
        }
    }

    // A tenant sees its own, and moves on past what it may not see.
    let label = own_label(&ops, "alice").await;
    let own: Vec<&Value> = outbox.iter().filter(|e| e["owner"] == label.as_str()).collect();
    let mut stream = Stream::open(&alice, "/v1/events/resources", None).await;
    stream.next().await.unwrap();
    for expected in &own {
        assert_eq!(stream.next().await.unwrap().2, **expected);
    }
    let (id, event, data) = stream.next().await.unwrap();
    assert_eq!((event.as_str(), data), ("", Value::Null), "a comment, not an event of bob's");
    assert!(id.unwrap() >= outbox.last().unwrap()["position"].as_i64().unwrap());

    // Refusals are refusals, not streams that end.
    let nobody = Server { token: String::new(), ..ops.clone() };
    for (who, path, last, status) in [
        (&nobody, "/v1/events/resources", None, 401),
        (&alice, "/v1/events/projects", None, 403),
        (&ops, "/v1/events/resources", Some("yesterday".to_owned()), 422),
        (&ops, "/v1/events/resources?after=x", None, 422),
    ] {
        assert_eq!(ask(who, path, last).await.status(), status, "{path}");
    }

    // One who opens and reads nothing is bounded.
    let mut open = Vec::new();
    let refused = loop {
        let answer = ask(&bob, "/v1/events/resources", None).await;
        if answer.status() != 200 {
            break answer.status();
        }
        open.push(answer);
        assert!(open.len() < 1000, "streams without end");
    };
    assert_eq!(refused, 429);
    drop(open);
    until("streams are given back", SOON, async || {
        (ask(&bob, "/v1/events/resources", None).await.status() == 200).then_some(())
    })
    .await;

    // A revoked token ends its stream.
    let mut follower = Follower::start(&ops, &ops.resources, &["--tier", "resources"]);
    follower.told(outbox.len()).await;
    let tokens = ops.get("/v1/tokens").await.good();
    let of_alice =
        tokens["items"].as_array().unwrap().iter().find(|t| t["user"] == "alice" || t["user_name"] == "alice");
    let id = of_alice.unwrap_or_else(|| panic!("{tokens}"))["id"].as_str().unwrap();
    ops.delete(&format!("/v1/tokens/{id}")).await.good();
    while stream.next().await.is_some() {}

    // Asked to stop, the server does, though streams are open.
    let mut stream = Stream::open(&ops, &format!("/v1/events/resources?after={}", outbox.len()), None).await;
    stream.next().await.unwrap();
    let asked = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(platform.pid("up") as i32), nix::sys::signal::SIGTERM).unwrap();
    while stream.next().await.is_some() {}
    platform.ended("up").await;
    assert!(asked.elapsed() < Duration::from_secs(8), "it waited for the streams: {:?}", asked.elapsed());

    // As after a restore: another history, told from its beginning.
    let file = platform.data().join("resources.sqlite");
    let database = Database::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    database.schema().execute_unprepared("UPDATE outbox_head SET epoch = epoch + 1").await.unwrap();
    drop(database);
    let before = follower.lines().len();
    platform.up(&["--no-agent".into()], &[]);
    platform.ready().await;
    sim.connected(&ops, 1).await;
    let outbox = ops.events("resources").await;
    let told = follower.told(before + 1 + outbox.len()).await;
    let at = told.iter().position(|line| line["kind"] == "epoch").expect("the change is told");
    assert_eq!(told[at]["payload"]["epoch"], epoch + 1);
    let positions: Vec<i64> = told[at + 1..].iter().map(|e| e["position"].as_i64().unwrap()).collect();
    assert_eq!(positions[..outbox.len()], (1..=i64::try_from(outbox.len()).unwrap()).collect::<Vec<_>>());
    let beyond = i64::try_from(outbox.len()).unwrap() + 1000;
    let mut stream = Stream::open(&ops, "/v1/events/resources", Some(beyond)).await;
    let (id, event, data) = stream.next().await.unwrap();
    assert_eq!((id, event.as_str(), &data["after"]), (Some(0), "epoch", &json!(0)), "it stood where nothing is");
    assert_eq!(stream.next().await.unwrap().0, Some(1));
    assert!(follower.child.try_wait().unwrap().is_none(), "the follower goes on");
}

async fn own_label(ops: &Server, project: &str) -> String {
    let project = ops.get(&format!("/v1/projects/{project}")).await.good();
    format!("project:{}", project["id"].as_str().unwrap())
}
