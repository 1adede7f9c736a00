//! The way between an agent and the server is cut, so that both live and neither hears the other; then it is back.

use std::time::Duration;

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::bench::Bench;

/// Passes bytes on while the way is open; holds them back while it is cut.
fn proxy(to: String, open: watch::Receiver<bool>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (to, mut open) = (to.clone(), open.clone());
            tokio::spawn(async move {
                if open.wait_for(|open| *open).await.is_err() {
                    return;
                }
                let Ok(far) = TcpStream::connect(&to).await else { return };
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                tokio::select! {
                    () = pass(from_near, to_far, open.clone()) => {}
                    () = pass(from_far, to_near, open) => {}
                }
            });
        }
    });
    at
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(1..) = from.read(&mut bytes).await.inspect(|read| bytes.truncate(*read)) {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.resize(64 << 10, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_cut_off_carries_out_once_what_was_wished_meanwhile() {
    let (way, open) = watch::channel(true);
    let bench = Bench::start_with(&[], |server| proxy(server.trim_start_matches("http://").to_owned(), open)).await;
    let [stays, stops, wakes, goes] = bench.leases(["stays", "stops", "wakes", "goes"]).await;
    bench.power(&wakes, "off").await;
    bench.reads(&wakes, "off").await;

    way.send(false).unwrap();
    bench.host_reads("unreachable").await;
    assert_eq!(bench.docker.run(&["ps", "-q"]).lines().count(), 3, "what ran runs on");
    let line = serde_json::json!({ "name": "more", "lines": [Bench::line("more")] });
    let refused = bench.alice.post("/v1/rcontracts", &line).await.refused(409, "wrong_state");
    assert!(refused["detail"].as_str().unwrap().contains("machine"), "{refused}");
    bench.power(&stops, "off").await;
    bench.power(&stops, "on").await;
    bench.power(&stops, "off").await;
    bench.power(&wakes, "on").await;
    bench.alice.delete(&goes.contract).await.good();
    let read = bench.node(&stops).await;
    assert_eq!((&read["state"], &read["host_state"]), (&"running".into(), &"unreachable".into()), "{read}");
    bench.ops.books_hold("while it is cut off").await;
    let audit = bench.audit();
    let unknown = audit["findings"].as_array().unwrap().iter().all(|finding| finding["kind"] == "unknown");
    assert!(unknown && audit["clean"] == false, "the audit says whom it could not ask: {audit}");

    way.send(true).unwrap();
    bench.host_reads("online").await;
    bench.reads(&stops, "off").await;
    bench.reads(&wakes, "running").await;
    bench.released(&goes).await;
    crate::platform::until("it began", Duration::from_secs(10), async || {
        (bench.docker.starts(&wakes.id) == 2).then_some(())
    })
    .await;
    for (node, starts) in [(&stays, 1), (&stops, 1), (&wakes, 2)] {
        assert_eq!(bench.docker.starts(&node.id), starts);
        assert_eq!(bench.node(node).await["boot"], starts, "no start but what was asked for");
    }
    let mut left = vec![stays.id.clone(), stops.id.clone(), wakes.id.clone()];
    left.sort();
    assert_eq!(bench.containers(), left);
    bench.all_is_well("when it is back").await;
    let asked = bench.asked(Method::POST, "/v1/rcontracts", "more", Some(&line)).await.good();
    assert_eq!(asked["nodes"].as_array().unwrap().len(), 1);
}
