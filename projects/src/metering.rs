//! The meter: follows the outbox of another tier, one transaction a batch, with the cursor in the same transaction.
//!
//! Whatever happens between two steps, the next pass begins where the last committed one ended. Nothing here depends on
//! the order in which the two tiers' events arrive: they are joined when a report is made.

use std::{collections::BTreeSet, time::Duration};

use yiqiu_base::{
    Code, Problem,
    database::{Database, Transaction, problem},
    outbox,
    reconcile::Next,
};
use yiqiu_proto::{
    call::Caller,
    common::{Event, EventsRequest, EventsResponse},
    components::components_client::ComponentsClient,
    link::Link,
    resources::resources_client::ResourcesClient,
    status::from_status,
};

use crate::{
    effect::{self, BindingChange, Effects, SegmentChange},
    model::{LineId, Segment},
    store::{binding, segment, source, usage},
};

/// Where events come from.
#[derive(Clone)]
pub(crate) enum Feed {
    Resources(ResourcesClient<Link>),
    Components(ComponentsClient<Link>),
}

impl Feed {
    pub(crate) async fn events(&self, request: tonic::Request<EventsRequest>) -> Result<EventsResponse, Problem> {
        let response = match self.clone() {
            Feed::Resources(mut client) => client.events(request).await,
            Feed::Components(mut client) => client.events(request).await,
        };
        response.map(tonic::Response::into_inner).map_err(from_status)
    }
}

/// Follows one outbox.
pub(crate) struct Meter {
    pub(crate) database: Database,
    /// The name of the cursor.
    pub(crate) source: &'static str,
    pub(crate) feed: Feed,
    pub(crate) caller: Caller,
    pub(crate) poll: Duration,
    pub(crate) batch: u32,
}

/// A pause between questions, for a tier that answers "nothing" at once instead of waiting.
const PAUSE: Duration = Duration::from_millis(20);

/// How long events gather after a batch that was not full: by so much a report may be late.
const GATHER: Duration = Duration::from_millis(200);

impl Meter {
    /// Asks for what follows, waiting for a first event, and takes it over.
    pub(crate) async fn pass(&self) -> Result<Next, Problem> {
        let after = outbox::cursor(&self.database, self.source).await?;
        let wait_ms = u32::try_from(self.poll.as_millis()).unwrap_or(30_000).min(30_000);
        let request = self.caller.request(EventsRequest { after, limit: self.batch, wait_ms });
        let EventsResponse { events, epoch, head } = self.feed.events(request).await?;
        self.same_history(after, epoch.cast_signed(), head).await?;
        let events = following(self.source, after, events)?;
        let Some(last) = events.last().map(|event| event.position) else { return Ok(Next::Requeue(PAUSE)) };
        let effects = effect::effects(&events)?;

        let change = self.database.begin().await.map_err(problem)?;
        if !source::source_move(&*change, self.source, after, last).await.map_err(problem)? {
            return Ok(Next::Requeue(PAUSE)); // another replica was first: go on from where it stands
        }
        apply(&change, &effects).await?;
        change.commit().await.map_err(problem)?;
        metrics::counter!("yiqiu_metering_events_total", "source" => self.source).increment(events.len() as u64);
        // A batch that is not full is all there was: events gather for a moment, so that a busy tier is followed in few
        // passes, each of which is a commit of its own.
        let full = events.len() >= usize::try_from(self.batch).unwrap_or(usize::MAX);
        Ok(Next::Requeue(if full { Duration::ZERO } else { GATHER }))
    }

