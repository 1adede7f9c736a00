//! Parking: a line that opted in gives back cpu and memory once its node is seen off, and claims them again before the
//! node may run.
//!
//! ```text
//!             seen off, wished off, nothing starts it by time
//!   whole ────────────────────────────────────────────────────▶ parked
//!     ▲                                                            │
//!     └─────────── power-on, if its host has room for it ──────────┘
//! ```

use yiqiu_base::{Code, NodeState, Power, Problem, Size};

use super::full::{Asked, host_full};
use crate::model::{ContractState, Hold, HostModel, NodeModel, Report};

/// Whether a report parks a node: it is off, under its newest wish and no older one, and will not be started by time.
/// One that ops stopped for a drain stays whole, as its holder did not ask for that.
pub(crate) fn parks(node: &NodeModel, report: &Report, contract: ContractState, drain_stopped: bool) -> bool {
    let opted_in = match node.hold {
        Hold::Whole => true,
        Hold::Always | Hold::Parked => false,
    };
    let may = match contract {
        ContractState::Active => true,
        ContractState::Scheduled | ContractState::Ending | ContractState::Releasing | ContractState::Released => false,
    };
    opted_in
        && may
        && node.power == Power::Off
        && !node.removed
        && !node.resumes
        && !drain_stopped
        && report.state == NodeState::Off
        && report.generation >= node.generation
        && report.boot >= node.boot
}

/// Takes what a parked line of a size has to claim again from the room of its host.
pub(crate) fn unpark(host: &mut HostModel, line: &str, size: Size) -> Result<(), Problem> {
    let (from, to) = (Hold::Parked.claims(size), Hold::Whole.claims(size));
    if let Some(why) = host.refuses() {
        let why = format!("node {line} released its cpu and memory while it was off, and cannot claim them now: {why}");
        return Err(Problem::new(Code::WrongState, why));
    }
    match host_full(host, line, Asked::Return { from, to }) {
        Some(problem) => Err(problem),
        None => {
            host.used = host.used.plus(to.minus(from));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, node};
    use super::*;
    use yiqiu_base::{Health, NodeType};

    fn parked_by(change: impl Fn(&mut NodeModel, &mut Report, &mut ContractState, &mut bool)) -> bool {
        let mut node = NodeModel { power: Power::Off, hold: Hold::Whole, ..node(NodeState::Stopping, false) };
        let mut report = Report {
            node_id: node.id,
            state: NodeState::Off,
            generation: node.generation,
            boot: node.boot,
            detail: String::new(),
            ports: Vec::new(),
            health: Health::None,
            revision: 0,
            sized: 0,
        };
        let (mut contract, mut stopped) = (ContractState::Active, false);
        change(&mut node, &mut report, &mut contract, &mut stopped);
        parks(&node, &report, contract, stopped)
    }

    #[test]
    fn only_what_is_off_and_stays_off_is_parked() {
        assert!(parked_by(|_, _, _, _| {}));
        for hold in Hold::ALL {
            assert_eq!(parked_by(|node, _, _, _| node.hold = *hold), *hold == Hold::Whole, "{hold}");
        }
        for power in Power::ALL {
            assert_eq!(parked_by(|node, _, _, _| node.power = *power), *power == Power::Off, "{power}");
        }
        for state in NodeState::ALL {
            assert_eq!(parked_by(|_, report, _, _| report.state = *state), *state == NodeState::Off, "{state}");
        }
        for state in ContractState::ALL {
            let is = *state == ContractState::Active;
            assert_eq!(parked_by(|_, _, contract, _| *contract = *state), is, "{state}");
        }
        assert!(!parked_by(|node, _, _, _| node.removed = true), "it goes in any case");
        assert!(!parked_by(|node, _, _, _| node.resumes = true), "time starts it");
        assert!(!parked_by(|_, _, _, stopped| *stopped = true), "ops stopped it");
        assert!(!parked_by(|_, report, _, _| report.generation -= 1), "off before the newest wish");
        assert!(!parked_by(|node, _, _, _| node.boot += 1), "off before the newest boot");
    }

    #[test]
    fn what_was_released_is_claimed_again_or_refused_with_what_would_fit() {
        let size =
            |cpu, memory, disk| Size { cpu_millicores: cpu, memory_bytes: memory, disk_bytes: disk, disk_iops: 0 };
        let mut room = host(NodeType::Vm, size(1_000, 1_000, 500));
        room.used = size(500, 100, 500);
        unpark(&mut room, "n", size(400, 300, 400)).expect("what is held already takes no room");
        assert_eq!(room.used, size(900, 400, 500));
        let before = room.clone();
        let refused = unpark(&mut room, "n", size(10, 100, 400)).unwrap_err();
        assert_eq!(refused.code, Code::HostFull);
        assert!(refused.detail.contains("cannot claim again what it released while it was off"), "{refused}");
        assert_eq!(room.used, before.used, "a refusal takes nothing");
        room.used = size(600, 100, 0);
        let refused = unpark(&mut room, "n", size(400, 100, 0)).unwrap_err();
        let fits = &refused.data.as_ref().unwrap()["changes"][0]["size"];
        assert_eq!((&fits["cpu_millicores"], &fits["memory_bytes"]), (&300.into(), &100.into()), "{refused}");
        room.wish = crate::model::HostWish::Draining;
        assert_eq!(unpark(&mut room, "n", size(1, 1, 0)).unwrap_err().code, Code::WrongState);
    }
}
