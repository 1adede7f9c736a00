//! What people and programs rely on, kept as files: a change of it is seen in review.

use crate::platform::{Platform, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_of_the_api() {
    let platform = Platform::together(&["--no-agent".into()], &[]).await;
    let nobody = Server { token: String::new(), ..platform.server.clone() };
    let mut openapi = nobody.get("/openapi.json").await.good();
    openapi.as_object_mut().unwrap().remove("servers"); // where it listens is not part of it
    insta::assert_json_snapshot!("openapi", openapi);
}

#[test]
fn the_command_line() {
    let nobody =
        Server { resources: String::new(), components: String::new(), projects: String::new(), token: String::new() };
    let mut text = String::new();
    for words in [
        &["--help"][..],
        &["host", "--help"],
        &["rcontract", "--help"],
        &["rcontract", "create", "--help"],
        &["rcontract", "amend", "--help"],
        &["rcontract", "renew", "--help"],
        &["ccontract", "create", "--help"],
        &["component", "--help"],
        &["token", "create", "--help"],
        &["usage", "report", "--help"],
        &["events", "--help"],
        &["audit", "--help"],
    ] {
        let done = nobody.cli(words);
        assert!(done.status.success(), "{words:?}: {done:?}");
        text += &format!("$ yiqiu {}\n{}\n", words.join(" "), String::from_utf8(done.stdout).unwrap());
    }
    insta::assert_snapshot!("command_line", text);
}
