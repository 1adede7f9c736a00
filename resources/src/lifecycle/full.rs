//! The refusal of a full host: what was asked, what is free, and the smallest change that would fit. Who holds the rest
//! is added where that is known, as far as the asker may know it.

use serde_json::json;
use yiqiu_base::{Code, Problem, Size, size::Dimension};

use super::largest_node;
use crate::model::{Holder, HostModel};

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
    /// A parked line, which claims its cpu and memory again.
    Return {
        /// What it holds.
        from: Size,
        /// What it is to hold.
        to: Size,
    },
}

/// Refuses what does not fit; `None` if it does.
pub(crate) fn host_full(host: &HostModel, line: &str, asked: Asked) -> Option<Problem> {
    let (held, to, more, free) = match asked {
        Asked::Node(size) => (Size::ZERO, size, size, largest_node(host)),
        Asked::Growth { from, to } | Asked::Return { from, to } => {
            (from, to, to.minus(from).zip(Size::ZERO, i64::max), host.free())
        }
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
                if held.get(*d) == 0 { "" } else { " more" },
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
        (false, Asked::Return { .. }) => "nothing of it fits any more".to_owned(),
    };
    let does = match asked {
        Asked::Node(_) => "does not fit",
        Asked::Growth { .. } => "cannot grow",
        Asked::Return { .. } => "cannot claim again what it released while it was off",
    };
    let detail = format!("line {line} {does} on host {}: {}; {hint}", host.name, words.join("; "));
    let lacking: Vec<_> = lacking
        .iter()
        .map(|(d, by)| json!({ "dimension": d, "asked": more.get(*d), "free": free.get(*d), "by": by }))
        .collect();
    let reduced = |(d, least): (Dimension, i64)| json!({ "dimension": d, "from": to.get(d), "to": least, "by": to.get(d) - least });
    let reductions: Vec<_> = Dimension::ALL
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

/// How many holders a refusal names.
const NAMED: usize = 5;

/// Adds to the refusal of a full host who holds it, as far as `owner` may know: its own contracts by name, those of
/// others as one sum. `None` is ops, who see the largest few by name and owner.
pub(crate) fn with_holders(mut problem: Problem, mut holders: Vec<Holder>, owner: Option<&str>) -> Problem {
    let Some(serde_json::Value::Object(data)) = &mut problem.data else { return problem };
    let lacking = data.get("lacking").and_then(|l| l.get(0)).and_then(|l| l.get("dimension")).cloned();
    let Some(first) = lacking.and_then(|d| serde_json::from_value::<Dimension>(d).ok()) else { return problem };
    holders.sort_by(|a, b| b.size.get(first).cmp(&a.size.get(first)).then_with(|| a.name.cmp(&b.name)));
    let (mut named, mut others): (Vec<Holder>, Vec<Holder>) =
        holders.into_iter().partition(|h| owner.is_none_or(|owner| h.owner == owner));
    others.extend(named.split_off(named.len().min(NAMED)));
    let rest = others.iter().fold(Size::ZERO, |sum, h| sum.plus(h.size));
    let mut words: Vec<String> =
        named.iter().map(|h| format!("{} holds {}", h.name, first.shown(h.size.get(first)))).collect();
    if !others.is_empty() {
        words.push(format!("others hold {}", first.shown(rest.get(first))));
    }
    if !words.is_empty() {
        problem.detail = format!("{}. Of what is taken, {}", problem.detail, words.join(", "));
    }
    let told = |h: &Holder| {
        let Holder { rcontract_id, name, owner, nodes, size } = h;
        json!({ "rcontract_id": rcontract_id, "rcontract": name, "owner": owner, "nodes": nodes, "size": size })
    };
    data.insert("holders".to_owned(), named.iter().map(told).collect());
    let nodes: i64 = others.iter().map(|h| h.nodes).sum();
    data.insert("others".to_owned(), json!({ "rcontracts": others.len(), "nodes": nodes, "size": rest }));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_sees_its_own_by_name_and_others_as_a_sum() {
        let size = |cpu| Size { cpu_millicores: cpu, memory_bytes: 1, ..Size::ZERO };
        let holder = |name: &str, owner: &str, cpu| Holder {
            rcontract_id: yiqiu_base::Id::new(),
            name: name.to_owned(),
            owner: owner.to_owned(),
            nodes: 1,
            size: size(cpu),
        };
        let mut holders: Vec<Holder> = (1..=7).map(|n| holder(&format!("o{n}"), "project:b", n * 100)).collect();
        holders.push(holder("mine", "project:a", 50));
        let full = || {
            let data = json!({ "lacking": [{ "dimension": "cpu_millicores" }] });
            Problem::new(Code::HostFull, "full").with_data(data)
        };
        let tenant = with_holders(full(), holders.clone(), Some("project:a"));
        assert_eq!(tenant.detail, "full. Of what is taken, mine holds 0.05 cpu, others hold 2.8 cpu");
        let data = tenant.data.unwrap();
        assert_eq!((data["holders"].as_array().unwrap().len(), &data["others"]["rcontracts"]), (1, &json!(7)));
        assert!(!data.to_string().contains("project:b") && !data.to_string().contains("o7"), "{data}");

        let ops = with_holders(full(), holders, None).data.unwrap();
        let names: Vec<&str> =
            ops["holders"].as_array().unwrap().iter().map(|h| h["rcontract"].as_str().unwrap()).collect();
        assert_eq!(names, ["o7", "o6", "o5", "o4", "o3"], "the largest few");
        assert_eq!(ops["others"]["size"]["cpu_millicores"], 350);
    }
}
