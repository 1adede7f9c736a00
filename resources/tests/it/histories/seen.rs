//! What can be seen of the service from outside: its lists, its events, its own check of the books. Compared with the
//! model to the last field.

use std::{collections::HashMap, time::Duration};

use yiqiu_base::{
    Id, Size,
    http::Paging,
    id::Node,
    outbox::{Event, Reading},
};
use yiqiu_proto::resources::{RContractChanged, SegmentClosed, SegmentOpened, UsageRecorded};
use yiqiu_resources::Service;

use super::{
    model::{LineM, Model, Stretch},
    world::{foreign, who},
};
use crate::support::ops;

/// What was read from the events so far.
#[derive(Default)]
pub(super) struct Seen {
    position: i64,
    /// The meter of each line, from its events alone.
    meters: HashMap<String, Vec<Stretch>>,
    /// The generation of each contract.
    generations: HashMap<String, i64>,
    cpu_ns: i64,
    compared: usize,
}

/// The first two that differ are told.
fn same<T: PartialEq + std::fmt::Debug>(what: impl FnOnce() -> String, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{}: it is {is:?}, and should be {should:?}", what())) }
}

impl Seen {
    pub(super) async fn compare(
        &mut self,
        service: &Service,
        model: &Model,
        line_of: &HashMap<Id<Node>, usize>,
    ) -> Result<(), String> {
        let told = |problem: yiqiu_base::Problem| problem.to_string();
        let books = service.books(&ops()).await.map_err(told)?;
        if !books.hold {
            return Err(format!("the books do not hold: {:?}", books.faults));
        }
        let short: Vec<&String> =
            (0..model.hosts.len()).filter(|at| model.is_short(*at)).map(|at| &model.hosts[at].name).collect();
        same(|| "hosts that are short".to_owned(), books.short.iter().collect(), short)?;

        for host in service.host_all(&ops()).await.map_err(told)? {
            let at = model.hosts.iter().position(|h| h.id == host.id).ok_or("a host that nobody added")?;
            let (used, nodes) = model.used(at);
            same(|| format!("used of host {}", host.name), (host.used, host.nodes), (used, nodes))?;
            let connected = host.seen == yiqiu_resources::model::HostSeen::Connected;
            let should = (model.hosts[at].wish, model.hosts[at].connected, model.hosts[at].machine);
            same(|| format!("host {}", host.name), (host.wish, connected, host.machine), should)?;
        }

        let mut cursor = None;
        let mut live = 0;
        loop {
            let page = Paging { limit: Some(1000), cursor };
            let page = service.node_list(&ops(), None, &page).await.map_err(told)?;
            for node in page.items {
                let at = *line_of.get(&node.id).ok_or_else(|| format!("node {} that nobody asked for", node.name))?;
                let line = &model.lines[at];
                live += 1;
                same(|| format!("the claim of {} stands", node.name), true, line.live)?;
                let wished = (node.power, node.generation, node.revision, node.removed, node.resumes, node.resizing);
                let should = (line.power, line.generation, line.revision, line.removed, line.resumes, line.resizing);
                same(|| format!("what is wished of line {at} {}", node.name), wished, should)?;
                let is = (node.state, node.carried, node.boot);
                same(|| format!("what is seen of line {at} {}", node.name), is, (line.state, line.carried, line.boot))?;
                let is = (node.name.as_str(), node.spec.size, node.host_id, node.owner.as_str());
                let owner = who(model.owner(line.contract)).owner;
                let should = (line.name.as_str(), line.spec, model.hosts[line.host].id, owner.as_str());
                same(|| format!("line {at}"), is, should)?;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        same(|| "nodes".to_owned(), live, model.lines.iter().filter(|line| line.live).count())?;

        let page = Paging { limit: Some(1000), cursor: None };
        let contracts = service.contract_list(&ops(), &page, None, true).await.map_err(told)?.items;
        same(|| "rcontracts".to_owned(), contracts.len(), model.contracts.len())?;
        for is in &contracts {
            let should = model.contracts.iter().find(|c| c.id == is.id).ok_or("an rcontract that nobody asked for")?;
            same(
                || format!("rcontract {}", is.name),
                (&is.name, is.state, is.generation, is.lines, is.term.ends_ms, is.due_ms),
                (&should.name, should.state, should.generation, should.lines, should.ends, should.due),
            )?;
        }
        self.compared += 1;
        if self.compared.is_multiple_of(8) && !model.contracts.is_empty() {
            foreign(service, model, self.compared / 8 % model.contracts.len()).await?;
        }
        self.events(service, model).await
    }

    async fn events(&mut self, service: &Service, model: &Model) -> Result<(), String> {
        loop {
            let reading = service.events(&ops(), self.position, 1000, Duration::ZERO).await;
            let Reading { events, head, .. } = reading.map_err(|problem| problem.to_string())?;
            for event in &events {
                same(|| format!("the position of {}", event.kind), event.position, self.position + 1)?;
                self.position = event.position;
                self.take(event).map_err(|why| format!("event {} {}: {why}", event.position, event.kind))?;
            }
            if self.position == head {
                break;
            }
        }
        for contract in &model.contracts {
            let told = self.generations.get(&contract.id.to_string()).copied();
            same(|| format!("changes told of rcontract {}", contract.name), told, Some(contract.generation))?;
        }
        for (at, line) in model.lines.iter().enumerate() {
            let metered = self.meters.get(&line.line_id.to_string());
            same(|| format!("the meter of line {at} {}", line.name), metered, Some(&line.meter))?;
            tiles(line)?;
        }
        let read: i64 = model.lines.iter().flat_map(|line| line.read.values()).map(|(_, cpu)| cpu).sum();
        same(|| "processor time that was read".to_owned(), self.cpu_ns, read)
    }

    fn take(&mut self, event: &Event) -> Result<(), String> {
        match event.kind.as_str() {
            "segment.opened" => {
                let told: SegmentOpened = read(event);
                let meter = self.meters.entry(told.line_id).or_default();
                match meter.last() {
                    Some(Stretch { to: None, .. }) => return Err("it opens while another one is open".to_owned()),
                    Some(Stretch { to, .. }) if *to != Some(told.from_ms) => return Err("it leaves a gap".to_owned()),
                    _ => {}
                }
                meter.push(Stretch {
                    from: told.from_ms,
                    to: None,
                    power: told.power.parse().map_err(|_| "an unknown power".to_owned())?,
                    size: told.size.map(Size::from).unwrap_or_default(),
                    name: told.node_name,
                });
            }
            "segment.closed" => {
                let told: SegmentClosed = read(event);
                let last = self.meters.get_mut(&told.line_id).and_then(|meter| meter.last_mut());
                let open = last.filter(|last| last.to.is_none() && last.from == told.from_ms);
                open.ok_or("it closes what is not open")?.to = Some(told.to_ms);
            }
            "usage.recorded" => {
                self.cpu_ns += read::<UsageRecorded>(event).deltas.iter().map(|delta| delta.cpu_ns).sum::<i64>();
            }
            kind if kind.starts_with("rcontract.") => {
                let told: RContractChanged = read(event);
                let before = self.generations.insert(told.rcontract_id, told.generation).unwrap_or(0);
                same(|| "its generation".to_owned(), told.generation, before + 1)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(event: &Event) -> T {
    serde_json::from_str(&event.payload).expect("the payload of its kind")
}

/// Every millisecond of a claim is in one stretch, and only the last of a claim that stands is open.
fn tiles(line: &LineM) -> Result<(), String> {
    let joined = line.meter.windows(2).all(|pair| pair[0].to == Some(pair[1].from));
    let open = line.meter.last().is_some_and(|last| last.to.is_none());
    if joined && open == line.live {
        Ok(())
    } else {
        Err(format!("the meter of {} has a gap: {:?}", line.name, line.meter))
    }
}
