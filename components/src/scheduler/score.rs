//! Which of the hosts that can take a component is best: the least score.

use yiqiu_base::{Size, size::Dimension};

/// How many components of the same contract are near. The closer, the likelier they fail together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crowding {
    /// On the same machine.
    pub(super) host: u32,
    /// In the same rack.
    pub(super) rack: u32,
    /// In the same zone.
    pub(super) zone: u32,
}

/// What would be left of a host, in thousandths of what it can hold in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rest {
    /// The mean over the dimensions: less is better, since it leaves the large holes elsewhere whole.
    left: i64,
    /// How far the dimensions are apart: less is better, since cpu without memory is of no use to anyone.
    imbalance: i64,
}

impl Rest {
    /// Of a host that can hold `rentable` and then has `free`.
    pub(super) fn after(free: Size, rentable: Size) -> Self {
        let (mut sum, mut counted, mut least, mut most) = (0, 0, 1000, 0);
        for d in Dimension::ALL {
            let whole = rentable.get(d);
            if whole > 0 {
                let part =
                    i64::try_from(i128::from(free.get(d)) * 1000 / i128::from(whole)).unwrap_or(1000).clamp(0, 1000);
                sum += part;
                counted += 1;
                least = least.min(part);
                most = most.max(part);
            }
        }
        Self { left: if counted == 0 { 0 } else { sum / counted }, imbalance: (most - least).max(0) }
    }
}

/// The order among hosts that pass every filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score<'a> {
    /// How many of the contract are in the kind of area that it keeps apart across: users asked for this, so it goes
    /// first.
    pub(super) wanted: u32,
    /// Whether the host refused the contract a moment ago.
    pub(super) refused: bool,
    pub(super) crowding: Crowding,
    pub(super) rest: Rest,
    /// The contract's own order of hosts that are as good.
    pub(super) turn: u64,
    /// Last, so that the same question always has the same answer.
    pub(super) host: &'a str,
}
