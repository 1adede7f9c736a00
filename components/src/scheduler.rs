//! Where the components of a contract go. Pure: a snapshot of hosts and a wish in, placements or an explanation out.
//!
//! A list of [`filter`]s says which hosts can take one more component, each with its reason; a [`score`] that is `Ord`
//! says which of them is best. Components of one contract are alike, so taking the best host again and again finds
//! room whenever there is any. What is planned here is a hint: Resources decides when the lines are claimed.

mod explain;
mod filter;
mod score;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, num::NonZeroUsize};

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

/// Chooses a host for each component, or explains why that cannot be. `listed` is how many hosts an explanation names.
pub fn plan<'a>(wish: &Wish, hosts: &'a [Host], listed: NonZeroUsize) -> Result<Vec<&'a Host>, Box<Explanation>> {
    let mut ground = Ground::new(wish, hosts);
    let chosen = ground.fill();
    if chosen.len() == wish.count as usize {
        return Ok(chosen.into_iter().map(|at| &hosts[at]).collect());
    }
    Err(Box::new(explain::explain(&ground, &chosen, listed)))
}

/// The hosts with what they hold as the plan goes on.
struct Ground<'a> {
    wish: &'a Wish,
    hosts: &'a [Host],
    free: Vec<Size>,
    /// For each host the number of its machine, rack and zone; `None` where nobody knows.
    areas: Vec<[Option<usize>; 3]>,
    /// How many components of this contract each machine, rack and zone holds.
    crowd: [Vec<u32>; 3],
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
    fn new(wish: &'a Wish, hosts: &'a [Host]) -> Self {
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
        let free = hosts.iter().map(|host| host.free).collect();
        let mut ground = Self { wish, hosts, free, areas, crowd };
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

    /// How many of this contract stand in the area of this host.
    fn crowding(&self, at: usize) -> Crowding {
        let in_area = |which: usize| self.areas[at][which].map_or(0, |area| self.crowd[which][area]);
        Crowding {
            wanted: in_area(kind(self.wish.spread.across)),
            host: in_area(0),
            rack: in_area(1),
            zone: in_area(2),
        }
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

    /// Takes the best host again and again, and returns what was taken: as many as were wished, or all that there is
    /// room for.
    fn fill(&mut self) -> Vec<usize> {
        let mut candidates: Vec<(usize, Rest)> = (0..self.hosts.len())
            .filter(|at| fixed_refusals(self.wish, &self.hosts[*at]).is_empty() && self.takes(*at))
            .map(|at| (at, self.rest(at)))
            .collect();
        let mut chosen = Vec::with_capacity(self.wish.count as usize);
        while chosen.len() < self.wish.count as usize {
            let best = candidates
                .iter()
                .enumerate()
                .filter(|(_, (at, _))| self.apart(*at))
                .min_by_key(|(_, (at, rest))| Score {
                    crowding: self.crowding(*at),
                    rest: *rest,
                    host: &self.hosts[*at].name,
                })
                .map(|(place, (at, _))| (place, *at));
            let Some((place, at)) = best else { break };
            self.free[at] = self.free[at].minus(self.cost(at));
            self.add(at, 1);
            chosen.push(at);
            if self.takes(at) {
                candidates[place].1 = self.rest(at);
            } else {
                candidates.swap_remove(place);
            }
        }
        chosen
    }
}
