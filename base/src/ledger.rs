//! Comparing a tier's ledger with those of the tiers below: what differs twice in a row, in the same way, is told.
//!
//! The two sides cannot be read in one transaction, and both change while they are read. What changed in between
//! differs once, and not in the same way again; what really differs does. Nothing is repaired by it.

use std::{
    collections::BTreeSet,
    sync::{Mutex as Cell, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::{
    Id, Problem,
    clock::Ms,
    id::{Line, RContract},
};

/// Where two ledgers differ about one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[schema(as = LedgerDifference)]
pub struct Difference {
    /// The line of an RContract.
    pub line_id: Id<Line>,
    /// The RContract, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcontract_id: Option<Id<RContract>>,
    /// Whose it is.
    pub owner: String,
    /// What its holder calls it.
    pub name: String,
    /// How they differ, in a sentence.
    pub detail: String,
}

/// A difference that stayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LedgerFinding)]
pub struct Finding {
    /// `ledger`
    pub kind: &'static str,
    /// Which tier says it.
    pub tier: &'static str,
    /// Since when it is known.
    pub at_ms: Ms,
    /// What differs.
    #[serde(flatten)]
    pub difference: Difference,
}

/// What the newest comparison says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Ledger)]
pub struct Comparison {
    /// Whose ledger it is.
    pub tier: &'static str,
    /// When it ended; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<Ms>,
    /// How many lines of the tiers below were compared.
    pub compared: i64,
    /// Why not all could be compared; empty if all was.
    pub unknown: String,
    /// Whether all was compared and nothing differs.
    pub clean: bool,
    /// What differs.
    pub findings: Vec<Finding>,
}

/// What one look at both sides gives.
#[derive(Debug, Default)]
pub struct Look {
    /// How many lines were compared.
    pub compared: i64,
    /// What differs now, be it only for a moment.
    pub differences: BTreeSet<Difference>,
}

/// The comparisons of one tier, and what the newest one said.
#[derive(Debug)]
pub struct Ledger {
    tier: &'static str,
    grace: Duration,
    last: Cell<Comparison>,
    one_at_a_time: Mutex<()>,
}

impl Ledger {
    /// Of a tier; what differs is looked at again after `grace`.
    pub fn new(tier: &'static str, grace: Duration) -> Self {
        let unknown = "nothing was compared yet".to_owned();
        let none = Comparison { tier, at_ms: None, compared: 0, unknown, clean: false, findings: Vec::new() };
        Self { tier, grace, last: Cell::new(none), one_at_a_time: Mutex::new(()) }
    }

    /// What the newest comparison said.
    pub fn last(&self) -> Comparison {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares now: looks at both sides, and if they differ, once more after the grace.
    pub async fn compare<F>(&self, now: impl Fn() -> Ms, look: impl Fn() -> F) -> Comparison
    where
        F: Future<Output = Result<Look, Problem>>,
    {
        let _turn = self.one_at_a_time.lock().await;
        let looked = async {
            let first = look().await?;
            if first.differences.is_empty() {
                return Ok(first);
            }
            tokio::time::sleep(self.grace).await;
            let Look { compared, mut differences } = look().await?;
            differences.retain(|difference| first.differences.contains(difference));
            Ok::<_, Problem>(Look { compared, differences })
        };
        let looked = looked.await;
        let comparison = self.took(looked, now());
        self.show(&comparison);
        comparison
    }

    fn took(&self, looked: Result<Look, Problem>, now: Ms) -> Comparison {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            // What was found stands until it is known to be put right.
            Err(problem) => (last.unknown, last.clean) = (problem.detail, false),
            Ok(Look { compared, differences }) => {
                let since = |difference: &Difference| {
                    let before = last.findings.iter().find(|finding| finding.difference == *difference);
                    before.map_or(now, |finding| finding.at_ms)
                };
                let findings: Vec<Finding> = differences
                    .into_iter()
                    .map(|difference| {
                        let at_ms = since(&difference);
                        Finding { kind: "ledger", tier: self.tier, at_ms, difference }
                    })
                    .collect();
                let clean = findings.is_empty();
                *last =
                    Comparison { tier: self.tier, at_ms: Some(now), compared, unknown: String::new(), clean, findings };
            }
        }
        last.clone()
    }

    #[allow(clippy::cast_precision_loss)] // counts of findings
    fn show(&self, comparison: &Comparison) {
        let Comparison { tier, at_ms: _, compared, unknown, clean: _, findings } = comparison;
        if !unknown.is_empty() {
            tracing::warn!(tier, unknown, "the ledgers could not be compared");
        }
        for finding in findings {
            let Difference { line_id, owner, name, detail, .. } = &finding.difference;
            tracing::warn!(tier, %line_id, owner, name, detail, "two ledgers differ");
        }
        metrics::gauge!("yiqiu_ledger_findings", "tier" => *tier).set(findings.len() as f64);
        metrics::gauge!("yiqiu_ledger_compared_lines", "tier" => *tier).set(*compared as f64);
        metrics::gauge!("yiqiu_ledger_unknown", "tier" => *tier).set(f64::from(u8::from(!unknown.is_empty())));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn differs(line: u128, detail: &str) -> Difference {
        let line_id = uuid::Uuid::from_u128(line).into();
        Difference { line_id, rcontract_id: None, owner: String::new(), name: String::new(), detail: detail.to_owned() }
    }

    /// Compares with looks that give these differences one after the other; an empty list of words is a failure.
    async fn compare(ledger: &Ledger, at: Ms, looks: &[Option<&[(u128, &str)]>]) -> Comparison {
        let next = AtomicUsize::new(0);
        let look = || {
            let now = looks[next.fetch_add(1, Ordering::SeqCst)];
            async move {
                let told = now.ok_or_else(|| Problem::new(crate::Code::Unavailable, "silence"))?;
                Ok(Look {
                    compared: 9,
                    differences: told.iter().map(|(line, detail)| differs(*line, detail)).collect(),
                })
            }
        };
        let comparison = ledger.compare(|| at, look).await;
        assert_eq!(next.load(Ordering::SeqCst), looks.len());
        comparison
    }

    #[tokio::test]
    async fn what_differs_twice_in_the_same_way_is_told_until_it_is_put_right() {
        let ledger = Ledger::new("upper", Duration::from_millis(1));
        assert!(!ledger.last().clean && ledger.last().unknown.contains("yet"), "nothing is known at first");
        let found = |comparison: &Comparison| -> Vec<(Ms, String)> {
            comparison.findings.iter().map(|f| (f.at_ms, f.difference.detail.clone())).collect()
        };
        assert!(compare(&ledger, 1, &[Some(&[])]).await.clean);
        let passing = compare(&ledger, 2, &[Some(&[(1, "a"), (2, "b")]), Some(&[(1, "a, later"), (3, "c")])]).await;
        assert!(passing.clean, "what changes is not judged: {passing:?}");
        let stays: Option<&[(u128, &str)]> = Some(&[(1, "a")]);
        assert_eq!(found(&compare(&ledger, 3, &[stays, stays]).await), [(3, "a".to_owned())]);
        let again = compare(&ledger, 4, &[stays, stays]).await;
        assert_eq!((found(&again), again.clean), (vec![(3, "a".to_owned())], false), "since it was first known");
        let silent = compare(&ledger, 5, &[None]).await;
        assert_eq!((silent.unknown.as_str(), silent.at_ms, silent.findings.len()), ("silence", Some(4), 1));
        let right = compare(&ledger, 6, &[Some(&[])]).await;
        assert_eq!((right.clean, right.compared, right.unknown.as_str()), (true, 9, ""));
        assert_eq!(ledger.last(), right);
    }
}