    /// Refuses to go on in another history than the one that the cursor counts in: one with another epoch, or one that
    /// has not come as far, as a backup that was restored has not.
    async fn same_history(&self, after: i64, epoch: i64, head: i64) -> Result<(), Problem> {
        let followed = source::source_epoch(self.database.read(), self.source).await.map_err(problem)?;
        let Some(followed) = followed else {
            let change = self.database.begin().await.map_err(problem)?;
            source::source_insert(&*change, self.source, epoch).await.map_err(problem)?;
            return change.commit().await.map_err(problem);
        };
        let told = match (followed == epoch, after <= head) {
            (true, true) => return Ok(()),
            (false, _) => format!(
                "the history of {0} was replaced: the meter followed epoch {followed} up to position {after}, and now \
                 {0} serves epoch {epoch}; metering of {0} has stopped, so that nothing is counted twice or left out",
                self.source
            ),
            (true, false) => format!(
                "the history of {0} went back: the meter followed it up to position {after}, and now it ends at \
                 {head}, as after a restore from a backup; metering of {0} has stopped, so that nothing is counted \
                 twice or left out",
                self.source
            ),
        };
        tracing::error!(source = self.source, followed, epoch, after, head, "{told}");
        Err(Problem::new(Code::WrongState, told))
    }
}

/// Goes on in another history of a source, from where its database was restored to: ops said so. `epoch` is the new one.
pub async fn follow_restored(database: &Database, source: &str, epoch: i64) -> Result<(), Problem> {
    let change = database.begin().await?;
    source::source_follow(&*change, source, epoch).await?;
    change.commit().await?;
    Ok(())
}

/// The events that follow a position, without what was served before; refuses a gap, in which something was lost.
fn following(source: &str, after: i64, events: Vec<Event>) -> Result<Vec<Event>, Problem> {
    let mut next = after + 1;
    let mut kept = Vec::with_capacity(events.len());
    for event in events {
        if event.position > next {
            let told = format!(
                "the history of {source} has a gap: expected position {next}, got {}; metering of {source} has stopped",
                event.position
            );
            tracing::error!(source, "{told}");
            return Err(Problem::new(Code::WrongState, told));
        }
        if event.position == next {
            next += 1;
            kept.push(event);
        }
    }
    Ok(kept)
}

/// Writes the effects of a batch.
async fn apply(change: &Transaction, effects: &Effects) -> Result<(), Problem> {
    let Effects { segments, bindings, samples } = effects;
    let opened: Vec<&Segment> = segments
        .values()
        .filter_map(|change| match change {
            SegmentChange::Open(segment) => Some(segment),
            SegmentChange::Close(_) => None,
        })
        .collect();
    if !segment::segment_insert(&**change, &opened).await.map_err(problem)? {
        return Err(stopped("a segment is opened a second time"));
    }
    for ((line, from_ms), segment) in segments {
        if let SegmentChange::Close(to_ms) = segment
            && !segment::segment_close(&**change, *line, *from_ms, *to_ms).await.map_err(problem)?
        {
            return Err(stopped(&format!("there is no open segment of line {line} from {from_ms} to close")));
        }
    }
    for changed in bindings {
        match changed {
            BindingChange::Bound(bound) => binding::binding_put(&**change, bound).await.map_err(problem)?,
            BindingChange::Unbound { line, component, to_ms } => {
                if !binding::binding_end(&**change, *line, *component, *to_ms).await.map_err(problem)? {
                    tracing::warn!(%line, %component, "a binding ended that never began");
                }
            }
        }
    }
    if samples.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<LineId> = samples.iter().map(|sample| sample.line).collect();
    let lines: Vec<LineId> = lines.into_iter().collect();
    let known = usage::mark_list(&**change, &lines).await.map_err(problem)?;
    let mut marks = known.clone();
    let buckets = effect::buckets(samples, &mut marks);
    marks.retain(|key, seq| known.get(key) != Some(seq));
    usage::mark_put(&**change, &marks).await.map_err(problem)?;
    usage::usage_add(&**change, &buckets).await.map_err(problem)
}

fn stopped(why: &str) -> Problem {
    tracing::error!("the meter has stopped: {why}");
    Problem::new(Code::WrongState, format!("{why}: metering has stopped before it"))
}
