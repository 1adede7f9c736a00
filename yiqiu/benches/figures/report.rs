//! Figures: a table for people, JSON lines for machines.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

/// One figure, beside what bounds it.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Its name.
    pub(crate) bench: &'static str,
    /// The size it ran at.
    pub(crate) n: usize,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What bounds it, or what it is to be compared with; empty if nothing.
    pub(crate) beside: &'static str,
    /// In a unit that `beside` names.
    pub(crate) beside_value: f64,
}

/// The figures of one suite.
pub(crate) struct Report {
    file: File,
}

impl Report {
    /// Begins a suite's table, and opens its file.
    pub(crate) fn open(suite: &str) -> anyhow::Result<Self> {
        let path = folder()?.join(format!("{suite}.jsonl"));
        let file = File::options().create(true).append(true).open(&path).context(path.display().to_string())?;
        println!("\n{suite} (also in {})", path.display());
        println!("{:<26} {:>6} {:>12} {:<11} beside", "bench", "n", "value", "unit");
        Ok(Self { file })
    }

    /// Adds a figure to both.
    pub(crate) fn add(&mut self, figure: Figure) -> anyhow::Result<()> {
        let figure = Figure { value: rounded(figure.value), beside_value: rounded(figure.beside_value), ..figure };
        writeln!(self.file, "{}", serde_json::to_string(&figure)?)?;
        let Figure { bench, n, value, unit, beside, beside_value } = figure;
        println!("{bench:<26} {n:>6} {value:>12} {unit:<11} {beside} {beside_value}");
        Ok(())
    }

    /// Tells people something that is not a figure.
    pub(crate) fn note(&self, text: &str) {
        println!("  {text}");
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// `target/bench`: figures stay there, and what runs keeps its data there, on the disk whose limits are measured.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_yiqiu")).ancestors().nth(2).context("the folder of the build")?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).context(folder.display().to_string())?;
    Ok(folder)
}

/// The median of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// A percentile (0 to 1), as the nearest value that was measured.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
