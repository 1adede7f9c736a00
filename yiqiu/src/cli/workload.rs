//! The flags that say how large something is and what runs in it: contracts of both kinds share them.

use clap::Args;
use serde_json::{Value, json};
use yiqiu_base::size::{parse_bytes, parse_thousandths};

use super::failure::{Failure, Outcome};

/// How much of each dimension.
#[derive(Debug, Clone, Args)]
pub struct SizeArgs {
    /// Processors, such as 0.5 or 2.
    #[arg(long, value_name = "CORES", value_parser = parse_thousandths, allow_hyphen_values = true)]
    pub cpu: i64,
    /// Memory, such as 512MiB or 2GiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, allow_hyphen_values = true)]
    pub memory: i64,
    /// Disk, such as 10GiB.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0", allow_hyphen_values = true)]
    pub disk: i64,
    /// Disk operations a second.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..), allow_negative_numbers = true)]
    pub iops: i64,
}

impl SizeArgs {
    /// The size as the API takes it.
    pub fn json(&self) -> Value {
        json!({
            "cpu_millicores": self.cpu, "memory_bytes": self.memory, "disk_bytes": self.disk, "disk_iops": self.iops,
        })
    }
}

/// What runs.
#[derive(Debug, Clone, Args)]
pub struct WorkloadArgs {
    /// A port to publish on the host: NODE_PORT, or NODE_PORT:HOST_PORT. May be given again.
    #[arg(long = "port", value_name = "PORT", value_parser = parse_port)]
    pub ports: Vec<(u16, u16)>,
    /// An environment variable. May be given again.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_env)]
    pub environment: Vec<(String, String)>,
    /// What to run, after `--`; without it what the image says.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl WorkloadArgs {
    /// Adds the fields to an object of the API.
    pub fn add_to(&self, object: &mut Value) {
        object["command"] = json!(self.command);
        object["environment"] =
            self.environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        object["ports"] = self
            .ports
            .iter()
            .map(|(node, host)| match host {
                0 => json!({"node_port": node}),
                host => json!({"node_port": node, "host_port": host}),
            })
            .collect();
    }
}

fn parse_port(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| format!("`{text}` is not a port: 1 to 65535"))
    };
    match text.split_once(':') {
        None => Ok((port(text)?, 0)),
        Some((node, host)) => Ok((port(node)?, port(host)?)),
    }
}

fn parse_env(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))
}

/// Reads a JSON or YAML file; `-` is standard input. JSON is YAML, so one reader does for both.
pub fn read_file(path: &str) -> Outcome<Value> {
    let text = if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
    serde_norway::from_str(&text).map_err(|error| Failure::Usage(format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_variables() {
        assert_eq!(parse_port("8080"), Ok((8080, 0)));
        assert_eq!(parse_port("80:8080"), Ok((80, 8080)));
        for text in ["", "0", "65536", "a", "1:", ":1", "1:2:3"] {
            assert!(parse_port(text).is_err(), "{text}");
        }
        assert_eq!(parse_env("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_env("=x").is_err() && parse_env("A").is_err());
    }
}
