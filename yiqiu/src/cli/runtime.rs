//! The flags that say how a node runs: its limits, its mounts, how it ends, how it is told to be well.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use yiqiu_base::size::parse_bytes;

use super::time::parse_span;

/// How a node runs.
#[derive(Debug, Clone, Args)]
pub struct RuntimeArgs {
    /// The most processes and threads; 1024 if not said.
    #[arg(long, value_name = "N")]
    pids: Option<i64>,
    /// Nothing but volumes and memory can be written.
    #[arg(long)]
    read_only: bool,
    /// A volume of the node: NAME:PATH, or NAME:PATH:ro. It is kept over restarts and goes with the node. May be given
    /// again.
    #[arg(long = "volume", value_name = "NAME:PATH", value_parser = parse_volume)]
    volumes: Vec<Value>,
    /// A folder in memory: PATH:SIZE, such as /tmp:16MiB. May be given again.
    #[arg(long = "tmpfs", value_name = "PATH:SIZE", value_parser = parse_tmpfs)]
    tmpfs: Vec<Value>,
    /// How it is asked to end: term, int, quit, hup, usr1, usr2, winch or kill; what its image says if not said.
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// How long it may take to end before it is killed, at most 10m; 10s if not said.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    stop_grace: Option<Duration>,
    /// A command that tells by its exit code whether the node works; /bin/sh of the node runs it.
    #[arg(long = "health", value_name = "COMMAND")]
    health: Option<String>,
    /// How often the health command runs.
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "30s", requires = "health")]
    health_interval: Duration,
    /// How long the health command may take.
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "30s", requires = "health")]
    health_timeout: Duration,
    /// How often in a row it fails until the node is unhealthy.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "health")]
    health_retries: i64,
    /// How long after a start its failures do not count.
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "0s", requires = "health")]
    health_start: Duration,
}

/// As the API takes a span.
pub fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl RuntimeArgs {
    /// Adds what was said to a line of the API.
    pub fn add_to(&self, line: &mut Value) {
        let mut runtime = json!({});
        if let Some(pids) = self.pids {
            runtime["pids"] = json!(pids);
        }
        if self.read_only {
            runtime["read_only_root"] = json!(true);
        }
        if !(self.volumes.is_empty() && self.tmpfs.is_empty()) {
            runtime["mounts"] = self.volumes.iter().chain(&self.tmpfs).cloned().collect();
        }
        if let Some(signal) = &self.stop_signal {
            runtime["stop_signal"] = json!(signal);
        }
        if let Some(grace) = self.stop_grace {
            runtime["stop_grace_ms"] = json!(ms(grace));
        }
        if let Some(command) = &self.health {
            runtime["health"] = json!({
                "command": ["/bin/sh", "-c", command],
                "interval_ms": ms(self.health_interval),
                "timeout_ms": ms(self.health_timeout),
                "retries": self.health_retries,
                "start_ms": ms(self.health_start),
            });
        }
        if runtime != json!({}) {
            line["runtime"] = runtime;
        }
    }
}

fn parse_volume(text: &str) -> Result<Value, String> {
    let mut parts = text.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(path), None, None) => Ok(json!({"kind": "volume", "name": name, "path": path})),
        (Some(name), Some(path), Some("ro"), None) => {
            Ok(json!({"kind": "volume", "name": name, "path": path, "read_only": true}))
        }
        _ => Err(format!("`{text}` is not NAME:PATH or NAME:PATH:ro")),
    }
}

fn parse_tmpfs(text: &str) -> Result<Value, String> {
    let (path, size) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` is not PATH:SIZE"))?;
    let size = parse_bytes(size).map_err(|problem| problem.to_string())?;
    Ok(json!({"kind": "tmpfs", "path": path, "size_bytes": size}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let volume = json!({"kind": "volume", "name": "a", "path": "/b", "read_only": true});
        assert_eq!(parse_volume("a:/b:ro"), Ok(volume));
        assert_eq!(parse_tmpfs("/t:1KiB"), Ok(json!({"kind": "tmpfs", "path": "/t", "size_bytes": 1024})));
        for text in ["", "a", "a:/b:rw", "a:/b:ro:x"] {
            assert!(parse_volume(text).is_err(), "{text}");
        }
        assert!(parse_tmpfs("/t").is_err() && parse_tmpfs("/t:much").is_err());
    }
}
