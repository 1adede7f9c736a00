//! What happens in a random history, as data: a script can be printed, replayed from its seed, and cut shorter.

use rand::{Rng, rngs::StdRng};
use yiqiu_resources::model::HostWish;

/// Which of those that are there then: taken modulo their number, so that any part of a script is a script.
pub(super) type Pick = u32;

/// A line that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) host: Pick,
    pub(super) name: u8,
    pub(super) cpu: i64,
    pub(super) memory: i64,
    pub(super) on: bool,
}

/// A line that is to change.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) line: Pick,
    pub(super) size: Option<(i64, i64)>,
    pub(super) name: Option<u8>,
}

/// How someone wishes for power.
#[derive(Debug, Clone, Copy)]
pub(super) enum Switch {
    On,
    Off,
    Reboot,
}

#[derive(Debug, Clone)]
pub(super) enum Ask {
    Claim { owner: Pick, name: u8, lines: Vec<Wanted>, starts: Option<i64>, ends: Option<i64>, grace: i64, key: bool },
    Amend { contract: Pick, remove: Vec<Pick>, change: Vec<Other>, add: Vec<Wanted>, name: Option<u8>, stale: bool },
    Renew { contract: Pick, ends: Option<i64> },
    Release { contract: Pick },
    Power { node: Pick, switch: Switch, command: bool, stale: bool },
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A tenant or ops ask for something.
    Ask(Ask),
    /// The same, and the server goes down in the middle of it; whoever asked asks again.
    AskOverCrash(Ask, u8),
    /// A request of before comes once more, under the same ids.
    Again(Pick),
    /// Ops wish something of a host.
    Wish(Pick, HostWish),
    /// Ops stop a node of a host that is drained.
    Stop(Pick, Pick),
    /// Time goes on, and does what is due.
    Tick(u64),
    /// The server ends and begins anew, with its clock set back or not.
    Crash { back: bool },
    /// The agent of a host is cut off; what it was about to say is lost or comes later.
    Cut(Pick, bool),
    /// It dials, also while an older session of it is open.
    Dial(Pick),
    /// It hears what it was told.
    Hear(Pick),
    /// It does the next thing for one of its nodes.
    Act(Pick, Pick),
    /// Something that it said arrives: what was said first, or not.
    Say(Pick, Pick),
    /// Something that arrived arrives once more.
    Repeat(Pick, Pick),
    /// A node dies.
    Die(Pick, Pick),
    /// A node vanishes without a trace.
    Vanish(Pick, Pick),
    /// The host is as it is now ...
    Keep(Pick),
    /// ... and comes back like that, with its journal of then.
    Return(Pick),
    /// The machine has so many hundredths of what it had.
    Shrink(Pick, i64),
    /// A reading of a node's counters, and whether it comes twice.
    Read(Pick, Pick, bool),
}

/// Writes a script of so many steps.
pub(super) fn script(random: &mut StdRng, steps: usize) -> Vec<Step> {
    (0..steps).map(|_| step(random)).collect()
}

fn step(random: &mut StdRng) -> Step {
    let (host, any) = (random.random(), random.random());
    match random.random_range(0..100) {
        0..24 => Step::Ask(ask(random)),
        24 => Step::AskOverCrash(ask(random), random.random_range(0..12)),
        25..29 => Step::Again(any),
        29..32 => {
            let wishes = [
                HostWish::InService,
                HostWish::InService,
                HostWish::InService,
                HostWish::Draining,
                HostWish::Maintenance,
            ];
            Step::Wish(host, wishes[random.random_range(0..wishes.len())])
        }
        32 => Step::Stop(host, any),
        33..40 => Step::Tick(random.random_range(0..4_000)),
        40 if random.random_bool(0.5) => Step::Tick(random.random_range(0..40_000)),
        40 => Step::Hear(host),
        41 if random.random_bool(0.5) => Step::Crash { back: random.random_bool(0.3) },
        41..43 => Step::Cut(host, random.random()),
        43..51 => Step::Dial(host),
        51..57 => Step::Hear(host),
        57..74 => Step::Act(host, any),
        74..88 => Step::Say(host, if random.random_bool(0.7) { 0 } else { any }),
        88..91 => Step::Repeat(host, any),
        91 => Step::Die(host, any),
        92 => Step::Vanish(host, any),
        93 => Step::Keep(host),
        94 => Step::Return(host),
        95 => Step::Shrink(host, random.random_range(30..=100)),
        _ => Step::Read(host, any, random.random()),
    }
}

fn ask(random: &mut StdRng) -> Ask {
    let contract = random.random();
    match random.random_range(0..20) {
        0..7 => Ask::Claim {
            owner: random.random(),
            name: random.random_range(0..40),
            lines: wanted(random, 1..3),
            starts: random.random_bool(0.2).then(|| random.random_range(-500..5_000)),
            ends: random.random_bool(0.4).then(|| random.random_range(-100..12_000)),
            grace: random.random_range(0..6_000),
            key: random.random(),
        },
        7..12 => {
            let change = (0..random.random_range(0..3))
                .map(|_| Other {
                    line: random.random(),
                    size: random.random_bool(0.8).then(|| (cpu(random), memory(random))),
                    name: random.random_bool(0.3).then(|| random.random_range(0..8)),
                })
                .collect();
            let remove = (0..random.random_range(0..2)).map(|_| random.random()).collect();
            let name = random.random_bool(0.1).then(|| random.random_range(0..9));
            Ask::Amend { contract, remove, change, add: wanted(random, 0..2), name, stale: random.random_bool(0.1) }
        }
        12..14 => Ask::Renew { contract, ends: random.random_bool(0.7).then(|| random.random_range(-100..15_000)) },
        14 => Ask::Release { contract },
        _ => Ask::Power {
            node: random.random(),
            switch: [Switch::On, Switch::Off, Switch::Reboot][random.random_range(0..3)],
            command: random.random(),
            stale: random.random_bool(0.1),
        },
    }
}

fn wanted(random: &mut StdRng, count: std::ops::Range<usize>) -> Vec<Wanted> {
    (0..random.random_range(count))
        .map(|_| Wanted {
            host: random.random(),
            name: random.random_range(0..8),
            cpu: cpu(random),
            memory: memory(random),
            on: random.random_bool(0.8),
        })
        .collect()
}

fn cpu(random: &mut StdRng) -> i64 {
    random.random_range(1..400)
}

fn memory(random: &mut StdRng) -> i64 {
    random.random_range(1..1 << 25)
}
