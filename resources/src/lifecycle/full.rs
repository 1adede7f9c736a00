//! The refusal of a full host: what was asked, what is free, and the smallest change that would fit. Who holds the rest
//! is added where that is known, as far as the asker may know it.

use serde_json::json;
use yiqiu_base::{Code, Problem, Size};

use super::largest_node;
use crate::model::HostModel;

/// What a host has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A node of this size.
    Node(Size),
    /// A line that holds the one and asks for the other.
    Growth {
        /// What it holds.
        from: Size,
        /// What it asks to hold.
        to: Size,
    },
}

/// Refuses what does not fit; `None` if it does.
pub(crate) fn host_full(host: &HostModel, line: &str, asked: Asked) -> Option<Problem> {
    let (held, to, more, free) = match asked {
        Asked::Node(size) => (Size::ZERO, size, size, largest_node(host)),
        Asked::Growth { from, to } => (from, to, to.minus(from).zip(Size::ZERO, i64::max), host.free()),
    };
    let lacking = more.beyond(free);
    if lacking.is_empty() {
        return None;
    }
    let words: Vec<String> = lacking
        .iter()
        .map(|(d, over)| {
            format!(
                "{}{} asked, {} free, {} too much",
                d.shown(more.get(*d)),
                if held == Size::ZERO { "" } else { " more" },
                d.shown(free.get(*d).max(0)),
                d.shown(*over)
            )
        })
        .collect();
    let fits = held.plus(free.zip(Size::ZERO, i64::max)).zip(to, i64::min);
    let any = fits.cpu_millicores > 0 && fits.memory_bytes > 0 && fits != held;
    let hint = match (any, asked) {
        (true, _) => format!("{fits} would fit"),
        (false, Asked::Node(_)) => "no node fits any more: choose another host".to_owned(),
        (false, Asked::Growth { .. }) => "nothing is left to grow into".to_owned(),
    };
    let does = match asked {
        Asked::Node(_) => "does not fit",
        Asked::Growth { .. } => "cannot grow",
    };
    let detail = format!("line {line} {does} on host {}: {}; {hint}", host.name, words.join("; "));
    let lacking: Vec<_> = lacking
        .iter()
        .map(|(d, by)| json!({ "dimension": d, "asked": more.get(*d), "free": free.get(*d), "by": by }))
        .collect();
    let reduced = |(d, least): (yiqiu_base::size::Dimension, i64)| json!({ "dimension": d, "from": to.get(d), "to": least, "by": to.get(d) - least });
    let reductions: Vec<_> = yiqiu_base::size::Dimension::ALL
        .into_iter()
        .map(|d| (d, fits.get(d)))
        .filter(|(d, least)| *least < to.get(*d))
        .map(reduced)
        .collect();
    let changes = if any { vec![json!({ "line": line, "size": fits, "reduce": reductions })] } else { Vec::new() };
    Some(Problem::new(Code::HostFull, detail).with_data(json!({
        "host": { "id": host.id, "name": host.name },
        "line": line,
        "asked": more,
        "free": free,
        "lacking": lacking,
        "changes": changes,
    })))
}
