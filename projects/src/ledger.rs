//! The ledger of Projects beside those of the tiers that it meters: each open segment of Resources is open here, alike,
//! each binding of Components stands here, and what a tier leased is bound to a component. What differs is told, never
//! repaired. Only what the meter has read is judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use yiqiu_base::{
    Clock, Code, Id, Power, Problem, Size,
    clock::Ms,
    database::{Database, problem},
    id,
    ledger::{Comparison, Difference, Ledger, Look},
    outbox,
    reconcile::Next,
};
use yiqiu_proto::{
    call::Caller,
    common::EventsRequest,
    components::{self, ListBindingsRequest, components_client::ComponentsClient},
    link::Link,
    resources::{self, ListLinesRequest, resources_client::ResourcesClient},
    status::from_status,
};

use crate::{
    instant,
    metering::Feed,
    model::{Binding, LineId, Segment, project_of},
    store::{binding, segment},
};

/// Lines in one question.
const PAGE: u32 = 1000;
/// When to look again after a tier did not answer.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the meter is looked at while it catches up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What Resources meters of a line now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Metered {
    line: LineId,
    rcontract: Id<id::RContract>,
    owner: String,
    name: String,
    power: Power,
    size: Size,
    from_ms: Ms,
}

/// What Components binds a line to now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    line: LineId,
    rcontract: Id<id::RContract>,
    component: Id<id::Component>,
    ccontract: Id<id::CContract>,
    component_name: String,
    owner: String,
}

/// Compares the ledgers now and then, and when it is asked to.
pub(crate) struct Comparer {
    pub(crate) database: Database,
    pub(crate) resources: ResourcesClient<Link>,
    pub(crate) components: ComponentsClient<Link>,
    pub(crate) caller: Caller,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) period: Duration,
    /// How long the meter may take to read what the other tiers told before they were asked.
    pub(crate) patience: Duration,
}

impl Comparer {
    /// Compares now.
    pub(crate) async fn compare(&self) -> Comparison {
        self.ledger.compare(|| self.clock.now(), || self.look()).await
    }

    pub(crate) async fn pass(&self) -> Result<Next, Problem> {
        let known = self.compare().await.unknown.is_empty();
        // That a tier does not answer is shown by the meters, which need it: here it only means to look again.
        Ok(Next::Requeue(if known { self.period } else { self.period.min(AGAIN) }))
    }

    async fn look(&self) -> Result<Look, Problem> {
        let mut look = Look::default();
        let mut after = None;
        loop {
            let metered = self.metered(after).await?;
            let last = metered.last().map(|line| line.line);
            self.caught_up("resources", Feed::Resources(self.resources.clone())).await?;
            let read = self.database.read();
            let open = segment::segment_open_within(read, after, last).await.map_err(problem)?;
            let bound = binding::binding_open_within(read, after, last).await.map_err(problem)?;
            look.compared += i64::try_from(metered.len()).unwrap_or(i64::MAX);
            look.differences.extend(segments(&metered, &open, &bound));
            if last.is_none() {
                break;
            }
            after = last;
        }
        let mut after = None;
        loop {
            let bound = self.bound(after).await?;
            let last = bound.last().map(|bound| bound.line);
            self.caught_up("components", Feed::Components(self.components.clone())).await?;
            let ours = binding::binding_open_within(self.database.read(), after, last).await.map_err(problem)?;
            look.differences.extend(bindings(&bound, &ours));
            if last.is_none() {
                return Ok(look);
            }
            after = last;
        }
    }

    async fn metered(&self, after: Option<LineId>) -> Result<Vec<Metered>, Problem> {
        let after_id = after.map(|id| id.to_string()).unwrap_or_default();
        let request = self.caller.request(ListLinesRequest { owner: String::new(), after_id, limit: PAGE });
        let answer = self.resources.clone().list_lines(request).await.map_err(from_status)?.into_inner();
        answer.lines.into_iter().map(metered).collect()
    }

    async fn bound(&self, after: Option<LineId>) -> Result<Vec<Bound>, Problem> {
        let after_line_id = after.map(|id| id.to_string()).unwrap_or_default();
        let request = self.caller.request(ListBindingsRequest { after_line_id, limit: PAGE });
        let answer = self.components.clone().list_bindings(request).await.map_err(from_status)?.into_inner();
        answer.bindings.into_iter().map(bound).collect()
    }

