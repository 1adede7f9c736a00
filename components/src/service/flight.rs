//! What contracts of this process are about to ask Resources for, so that plans made at the same time do not all go to
//! the same hosts. Only hints: another process has its own, and Resources decides.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use yiqiu_base::{
    Id, Size,
    id::{CContract, Host},
};

/// Hosts with what a contract is about to claim on them.
type Claims = Vec<(Id<Host>, Size)>;

/// The placements that are in flight. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Id<CContract>, Claims>>>);

impl Flights {
    /// Keeps what is chosen for a contract until the guard goes.
    pub(super) fn enter(&self, contract: Id<CContract>) -> Flight {
        Flight { flights: self.clone(), contract }
    }

    /// Held while one plan is made, so that the next one sees it.
    pub(super) fn lock(&self) -> Open<'_> {
        Open(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The placements in flight while nobody else plans.
pub(super) struct Open<'a>(MutexGuard<'a, HashMap<Id<CContract>, Claims>>);

impl Open<'_> {
    /// What all other contracts are about to claim.
    pub(super) fn beside(&self, contract: Id<CContract>) -> HashMap<Id<Host>, Size> {
        let mut sums = HashMap::new();
        for (host, cost) in self.0.iter().filter(|(id, _)| **id != contract).flat_map(|(_, claims)| claims) {
            let sum = sums.entry(*host).or_insert(Size::ZERO);
            *sum = sum.plus(*cost);
        }
        sums
    }

    /// A contract is about to claim this, and nothing that it chose before.
    pub(super) fn set(&mut self, contract: Id<CContract>, claims: Claims) {
        self.0.insert(contract, claims);
    }
}

/// While it lives, others plan around what its contract chose.
pub(super) struct Flight {
    flights: Flights,
    contract: Id<CContract>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.lock().0.remove(&self.contract);
    }
}
