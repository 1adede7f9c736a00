//! `host update`: what ops say of a host.

use clap::Args;
use serde_json::{Value, json};
use yiqiu_base::size::{Dimension, parse_bytes, parse_thousandths};

/// Flags of `yiqiu host update`: what is not named stays as it is.
#[derive(Debug, Args)]
pub struct Update {
    /// Name or id.
    host: String,
    /// Processors that it is taken to have: never more than the machine says; `none` lifts the limit.
    #[arg(long, value_name = "CORES", value_parser = cores)]
    cpu: Option<Most>,
    /// Memory that it is taken to have, or `none`.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<Most>,
    /// Disk that it is taken to have, or `none`.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    disk: Option<Most>,
    /// Disk operations a second that it is taken to do, or `none`.
    #[arg(long, value_name = "N", value_parser = whole)]
    iops: Option<Most>,
    /// How often what it has may be promised, for each of cpu, memory, disk and iops, such as cpu=2,memory=1.25.
    #[arg(long, value_name = "WHAT=RATIO", value_parser = ratio, value_delimiter = ',')]
    overcommit: Vec<(Dimension, i64)>,
    /// Labels to set, such as env=prod,ssd=.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label, value_delimiter = ',')]
    label: Vec<(String, String)>,
    /// Labels to take away.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    unlabel: Vec<String>,
    /// The pool to put it into, by name or id.
    #[arg(long, conflicts_with = "no_pool")]
    pool: Option<String>,
    /// Takes it out of its pool.
    #[arg(long)]
    no_pool: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy)]
struct Most(Option<i64>);

fn most(text: &str, read: impl Fn(&str) -> Result<i64, String>) -> Result<Most, String> {
    if text == "none" { Ok(Most(None)) } else { read(text).map(|amount| Most(Some(amount))) }
}

fn cores(text: &str) -> Result<Most, String> {
    most(text, parse_thousandths)
}

fn bytes(text: &str) -> Result<Most, String> {
    most(text, parse_bytes)
}

fn whole(text: &str) -> Result<Most, String> {
    most(text, |text| text.parse().map_err(|_| format!("`{text}` is not a whole number")))
}

/// The short word of a dimension on the command line.
pub(super) fn dimension(word: &str) -> Result<Dimension, String> {
    match word {
        "cpu" => Ok(Dimension::CpuMillicores),
        "memory" => Ok(Dimension::MemoryBytes),
        "disk" => Ok(Dimension::DiskBytes),
        "iops" => Ok(Dimension::DiskIops),
        _ => Err(format!("`{word}` is not a dimension: expected cpu, memory, disk or iops")),
    }
}

fn ratio(text: &str) -> Result<(Dimension, i64), String> {
    let (word, ratio) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected WHAT=RATIO, such as cpu=2"))?;
    Ok((dimension(word)?, parse_thousandths(ratio)?))
}

impl Update {
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn body(&self) -> Value {
        let Self { host: _, cpu, memory, disk, iops, overcommit, label, unlabel, pool, no_pool } = self;
        let mut body = json!({});
        for (dimension, limit) in Dimension::ALL.into_iter().zip([cpu, memory, disk, iops]) {
            if let Some(Most(amount)) = limit {
                body["limit"][dimension.as_str()] = json!(amount);
            }
        }
        for (dimension, ratio) in overcommit {
            body["overcommit"][dimension.as_str()] = json!(ratio);
        }
        for key in unlabel {
            body["labels"][key] = Value::Null;
        }
        for (key, value) in label {
            body["labels"][key] = json!(value);
        }
        if pool.is_some() || *no_pool {
            body["pool"] = json!(pool);
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        update: Update,
    }

    #[test]
    fn what_is_not_named_is_not_asked_for() {
        let body = |flags: &[&str]| {
            Cli::try_parse_from(["x", "h1"].iter().chain(flags)).map(|cli| cli.update.body()).map_err(|e| e.to_string())
        };
        assert_eq!(body(&[]), Ok(json!({})));
        assert_eq!(
            body(&["--cpu", "1.5", "--memory", "none", "--overcommit", "cpu=2,disk=0.9"]),
            Ok(json!({
                "limit": {"cpu_millicores": 1500, "memory_bytes": null},
                "overcommit": {"cpu_millicores": 2000, "disk_bytes": 900},
            }))
        );
        assert_eq!(
            body(&["--label", "env=prod,ssd=", "--unlabel", "old", "--no-pool"]),
            Ok(json!({"labels": {"env": "prod", "ssd": "", "old": null}, "pool": null}))
        );
        assert_eq!(body(&["--pool", "fast"]), Ok(json!({"pool": "fast"})));
        for bad in [["--overcommit", "cpu"], ["--overcommit", "gpu=1"], ["--iops", "-1"], ["--cpu", "all"]] {
            assert!(body(&bad).is_err(), "{bad:?}");
        }
    }
}
