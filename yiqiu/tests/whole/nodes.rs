//! A tenant works with a node: its output, commands in it, its health, its power; another tenant cannot.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};

use crate::platform::{Mode, Platform, SOON, Server, until, yiqiu};

/// Counts aloud, to both of its outputs.
const COUNTS: &str = "echo begins; echo bad >&2; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done";

fn start(who: &Server, arguments: &[&str]) -> Child {
    Command::new(yiqiu())
        .args(arguments)
        .env("YIQIU_SERVER", &who.resources)
        .env("YIQIU_TOKEN", &who.token)
        .env_remove("YIQIU_TOKEN_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a command in the node wrote, and its exit code.
fn exec(who: &Server, script: &str) -> (String, String, i32) {
    let done = who.cli(&["node", "exec", "box", "--", "/bin/sh", "-c", script]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&done.stdout), text(&done.stderr), done.status.code().unwrap())
}

async fn socket(
    who: &Server,
    node: &str,
) -> Result<tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>, Error> {
    let url = format!("{}/v1/nodes/{node}/exec", who.resources.replace("http://", "ws://"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", who.token).parse().unwrap());
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

async fn furnished(mode: Mode) -> (Platform, Server, Server, String) {
    let platform = Platform::start(mode).await;
    platform.furnish().await;
    let (alice, bob) = (platform.tenant("alice").await, platform.tenant("bob").await);
    let made = alice.cli_json(&[
        "rcontract",
        "create",
        "box",
        "--host",
        "machine",
        "--cpu",
        "0.5",
        "--memory",
        "64MiB",
        "--image",
        "web",
        "--volume",
        "data:/data",
        "--tmpfs",
        "/scratch:1MiB",
        "--read-only",
        "--pids",
        "64",
        "--stop-grace",
        "1s",
        "--health",
        "test -e /data/well",
        "--health-interval",
        "1s",
        "--health-retries",
        "2",
        "--wait",
        "--",
        "/bin/sh",
        "-c",
        COUNTS,
    ]);
    let id = made["nodes"][0]["id"].as_str().unwrap().to_owned();
    (platform, alice, bob, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_read_entered_and_started_again_by_its_owner_only() {
    let (platform, alice, bob, id) = furnished(Mode::Apart).await;

    // Its output: all of it, the end of it, as data, and as it comes.
    until("a few lines", SOON, async || {
        let text = String::from_utf8(alice.cli(&["node", "logs", "box"]).stdout).unwrap();
        (text.contains("begins\n") && text.contains("bad\n") && text.contains("line 3\n")).then_some(())
    })
    .await;
    let tail = alice.cli(&["node", "logs", "box", "--tail", "2", "-o", "json"]).stdout;
    let tail: Vec<Value> = tail.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert_eq!((tail.len(), tail[0]["stream"].as_str()), (2, Some("stdout")), "{tail:?}");
    let at = tail[1]["at_ms"].as_i64().unwrap();
    let since = alice.get(&format!("/v1/nodes/{id}/logs?format=json&since_ms={at}")).await;
    assert_eq!(since.headers["content-type"], "application/x-ndjson");
    let first = match &since.body {
        Value::String(lines) => serde_json::from_str(lines.lines().next().unwrap()).unwrap(),
        one => one.clone(), // a single line is JSON as a whole
    };
    assert_eq!(first, tail[1], "from that moment on, and nothing before");
    let error = alice.get(&format!("/v1/nodes/{id}/logs?format=json")).await.body;
    assert!(error.as_str().unwrap().lines().any(|l| l.contains("\"stderr\"") && l.contains("bad")), "{error}");

    // As many as a node may have, and each is over when its client has gone.
    let mut followers: Vec<Child> = Vec::new();
    until("eight streams, once the ones before are over", SOON, async || {
        let mut follower = start(&alice, &["node", "logs", "box", "--follow", "--tail", "0"]);
        let first = BufReader::new(follower.stdout.as_mut().unwrap()).lines().next();
        match first {
            Some(line) => {
                assert!(line.unwrap().starts_with("line "));
                followers.push(follower);
            }
            None => assert!(!follower.wait().unwrap().success()),
        }
        (followers.len() == 8).then_some(())
    })
    .await;
    alice.get(&format!("/v1/nodes/{id}/logs")).await.refused(429, "rate_limited");
    for mut follower in followers {
        follower.kill().unwrap();
        follower.wait().unwrap();
    }
    until("the streams of clients that went have ended", SOON, async || {
        (alice.get(&format!("/v1/nodes/{id}/logs?tail=1")).await.status == 200).then_some(())
    })
    .await;

    // Commands: output apart, the exit code, input of any size, a terminal, and what is bound stays so.
    assert_eq!(exec(&alice, "echo out; echo err >&2; exit 7"), ("out\n".into(), "err\n".into(), 7));
    let (_, error, code) = exec(&alice, "echo x > /no");
    assert!(code != 0 && error.contains("Read-only"), "{error}");
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let mut cat = start(&alice, &["node", "exec", "box", "-i", "--", "cat"]);
    let (mut stdin, fed) = (cat.stdin.take().unwrap(), input.clone());
    let feeder = std::thread::spawn(move || stdin.write_all(&fed));
    let done = cat.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(done.status.success() && done.stdout == input, "{} bytes came back", done.stdout.len());
    let mut terminal = socket(&alice, &id).await.unwrap();
    let wish = json!({"command": ["/bin/sh"], "tty": true, "input": true, "columns": 33, "rows": 11});
    terminal.send(Message::text(wish.to_string())).await.unwrap();
    terminal.send(Message::binary(&b"busybox stty size; test -t 0 && exit 5\r"[..])).await.unwrap();
    let mut shown = Vec::new();
    let end = loop {
        match terminal.next().await.unwrap().unwrap() {
            Message::Binary(data) => shown.extend_from_slice(&data[1..]),
            Message::Text(word) => break serde_json::from_str::<Value>(&word).unwrap(),
            _ => {}
        }
    };
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert_eq!(end, json!({"exit_code": 5}), "{shown}");
    assert!(shown.contains("11 33"), "{shown}");

    // The command line's own terminal: raw while it lasts, and then as it was.
    let script = "before=$(stty -g); $YIQIU node exec box -ti -- /bin/sh -c 'test -t 0 && echo has a terminal'; \
                  code=$?; [ \"$before\" = \"$(stty -g)\" ] && echo restored $code";
    let done = Command::new("script")
        .args(["-qec", script, "/dev/null"])
        .env("YIQIU", yiqiu())
        .env("YIQIU_SERVER", &alice.resources)
        .env("YIQIU_TOKEN", &alice.token)
        .stdin(Stdio::null())
        .output()
        .expect("the test needs `script`: install bsdutils");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(text.contains("has a terminal") && text.contains("restored 0"), "{text}");

    // A command whose client has gone does not go on.
    let mut sleeps = start(&alice, &["node", "exec", "box", "--", "sleep", "4321"]);
    let runs = || exec(&alice, "ps").0.contains("sleep 4321");
    until("it runs", SOON, async || runs().then_some(())).await;
    sleeps.kill().unwrap();
    sleeps.wait().unwrap();
    until("it ended", SOON, async || (!runs()).then_some(())).await;

    // Another tenant finds nothing there, and nothing runs.
    for path in ["logs", "exec"] {
        bob.get(&format!("/v1/nodes/{id}/{path}")).await.refused(404, "not_found");
    }
    match socket(&bob, &id).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 404),
        other => panic!("{other:?}"),
    }
    let refused = bob.cli(&["node", "exec", &id, "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no node"), "{refused:?}");
    alice.get(&format!("/v1/nodes/{id}/exec")).await.refused(422, "invalid_argument");
    for (wish, code) in [
        (json!({"command": []}), "invalid_argument"),
        (json!({"command": ["a\0b"]}), "invalid_argument"),
        (json!({"command": ["true"], "privileged": true}), "malformed_body"),
        (json!("true"), "malformed_body"),
    ] {
        let mut bad = socket(&alice, &id).await.unwrap();
        bad.send(Message::text(wish.to_string())).await.unwrap();
        let Message::Text(word) = bad.next().await.unwrap().unwrap() else { panic!("{wish}") };
        assert_eq!(serde_json::from_str::<Value>(&word).unwrap()["problem"]["code"], code, "{wish}");
    }
    let events = alice.events("resources").await;
    let runs: Vec<&Value> = events.iter().filter(|e| e["kind"] == "node.exec").collect();
    assert!(runs.iter().any(|e| e["payload"]["command"] == "cat" && e["payload"]["by"].as_str().unwrap() != ""));
    assert!(runs.iter().all(|e| !e.to_string().contains("4321")), "arguments may be secret");
    assert!(bob.events("resources").await.iter().all(|e| e["kind"] != "node.exec"));

    // Health: seen, and told as it changes.
    let healthy = async |health: &str| {
        until(health, SOON, async || {
            let node = alice.get(&format!("/v1/nodes/{id}")).await.good();
            (node["health"] == health).then_some(())
        })
        .await;
    };
    healthy("unhealthy").await;
    exec(&alice, ": > /data/well");
    healthy("healthy").await;
    let events = alice.events("resources").await;
    let told: Vec<&str> = events.iter().filter_map(|e| e["payload"]["health"].as_str()).collect();
    assert!(told.contains(&"starting") && told.contains(&"unhealthy") && told.contains(&"healthy"), "{told:?}");

    // Started again: once; what its volume holds is kept.
    let before = alice.get(&format!("/v1/nodes/{id}")).await.good();
    let again = alice.cli_json(&["node", "reboot", "box", "--grace", "0s", "--wait"]);
    assert_eq!(again["boot"].as_i64(), before["boot"].as_i64().map(|boot| boot + 1), "{again}");
    assert_eq!((&again["state"], again["carried"] == again["generation"]), (&json!("running"), true));
    healthy("healthy").await;
    let off = alice.cli_json(&["node", "power-off", "box", "--wait"]);
    assert_eq!((&off["state"], &off["health"]), (&json!("off"), &json!("none")));
    let refused = alice.cli(&["node", "exec", "box", "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("power it on first"), "{refused:?}");
    assert!(!alice.cli(&["node", "logs", "box"]).stdout.is_empty(), "what it wrote stays readable");
    let refused = alice.cli(&["node", "reboot", "box"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("power it on"), "{refused:?}");
    platform.clear().await;
    alice.get(&format!("/v1/nodes/{id}/logs")).await.refused(404, "not_found");
    platform.server.books_hold("after all of it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_work_in_one_process_and_end_with_it() {
    let (mut platform, alice, _, _) = furnished(Mode::Together).await;
    assert_eq!(exec(&alice, "exit 3").2, 3);
    let mut follower = start(&alice, &["node", "logs", "box", "--follow"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "begins");
    platform.kill("up");
    let ended = until("the follower is told", Duration::from_secs(20), async || follower.try_wait().unwrap()).await;
    assert!(!ended.success(), "what broke off is no success");
    platform.up(&["--docker".into(), crate::platform::docker_socket().into()], &[]);
    platform.ready().await;
    until("the node is there again", SOON, async || (exec(&alice, "exit 4").2 == 4).then_some(())).await;
    platform.clear().await;
}
