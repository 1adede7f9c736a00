//! Where the components of a contract go. Pure: a snapshot of hosts and a wish in, placements or an explanation out.
//!
//! A list of [`filter`]s says which hosts can take one more component, each with its reason; a [`score`] that is `Ord`
//! says which of them is best. Components of one contract are alike, so taking the best host again and again finds
//! room whenever there is any. Among hosts that are as good, each contract has an order of its own, so that contracts
//! which are planned at the same time do not all go to the same host. What is planned here is a hint: Resources decides
//! when the lines are claimed.

mod explain;
mod filter;
mod score;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
};

use yiqiu_base::{Id, NodeType, Size, id};

pub use self::{
    explain::{Change, Explanation, Verdict},
    filter::Refusal,
};
use self::{
    filter::fixed_refusals,
    score::{Crowding, Rest, Score},
};
use crate::model::{Across, Spread};

/// A region, zone or rack that a host stands in; both empty where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

impl Place {
    fn is(&self, name_or_id: &str) -> bool {
        self.name == name_or_id || self.id == name_or_id
    }
}

/// A host as Resources shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub id: Id<id::Host>,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub region: Place,
    /// Where it stands.
    pub zone: Place,
    /// Where it stands.
    pub rack: Place,
    /// How it is cut, if it is.
    pub node_type: Option<NodeType>,
    /// What is known of it, such as `online`.
    pub state: String,
    /// Why nothing can be claimed on it now; empty when something can.
    pub refuses: String,
    /// The clock of its processors.
    pub clock_mhz: i64,
    /// What it could hold in all.
    pub rentable: Size,
    /// What it could hold now; negative where it is short.
    pub free: Size,
    /// What each node costs beside its own size.
    pub overhead_per_node: Size,
}

/// What is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// How many, all alike.
    pub count: u32,
    /// What each needs.
    pub size: Size,
    /// The least that one can be given: no smaller one is offered.
    pub least: Size,
    /// How its host has to be cut.
    pub node_type: NodeType,
    /// The least clock of its host.
    pub min_clock_mhz: Option<i64>,
    /// Only in this region, by name or id.
    pub region: Option<String>,
    /// Only in this zone, by name or id.
    pub zone: Option<String>,
    /// How they keep apart.
    pub spread: Spread,
    /// What hosts hold of this contract already.
    pub held: HashMap<Id<id::Host>, u32>,
}

/// What a plan may know beside the snapshot. It changes which hosts are chosen, never whether there is room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// Orders hosts that are as good: the same for the same contract, different from contract to contract.
    pub seed: u128,
    /// What others are about to claim, where the snapshot may not show it yet.
    pub claimed: HashMap<Id<id::Host>, Size>,
    /// Hosts that refused this contract a moment ago, whatever the snapshot says of them.
    pub refused: HashSet<Id<id::Host>>,
}

/// Chooses a host for each component, or `None` where there is no room. Goes around what others are about to claim as
/// long as that leaves room: they may have claimed it already, or may not get it.
pub fn choose<'a>(wish: &Wish, hosts: &'a [Host], hints: &Hints) -> Option<Vec<&'a Host>> {
    let around = |hints: &Hints| {
        let chosen = Ground::new(wish, hosts, hints).fill();
        (chosen.len() == wish.count as usize).then(|| chosen.into_iter().map(|at| &hosts[at]).collect())
    };
    match around(hints) {
        None if !hints.claimed.is_empty() => around(&Hints { claimed: HashMap::new(), ..hints.clone() }),
        chosen => chosen,
    }
}

/// Explains why there is no room for a wish that [`choose`] found none for. `listed` is how many hosts it names.
pub fn explain(wish: &Wish, hosts: &[Host], listed: NonZeroUsize) -> Box<Explanation> {
    let hints = Hints::default();
    let mut ground = Ground::new(wish, hosts, &hints);
    let chosen = ground.fill();
    Box::new(explain::explain(&ground, &chosen, listed))
}

/// The hosts with what they hold as the plan goes on.
struct Ground<'a> {
    wish: &'a Wish,
    hosts: &'a [Host],
    hints: &'a Hints,
    free: Vec<Size>,
    /// For each host the number of its machine, rack and zone; `None` where nobody knows.
    areas: Vec<[Option<usize>; 3]>,
    /// How many components of this contract each machine, rack and zone holds.
    crowd: [Vec<u32>; 3],
}

/// A host that takes one more component.
struct Candidate {
    at: usize,
    refused: bool,
    rest: Rest,
    turn: u64,
}

