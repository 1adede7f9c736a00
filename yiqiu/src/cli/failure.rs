//! Why a command did not do what it was asked to, and the exit code that says so to scripts.

use std::{fmt::Write, process::ExitCode};

use serde_json::Value;
use yiqiu_base::size::Dimension;

use super::output::Format;

/// What a command gives back.
pub type Outcome<T = ()> = Result<T, Failure>;

/// A command that failed.
#[derive(Debug)]
pub enum Failure {
    /// The platform said no; the problem document as it came. Exit code 1.
    Refused(Value),
    /// The command line asks for something that makes no sense, or a file is not what it should be. Exit code 2.
    Usage(String),
    /// Nobody answered. Exit code 3.
    Unreachable(String),
    /// What was waited for did not come in time. Exit code 4.
    TimedOut(String),
    /// It went on, but ended badly: a component that failed, a body cut short. Exit code 1.
    Failed(String),
}

impl Failure {
    /// The number for scripts; the help lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::TimedOut(_) => 4,
        }
    }

    /// The stable code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            Failure::Refused(problem) => problem.get("code").and_then(Value::as_str),
            Failure::Usage(_) | Failure::Unreachable(_) | Failure::TimedOut(_) | Failure::Failed(_) => None,
        }
    }

    /// Tells it on standard error, for a person or as one JSON object.
    pub fn report(&self, format: Format) -> ExitCode {
        match format {
            Format::Json => eprintln!("{}", self.document()),
            Format::Table | Format::Csv | Format::Yaml => eprint!("{}", self.text()),
        }
        ExitCode::from(self.exit_code())
    }

    /// What went wrong, in a sentence.
    pub fn detail(&self) -> String {
        self.document()["detail"].as_str().unwrap_or_default().to_owned()
    }

    fn document(&self) -> Value {
        let told = |code: &str, detail: &str| serde_json::json!({"code": code, "detail": detail});
        match self {
            Failure::Refused(problem) => problem.clone(),
            Failure::Usage(detail) => told("usage", detail),
            Failure::Unreachable(detail) => told("unreachable", detail),
            Failure::TimedOut(detail) => told("timed_out", detail),
            Failure::Failed(detail) => told("failed", detail),
        }
    }

    fn text(&self) -> String {
        match self {
            Failure::Refused(problem) => refusal(problem),
            Failure::Usage(detail)
            | Failure::Unreachable(detail)
            | Failure::TimedOut(detail)
            | Failure::Failed(detail) => format!("error: {detail}\n"),
        }
    }
}

/// A problem document for a person: the sentence, then what its data adds.
fn refusal(problem: &Value) -> String {
    let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default();
    let detail = if text("detail").is_empty() { text("title") } else { text("detail") };
    let mut out = format!("error: {detail} ({})\n", text("code"));
    if let Some(verdicts) = problem.pointer("/data/verdicts").and_then(Value::as_array) {
        out.push_str(&hosts_refused(verdicts));
    }
    if let Some(left_out) = problem.pointer("/data/left_out").and_then(Value::as_u64).filter(|n| *n > 0) {
        let _ = writeln!(out, "and {left_out} more hosts"); // writing to a String cannot fail
    }
    if text("code") == "internal" && !text("request_id").is_empty() {
        let _ = writeln!(out, "request: {}", text("request_id"));
    }
    out
}

/// What each host says to a need that could not be placed: a row for each filter that said no.
fn hosts_refused(verdicts: &[Value]) -> String {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let rows = verdicts.iter().flat_map(|verdict| {
        let takes = verdict.get("takes").and_then(Value::as_u64).unwrap_or(0).to_string();
        let refusals = verdict.get("refusals").and_then(Value::as_array).into_iter().flatten();
        refusals.map(move |refusal| {
            let host = text(verdict, "host");
            let words = refusal_words(refusal);
            // The column before it names the host already.
            let words = words.strip_prefix(&format!("host {host} ")).unwrap_or(&words).to_owned();
            vec![host, takes.clone(), text(refusal, "filter"), words]
        })
    });
    super::output::grid(&["HOST", "TAKES", "FILTER", "WHY NO MORE"], rows)
}

/// The numbers of a filter in the units of what they count.
fn refusal_words(refusal: &Value) -> String {
    let dimension = refusal.get("dimension").and_then(|d| serde_json::from_value::<Dimension>(d.clone()).ok());
    let amount = |value: &Value| match (dimension, value.as_i64(), value.as_str()) {
        (Some(dimension), Some(number), _) => dimension.shown(number),
        (_, _, Some(text)) => text.to_owned(),
        _ => value.to_string(),
    };
    let fields = refusal.as_object().into_iter().flatten();
    let words: Vec<String> = fields
        .filter(|(key, _)| !matches!(key.as_str(), "filter" | "dimension"))
        .map(|(key, value)| match key.as_str() {
            "why" => amount(value),
            key => format!("{} {}", key.trim_end_matches("_mhz"), amount(value)),
        })
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_a_sentence_and_a_table() {
        let problem = serde_json::json!({
            "code": "no_placement", "detail": "no host fits",
            "data": {
                "verdicts": [{"host": "h1", "takes": 1, "refusals": [
                    {"filter": "room", "dimension": "cpu_millicores", "asked": 2000, "free": 500, "missing": 1500},
                    {"filter": "state", "why": "host h1 is unreachable"},
                ]}],
                "left_out": 3,
            },
        });
        assert_eq!(
            refusal(&problem),
            "error: no host fits (no_placement)\n\
             HOST  TAKES  FILTER  WHY NO MORE\n\
             h1    1      room    asked 2 cpu, free 0.5 cpu, missing 1.5 cpu\n\
             h1    1      state   is unreachable\n\
             and 3 more hosts\n"
        );
        assert_eq!(Failure::Refused(problem).exit_code(), 1);
    }
}
