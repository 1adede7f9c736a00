//! The filters: each says no to a host with its reason and by how much, or nothing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{NodeType, size::Dimension};

use super::{Ground, Host, Place, Wish, kind};
use crate::model::Across;

/// Why a host takes no (further) component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PlacementRefusal)]
#[serde(tag = "filter", rename_all = "snake_case")]
pub enum Refusal {
    /// Nothing can be claimed on it now.
    State {
        /// What Resources says of it.
        why: String,
    },
    /// It is cut into something else.
    NodeType {
        /// What the component type needs.
        asked: NodeType,
        /// How it is cut; absent where it is not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is: Option<NodeType>,
    },
    /// It stands in another region.
    Region {
        /// What was asked for.
        asked: String,
        /// Where it stands; empty where it is not placed.
        is: String,
    },
    /// It stands in another zone.
    Zone {
        /// What was asked for.
        asked: String,
        /// Where it stands; empty where it is not placed.
        is: String,
    },
    /// Its processors are slower than asked.
    Clock {
        /// What was asked for.
        asked_mhz: i64,
        /// What they have.
        is_mhz: i64,
        /// By how much they fall short.
        missing_mhz: i64,
    },
    /// It has not enough left of something.
    Room {
        /// Of what.
        dimension: Dimension,
        /// What one component costs there, with what the platform itself needs for it.
        asked: i64,
        /// What is left, after the components that it does take; negative where the host is short.
        free: i64,
        /// By how much that falls short.
        missing: i64,
    },
    /// One more here would break the spread that the contract requires.
    Spread {
        /// What no two components may share.
        across: Across,
        /// The machine, rack or zone that has one already; empty where the host stands in none, so nobody could tell.
        area: String,
    },
}

impl Refusal {
    /// The filter's name, as in the data.
    pub fn filter(&self) -> &'static str {
        match self {
            Refusal::State { .. } => "state",
            Refusal::NodeType { .. } => "node_type",
            Refusal::Region { .. } => "region",
            Refusal::Zone { .. } => "zone",
            Refusal::Clock { .. } => "clock",
            Refusal::Room { .. } => "room",
            Refusal::Spread { .. } => "spread",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let placed = |name: &str| if name.is_empty() { "none".to_owned() } else { name.to_owned() };
        match self {
            Refusal::State { why } => f.write_str(why),
            Refusal::NodeType { asked, is: Some(is) } => write!(f, "is cut as {is}, not as {asked}"),
            Refusal::NodeType { asked, is: None } => write!(f, "is not cut as {asked} or anything else"),
            Refusal::Region { asked, is } => write!(f, "stands in region {}, not in {asked}", placed(is)),
            Refusal::Zone { asked, is } => write!(f, "stands in zone {}, not in {asked}", placed(is)),
            Refusal::Clock { asked_mhz, is_mhz, missing_mhz } => {
                write!(f, "has a clock of {is_mhz} MHz, {missing_mhz} less than the {asked_mhz} asked")
            }
            Refusal::Room { dimension, asked, free, missing } => write!(
                f,
                "has {} left for {}: {} missing",
                dimension.shown(*free),
                dimension.shown(*asked),
                dimension.shown(*missing)
            ),
            Refusal::Spread { across, area } if area.is_empty() => {
                write!(f, "stands in no known {across}, so it cannot be kept apart across {across}s")
            }
            Refusal::Spread { across, area } => write!(f, "{across} {area} has one already"),
        }
    }
}

type Filter = fn(&Wish, &Host) -> Option<Refusal>;

/// The filters whose answer does not change while a plan is made.
const FIXED: [Filter; 5] = [state, node_type, region, zone, clock];

/// Every refusal that no freed room and no other plan would lift.
pub(super) fn fixed_refusals(wish: &Wish, host: &Host) -> Vec<Refusal> {
    FIXED.iter().filter_map(|filter| filter(wish, host)).collect()
}

/// Every refusal of one more component on this host, as things stand.
pub(super) fn refusals(ground: &Ground<'_>, at: usize) -> Vec<Refusal> {
    let mut refusals = fixed_refusals(ground.wish, &ground.hosts[at]);
    refusals.extend(room(ground, at));
    refusals.extend(spread(ground, at));
    refusals
}

fn state(_wish: &Wish, host: &Host) -> Option<Refusal> {
    (!host.refuses.is_empty()).then(|| Refusal::State { why: host.refuses.clone() })
}

fn node_type(wish: &Wish, host: &Host) -> Option<Refusal> {
    let (asked, is) = (wish.node_type, host.node_type);
    (is != Some(asked)).then_some(Refusal::NodeType { asked, is })
}

fn region(wish: &Wish, host: &Host) -> Option<Refusal> {
    elsewhere(wish.region.as_deref(), &host.region).map(|(asked, is)| Refusal::Region { asked, is })
}

fn zone(wish: &Wish, host: &Host) -> Option<Refusal> {
    elsewhere(wish.zone.as_deref(), &host.zone).map(|(asked, is)| Refusal::Zone { asked, is })
}

fn elsewhere(asked: Option<&str>, place: &Place) -> Option<(String, String)> {
    asked.filter(|asked| !place.is(asked)).map(|asked| (asked.to_owned(), place.name.clone()))
}

fn clock(wish: &Wish, host: &Host) -> Option<Refusal> {
    let (asked_mhz, is_mhz) = (wish.min_clock_mhz?, host.clock_mhz);
    (is_mhz < asked_mhz).then_some(Refusal::Clock { asked_mhz, is_mhz, missing_mhz: asked_mhz.saturating_sub(is_mhz) })
}

fn room(ground: &Ground<'_>, at: usize) -> Vec<Refusal> {
    let (cost, free) = (ground.cost(at), ground.free[at]);
    cost.beyond(free)
        .into_iter()
        .map(|(dimension, missing)| Refusal::Room {
            dimension,
            asked: cost.get(dimension),
            free: free.get(dimension),
            missing,
        })
        .collect()
}

fn spread(ground: &Ground<'_>, at: usize) -> Option<Refusal> {
    if ground.apart(at) {
        return None;
    }
    let (across, host) = (ground.wish.spread.across, &ground.hosts[at]);
    let known = ground.areas[at][kind(across)].is_some();
    let area = match across {
        Across::Host => &host.name,
        Across::Rack => &host.rack.name,
        Across::Zone => &host.zone.name,
    };
    Some(Refusal::Spread { across, area: if known { area.clone() } else { String::new() } })
}
