//! Compiles the `.proto` files in pure Rust: no installed `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common.proto", "agent.proto", "resources.proto", "components.proto", "projects.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let set = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // Event payloads are kept as JSON in the outbox of their tier.
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(default)]")
        .compile_fds(set)?;
    Ok(())
}