    /// Waits until the meter has read whatever the tier had told by now.
    async fn caught_up(&self, source: &'static str, feed: Feed) -> Result<(), Problem> {
        let cursor = || outbox::cursor(&self.database, source);
        let request = self.caller.request(EventsRequest { after: cursor().await?, limit: 1, wait_ms: 0 });
        let head = feed.events(request).await?.head;
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let behind = head - cursor().await?;
            if behind <= 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let told =
                    format!("the meter is {behind} events of {source} behind: what it has not read is not judged");
                return Err(Problem::new(Code::Unavailable, told));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn metered(line: resources::HeldLine) -> Result<Metered, Problem> {
    let resources::HeldLine { id, rcontract_id, owner, name, host_id: _, ending: _, size: _, power, from_ms, metered } =
        line;
    Ok(Metered {
        line: Id::parse(&id)?,
        rcontract: Id::parse(&rcontract_id)?,
        owner,
        name,
        // A line without an open segment is a fault of that tier's own books: it differs from whatever is metered here.
        power: if power.is_empty() { Power::Off } else { Power::parse(&power)? },
        size: metered.unwrap_or_default().into(),
        from_ms,
    })
}

fn bound(binding: components::Binding) -> Result<Bound, Problem> {
    let components::Binding { line_id, rcontract_id, component_id, component_name, ccontract_id, owner } = binding;
    Ok(Bound {
        line: Id::parse(&line_id)?,
        rcontract: Id::parse(&rcontract_id)?,
        component: Id::parse(&component_id)?,
        ccontract: Id::parse(&ccontract_id)?,
        component_name,
        owner,
    })
}

/// How a segment is told of.
fn told(power: Power, size: Size, from_ms: Ms, owner: &str) -> String {
    format!("{power}, {size}, since {}, for {owner}", instant::shown_as(from_ms))
}

/// Where the open segments differ, within one range of lines.
fn segments(theirs: &[Metered], ours: &[Segment], bound: &[Binding]) -> BTreeSet<Difference> {
    let mut open: BTreeMap<LineId, &Segment> = ours.iter().map(|segment| (segment.line, segment)).collect();
    let bound: BTreeMap<LineId, &Binding> = bound.iter().map(|binding| (binding.line, binding)).collect();
    let mut differences = BTreeSet::new();
    let mut tell = |line: LineId, rcontract, owner: &str, name: &str, detail: String| {
        let owner = bound.get(&line).map_or(owner, |binding| &binding.owner).to_owned();
        differences.insert(Difference {
            line_id: line,
            rcontract_id: Some(rcontract),
            owner,
            name: name.to_owned(),
            detail,
        });
    };
    for Metered { line, rcontract, owner, name, power, size, from_ms } in theirs {
        let there = told(*power, *size, *from_ms, owner);
        match open.remove(line) {
            None => {
                tell(
                    *line,
                    *rcontract,
                    owner,
                    name,
                    format!("Resources meters {name} ({there}), and Projects does not"),
                );
            }
            Some(segment) => {
                let here = told(segment.power, segment.size, segment.from_ms, &segment.owner);
                if here != there || segment.size != *size || segment.from_ms != *from_ms {
                    let detail = format!("Resources meters {name} as {there}, and Projects as {here}");
                    tell(*line, *rcontract, owner, name, detail);
                }
                // Whose it is, only the bindings say of what a tier leased.
                if project_of(owner).is_none() && !bound.contains_key(line) {
                    let detail = format!("{name} is metered for {owner} and bound to no component: it is on no bill");
                    tell(*line, *rcontract, owner, name, detail);
                }
            }
        }
    }
    for Segment { line, rcontract, owner, node_name, power, size, from_ms, to_ms: _ } in open.into_values() {
        let here = told(*power, *size, *from_ms, owner);
        tell(
            *line,
            *rcontract,
            owner,
            node_name,
            format!("Projects meters {node_name} ({here}), and Resources does not"),
        );
    }
    differences
}

/// Where the bindings differ, within one range of lines.
fn bindings(theirs: &[Bound], ours: &[Binding]) -> BTreeSet<Difference> {
    let mut open: BTreeMap<LineId, &Binding> = ours.iter().map(|binding| (binding.line, binding)).collect();
    let mut differences = BTreeSet::new();
    for Bound { line, rcontract, component, ccontract, component_name: name, owner } in theirs {
        let detail = match open.remove(line) {
            None => format!("Components binds a line to {name} of {owner}, and Projects bills it to nobody"),
            Some(b) if b.component == *component && b.ccontract == *ccontract && b.owner == *owner => continue,
            Some(b) => format!(
                "Components binds a line to {name} of {owner}, and Projects bills it to {} of {}",
                b.component_name, b.owner
            ),
        };
        let (name, owner) = (name.clone(), owner.clone());
        differences.insert(Difference { line_id: *line, rcontract_id: Some(*rcontract), owner, name, detail });
    }
    differences.extend(open.into_values().map(|binding| {
        let Binding { line, component_name: name, owner, .. } = binding;
        let detail = format!("Projects bills a line to {name} of {owner}, and Components binds it to nobody");
        Difference { line_id: *line, rcontract_id: None, owner: owner.clone(), name: name.clone(), detail }
    }));
    differences
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SIZE: Size = Size { cpu_millicores: 100, ..Size::ZERO };
    const TIER: &str = "tier:components";

    fn theirs(owner: &str) -> Metered {
        Metered {
            line: Uuid::from_u128(1).into(),
            rcontract: Uuid::from_u128(2).into(),
            owner: owner.into(),
            name: "web-0".into(),
            power: Power::On,
            size: SIZE,
            from_ms: 7,
        }
    }

    fn ours(of: &Metered) -> Segment {
        let Metered { line, rcontract, owner, name, power, size, from_ms } = of.clone();
        Segment { line, rcontract, owner, node_name: name, power, size, from_ms, to_ms: None }
    }

    fn binding() -> Binding {
        Binding {
            line: Uuid::from_u128(1).into(),
            component: Uuid::from_u128(3).into(),
            component_name: "web-0".into(),
            ccontract: Uuid::from_u128(4).into(),
            ccontract_name: "web".into(),
            owner: "project:p".into(),
            from_ms: 6,
        }
    }

    fn details(found: BTreeSet<Difference>) -> String {
        found.into_iter().map(|difference| difference.detail).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn open_segments_are_alike_and_belong_to_somebody() {
        let project = owner();
        let there = theirs(TIER);
        let changed = |change: fn(&mut Segment)| {
            let mut segment = ours(&there);
            change(&mut segment);
            vec![segment]
        };
        for (what, there, here, bound, expected) in [
            ("alike and bound", Some(there.clone()), vec![ours(&there)], true, ""),
            ("a project's own", Some(theirs(&project)), vec![ours(&theirs(&project))], false, ""),
            ("bound to nobody", Some(there.clone()), vec![ours(&there)], false, "on no bill"),
            ("not here", Some(there.clone()), vec![], true, "and Projects does not"),
            ("not there", None, vec![ours(&there)], true, "and Resources does not"),
            ("size", Some(there.clone()), changed(|s| s.size.cpu_millicores = 1), true, "as on, 0.001 cpu"),
            ("power", Some(there.clone()), changed(|s| s.power = Power::Off), true, "Projects as off"),
            ("since", Some(there.clone()), changed(|s| s.from_ms = 8), true, "00:00.008Z"),
            ("owner", Some(there.clone()), changed(|s| s.owner = "project:q".into()), true, "for project:q"),
        ] {
            let bound: Vec<Binding> = if bound { vec![binding()] } else { vec![] };
            let found = segments(&there.into_iter().collect::<Vec<_>>(), &here, &bound);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{what}: {found:?}");
            assert!(found.iter().all(|d| bound.is_empty() || d.owner == "project:p"), "{what}: {found:?}");
            let told = details(found);
            assert!(told.contains(expected), "{what}: {told}");
        }
    }

    fn owner() -> String {
        crate::model::owner_label(Id::new())
    }

    #[test]
    fn bindings_are_alike() {
        let Binding { line, component, component_name, ccontract, owner, .. } = binding();
        let rcontract = Uuid::from_u128(2).into();
        let there = Bound { line, rcontract, component, ccontract, component_name, owner };
        let other = Binding { owner: "project:q".into(), ..binding() };
        for (what, there, here, expected) in [
            ("alike", vec![there.clone()], vec![binding()], ""),
            ("not here", vec![there.clone()], vec![], "bills it to nobody"),
            ("not there", vec![], vec![binding()], "Components binds it to nobody"),
            ("another's", vec![there], vec![other], "bills it to web-0 of project:q"),
        ] {
            let found = bindings(&there, &here);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{what}: {found:?}");
            let told = details(found);
            assert!(told.contains(expected), "{what}: {told}");
        }
    }
}
