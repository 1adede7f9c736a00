//! A line with what is metered of it: what tiers above compare their own ledgers with.

use yiqiu_base::{
    Id, Power, Size,
    clock::Ms,
    id::{Host, Line, RContract},
};

/// A line that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// Its id.
    pub id: Id<Line>,
    /// The contract that it is of.
    pub rcontract_id: Id<RContract>,
    /// Whose.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// Where.
    pub host_id: Id<Host>,
    /// Whether its node is being taken away.
    pub ending: bool,
    /// What it holds.
    pub size: Size,
    /// Its open segment.
    pub metered: Option<Metered>,
}

/// What is metered of a line now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metered {
    /// In which power state.
    pub power: Power,
    /// Since when.
    pub from_ms: Ms,
    /// How much.
    pub size: Size,
}