/// Where an area of this kind is in the arrays of [`Ground`].
fn kind(across: Across) -> usize {
    match across {
        Across::Host => 0,
        Across::Rack => 1,
        Across::Zone => 2,
    }
}

impl<'a> Ground<'a> {
    fn new(wish: &'a Wish, hosts: &'a [Host], hints: &'a Hints) -> Self {
        let mut numbers: [HashMap<&str, usize>; 2] = [HashMap::new(), HashMap::new()];
        let mut number = |which: usize, id: &'a str| {
            let next = numbers[which].len();
            (!id.is_empty()).then(|| *numbers[which].entry(id).or_insert(next))
        };
        let areas: Vec<[Option<usize>; 3]> = hosts
            .iter()
            .enumerate()
            .map(|(at, host)| [Some(at), number(0, &host.rack.id), number(1, &host.zone.id)])
            .collect();
        let crowd = [vec![0; hosts.len()], vec![0; numbers[0].len()], vec![0; numbers[1].len()]];
        let claimed = |host: &Host| hints.claimed.get(&host.id).copied().unwrap_or(Size::ZERO);
        let free = hosts.iter().map(|host| host.free.minus(claimed(host))).collect();
        let mut ground = Self { wish, hosts, hints, free, areas, crowd };
        if !wish.held.is_empty() {
            for (at, host) in hosts.iter().enumerate() {
                if let Some(held) = wish.held.get(&host.id) {
                    ground.add(at, *held);
                }
            }
        }
        ground
    }

    fn add(&mut self, at: usize, components: u32) {
        for (crowd, area) in self.crowd.iter_mut().zip(self.areas[at]) {
            if let Some(area) = area {
                crowd[area] += components;
            }
        }
    }

    /// What one component costs this host.
    fn cost(&self, at: usize) -> Size {
        self.wish.size.plus(self.hosts[at].overhead_per_node)
    }

    /// How many of this contract stand in the area of this host that they keep apart across, and how near others are.
    fn crowding(&self, at: usize) -> (u32, Crowding) {
        let in_area = |which: usize| self.areas[at][which].map_or(0, |area| self.crowd[which][area]);
        let crowding = Crowding { host: in_area(0), rack: in_area(1), zone: in_area(2) };
        (in_area(kind(self.wish.spread.across)), crowding)
    }

    /// Whether a required spread allows one more here.
    fn apart(&self, at: usize) -> bool {
        let which = kind(self.wish.spread.across);
        !self.wish.spread.required || self.areas[at][which].is_some_and(|area| self.crowd[which][area] == 0)
    }

    fn takes(&self, at: usize) -> bool {
        self.apart(at) && self.cost(at).within(self.free[at])
    }

    fn rest(&self, at: usize) -> Rest {
        Rest::after(self.free[at].minus(self.cost(at)), self.hosts[at].rentable)
    }

    /// Where this host is in the contract's own order.
    fn turn(&self, at: usize) -> u64 {
        let mut hasher = DefaultHasher::new(); // with fixed keys
        (self.hints.seed, &self.hosts[at].name).hash(&mut hasher);
        hasher.finish()
    }

    /// Takes the best host again and again, and returns what was taken: as many as were wished, or all that there is
    /// room for.
    fn fill(&mut self) -> Vec<usize> {
        let mut candidates: Vec<Candidate> = (0..self.hosts.len())
            .filter(|at| fixed_refusals(self.wish, &self.hosts[*at]).is_empty() && self.takes(*at))
            .map(|at| Candidate {
                at,
                refused: self.hints.refused.contains(&self.hosts[at].id),
                rest: self.rest(at),
                turn: self.turn(at),
            })
            .collect();
        let mut chosen = Vec::with_capacity(self.wish.count as usize);
        while chosen.len() < self.wish.count as usize {
            let best = candidates
                .iter()
                .enumerate()
                .filter(|(_, candidate)| self.apart(candidate.at))
                .min_by_key(|(_, Candidate { at, refused, rest, turn })| {
                    let (wanted, crowding) = self.crowding(*at);
                    let host = &self.hosts[*at].name;
                    Score { wanted, refused: *refused, crowding, rest: *rest, turn: *turn, host }
                })
                .map(|(place, candidate)| (place, candidate.at));
            let Some((place, at)) = best else { break };
            self.free[at] = self.free[at].minus(self.cost(at));
            self.add(at, 1);
            chosen.push(at);
            if self.takes(at) {
                candidates[place].rest = self.rest(at);
            } else {
                candidates.swap_remove(place);
            }
        }
        chosen
    }
}
