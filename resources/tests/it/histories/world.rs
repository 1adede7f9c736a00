//! Carries a script out: every step on the real service, on the machines and on the model; then all three are compared.

mod asking;

use std::collections::{BTreeMap, HashMap};

use yiqiu_base::{Clock, Id, NodeType, Principal, id::Node};
use yiqiu_resources::{
    Service,
    model::{Counters, HostModel, HostWish, NodeModel, Sample},
    service::{Hello, Push},
};

use self::asking::agree;
pub(super) use self::asking::foreign;

use super::{
    machine::{Machine, Session},
    model::{HostM, Model, OPS, Request},
    script::{Pick, Step},
    seen::Seen,
};
use crate::support::{Agent, Tier, facts, ops, size, tenant};

pub(super) type Tally = BTreeMap<&'static str, [usize; 2]>;

pub(super) struct World {
    tier: Option<Tier>,
    pub(super) model: Model,
    pub(super) machines: Vec<Machine>,
    /// Everything that was asked for, and whether it was carried out.
    asked: Vec<(Request, bool)>,
    pub(super) line_of: HashMap<Id<Node>, usize>,
    seen: Seen,
    /// What was granted and what was refused, by kind.
    pub(super) tally: Tally,
    /// For the parts of a line that these histories do not vary.
    template: HostModel,
}

pub(super) fn who(owner: usize) -> Principal {
    if owner == OPS { ops() } else { tenant(&format!("t{owner}")) }
}

impl World {
    pub(super) async fn start(tier: Tier) -> Self {
        tier.place("r").await;
        let (mut model, mut machines, mut template) = (Model::default(), Vec::new(), None);
        for (n, (node_type, capacity)) in [
            (NodeType::Vm, size(1_500, 100 << 20)),
            (NodeType::Vm, size(900, 1 << 30)),
            (NodeType::Vm, size(60_000, 120 << 20)),
            (NodeType::Bm, size(2_000, 1 << 30)),
        ]
        .into_iter()
        .enumerate()
        {
            let unit = i64::try_from(n).unwrap() + 1;
            let Agent { host, credential, number, pushes } =
                tier.host(&format!("h{n}"), unit, node_type, capacity).await;
            model.hosts.push(HostM {
                id: host.id,
                name: host.name.clone(),
                bm: node_type == NodeType::Bm,
                machine: capacity,
                wish: host.wish,
                connected: true,
            });
            template = Some(host);
            let mut machine = Machine::new(credential);
            machine.session = Some(Session { number, pushes });
            machines.push(machine);
        }
        let (line_of, seen) = (HashMap::new(), Seen::default());
        let template = template.expect("a host");
        Self { tier: Some(tier), model, machines, asked: Vec::new(), line_of, seen, tally: Tally::new(), template }
    }

    pub(super) fn tier(&self) -> &Tier {
        self.tier.as_ref().expect("a server is up between steps")
    }

    fn service(&self) -> Service {
        self.tier().service.clone()
    }

    fn now(&self) -> i64 {
        self.tier().clock.now()
    }

    fn host(&self, pick: Pick) -> usize {
        pick as usize % self.model.hosts.len()
    }

    /// One of those for which something holds, if there is one; else one of all.
    fn rather(&self, pick: Pick, holds: impl Fn(&HostM) -> bool) -> usize {
        let those: Vec<usize> = (0..self.model.hosts.len()).filter(|at| holds(&self.model.hosts[*at])).collect();
        if those.is_empty() { self.host(pick) } else { those[pick as usize % those.len()] }
    }

    /// Carries out one step, and compares what was answered with what should have been.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Ask(ask) => {
                if let Some(request) = self.named(ask) {
                    self.asked.push((request, false));
                    self.ask(self.asked.len() - 1).await?;
                }
            }
            Step::AskOverCrash(ask, polls) => {
                if let Some(request) = self.named(ask) {
                    self.asked.push((request, false));
                    self.ask_over_crash(self.asked.len() - 1, *polls).await?;
                    if polls % 4 > 0 {
                        self.dial_all().await?;
                    }
                }
            }
            Step::Again(_) if self.asked.is_empty() => {}
            Step::Again(pick) => {
                let at = *pick as usize % self.asked.len();
                // Without an id of its own, a wish for power is another one each time.
                if !matches!(&self.asked[at], (Request::Power { command: None, .. }, true)) {
                    self.ask(at).await?;
                }
            }
            Step::Wish(host, wish) => {
                let host = match wish {
                    HostWish::InService => self.rather(*host, |h| h.wish != HostWish::InService),
                    _ => self.host(*host),
                };
                let name = self.model.hosts[host].name.clone();
                let answer = self.service().host_wish(&ops(), &name, *wish, "", None).await;
                agree(&answer, self.model.wish(host, *wish))?;
            }
            Step::Stop(host, node) => {
                let host = self.host(*host);
                let Some(line) = self.picked_line(*node) else { return Ok(()) };
                let (name, node) = (self.model.hosts[host].name.clone(), self.model.lines[line].node_id);
                let answer = self.service().drain_stop(&ops(), &name, &[node], "").await;
                agree(&answer, self.model.stop(host, line))?;
            }
            Step::Tick(ms) => {
                self.tier().tick(*ms);
                self.model.terms(self.now());
                self.service().terms().await.map_err(|problem| problem.to_string())?;
            }
            Step::Crash { back } => {
                self.crash(*back).await;
                if !back {
                    self.dial_all().await?;
                }
            }
            Step::Cut(host, forget) => self.cut(self.host(*host), *forget).await,
            Step::Dial(host) => self.dial(self.rather(*host, |h| !h.connected)).await?,
            Step::Hear(host) => self.hear(self.host(*host)),
            Step::Act(host, node) => {
                let machine = &mut self.machines[*host as usize % 4];
                if let Some(line) = machine.picked(*node) {
                    machine.act(line)?;
                }
            }
            Step::Say(host, which) => self.say(self.host(*host), *which).await?,
            Step::Repeat(host, which) => {
                let host = self.host(*host);
                let said = &self.machines[host].said;
                if !said.is_empty() {
                    let (line, report) = said[*which as usize % said.len()].clone();
                    self.arrives(host, line, report).await?;
                }
            }
            Step::Die(host, node) => {
                let machine = &mut self.machines[*host as usize % 4];
                machine.picked(*node).into_iter().for_each(|line| machine.die(line));
            }
            Step::Vanish(host, node) => {
                let machine = &mut self.machines[*host as usize % 4];
                machine.picked(*node).into_iter().for_each(|line| machine.vanish(line));
            }
            Step::Keep(host) => {
                let machine = &mut self.machines[*host as usize % 4];
                machine.kept = Some(machine.nodes.clone());
            }
            Step::Return(host) => {
                let host = self.host(*host);
                if let Some(kept) = self.machines[host].kept.take() {
                    self.cut(host, true).await;
                    self.machines[host].nodes = kept;
                    self.machines[host].returned = true;
                    self.dial(host).await?;
                }
            }
            Step::Shrink(host, percent) => self.shrink(self.host(*host), *percent).await?,
            Step::Read(host, node, twice) => self.read(self.host(*host), *node, *twice).await?,
        }
        Ok(())
    }

    /// Reads everything, and compares it with what should be.
    pub(super) async fn compare(&mut self) -> Result<(), String> {
        let Self { tier, model, seen, line_of, .. } = self;
        seen.compare(&tier.as_ref().expect("a server is up").service, model, line_of).await
    }

    // The server and the machines.

    async fn crash(&mut self, back: bool) {
        self.down(back).await;
        self.model_down();
    }

    async fn down(&mut self, back: bool) {
        let tier = self.tier.take().expect("a server is up");
        let tier = if back { Tier { clock: Clock::manual(tier.clock.now() - 50_000), ..tier } } else { tier };
        self.tier = Some(tier.restart().await);
        self.machines.iter_mut().for_each(|machine| machine.session = None);
    }

    fn model_down(&mut self) {
        self.model.hosts.iter_mut().for_each(|host| host.connected = false);
    }

    async fn cut(&mut self, host: usize, forget: bool) {
        let Some(Session { number, pushes }) = self.machines[host].session.take() else { return };
        drop(pushes);
        let model = self.service().host_get(&ops(), &self.model.hosts[host].name).await.expect("a host");
        self.service().agent_lost(&model, number).await;
        self.model.hosts[host].connected = false;
        if forget {
            self.machines[host].saying.clear();
        }
    }

    async fn dial(&mut self, host: usize) -> Result<(), String> {
        let machine = &self.machines[host];
        let HostM { id, bm, machine: capacity, .. } = self.model.hosts[host];
        let reports: Vec<_> = machine.nodes.keys().map(|line| (*line, machine.report(*line))).collect();
        let hello = Hello {
            host_id: id,
            facts: facts(if bm { NodeType::Bm } else { NodeType::Vm }, capacity),
            epoch: 0,
            nodes: reports.iter().map(|(_, report)| report.clone()).collect(),
        };
        let connected = self.service().agent_connect(&machine.credential, hello).await.map_err(|p| p.to_string())?;
        self.model.hosts[host].connected = true;
        let now = self.now();
        for (line, report) in reports {
            self.model.observe(line, &report, now);
        }
        let older = self.machines[host].session.take();
        let mut full_set: Vec<(usize, NodeModel)> =
            connected.full_set.into_iter().map(|node| (self.line_of[&node.id], node)).collect();
        full_set.sort_by_key(|(line, _)| *line);
        for (line, node) in full_set {
            self.machines[host].told(line, node);
        }
        self.machines[host].session = Some(Session { number: connected.number, pushes: connected.pushes });
        if let Some(older) = older {
            // The end of a session that another one took the place of is noticed late, and means nothing.
            self.service().agent_lost(&connected.host, older.number).await;
        }
        Ok(())
    }

    async fn dial_all(&mut self) -> Result<(), String> {
        for host in 0..self.machines.len() {
            self.dial(host).await?;
        }
        Ok(())
    }

    fn hear(&mut self, host: usize) {
        let machine = &mut self.machines[host];
        let mut heard = Vec::new();
        if let Some(session) = &mut machine.session {
            while let Ok(push) = session.pushes.try_recv() {
                if let Push::Assign(node) = push {
                    heard.push(*node);
                }
            }
        }
        for node in heard {
            machine.told(self.line_of[&node.id], node);
        }
    }

    async fn say(&mut self, host: usize, which: Pick) -> Result<(), String> {
        let machine = &mut self.machines[host];
        if machine.saying.is_empty() || machine.session.is_none() {
            return Ok(());
        }
        let at = which as usize % machine.saying.len();
        let Some((line, report)) = machine.saying.remove(at) else { return Ok(()) };
        machine.said.push((line, report.clone()));
        self.arrives(host, line, report).await
    }

    async fn arrives(
        &mut self,
        host: usize,
        line: usize,
        report: yiqiu_resources::model::Report,
    ) -> Result<(), String> {
        let now = self.now();
        self.model.observe(line, &report, now);
        let model = self.service().host_get(&ops(), &self.model.hosts[host].name).await.expect("a host");
        self.service().agent_report(&model, report).await.map_err(|problem| problem.to_string())
    }

    async fn shrink(&mut self, host: usize, percent: i64) -> Result<(), String> {
        if self.model.hosts[host].bm || self.machines[host].session.is_none() {
            return Ok(());
        }
        let whole = [size(1_500, 100 << 20), size(900, 1 << 30), size(60_000, 120 << 20)][host];
        let machine = whole.zip(whole, |amount, _| amount / 100 * percent);
        self.model.hosts[host].machine = machine;
        let model = self.service().host_get(&ops(), &self.model.hosts[host].name).await.expect("a host");
        let facts = facts(NodeType::Vm, machine);
        self.service().agent_facts(&model, &facts).await.map_err(|problem| problem.to_string())
    }

    async fn read(&mut self, host: usize, node: Pick, twice: bool) -> Result<(), String> {
        let machine = &mut self.machines[host];
        let Some(line) = machine.picked(node) else { return Ok(()) };
        let on_host = machine.nodes.get_mut(&line).expect("picked");
        on_host.cpu += 1_000;
        let sample = Sample {
            node_id: on_host.wish.id,
            boot: on_host.boot,
            // The counter itself tells how often it was read.
            seq: on_host.cpu,
            at_ms: self.tier.as_ref().expect("a server is up").clock.now(),
            counters: Counters { cpu_ns: on_host.cpu, ..Counters::default() },
            memory_bytes: 0,
        };
        let model = self.service().host_get(&ops(), &self.model.hosts[host].name).await.expect("a host");
        for _ in 0..=usize::from(twice) {
            self.service().agent_usage(&model, &[sample]).await.map_err(|problem| problem.to_string())?;
            self.model.read(line, sample.boot, sample.seq, sample.counters.cpu_ns);
        }
        Ok(())
    }

    // The end of a history.

    /// Every agent dials, hears, acts and says until there is nothing left to do. Then hosts and books agree.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.dial_all().await?;
        for _ in 0..60 {
            let mut moved = false;
            for host in 0..self.machines.len() {
                self.hear(host);
                for line in self.machines[host].nodes.keys().copied().collect::<Vec<_>>() {
                    moved |= self.machines[host].act(line)?;
                }
                while !self.machines[host].saying.is_empty() {
                    self.say(host, 0).await?;
                }
            }
            if !moved {
                // What arrived late was said of states that are over: the last word is how it is.
                for host in 0..self.machines.len() {
                    for line in self.machines[host].nodes.keys().copied().collect::<Vec<_>>() {
                        let report = self.machines[host].report(line);
                        self.arrives(host, line, report).await?;
                    }
                }
                self.compare().await?;
                return self.hosts_agree();
            }
        }
        Err("the hosts never come to rest".to_owned())
    }

    /// Book 3: every claim has its node, as it is shown, and every node its claim.
    fn hosts_agree(&self) -> Result<(), String> {
        for (at, line) in self.model.lines.iter().enumerate() {
            let machine = &self.machines[line.host];
            match (line.live, machine.nodes.get(&at)) {
                (true, Some(node)) if node.state == line.state => {}
                (true, node) => {
                    let is = node.map(|node| node.state);
                    return Err(format!("line {} is shown as {}, and is {is:?} on its host", line.name, line.state));
                }
                (false, Some(_)) if !machine.returned => {
                    return Err(format!("line {} ended, and its node is there", line.name));
                }
                (false, _) => {}
            }
        }
        Ok(())
    }

    /// Everything is released: nothing is held, nothing is metered, nothing is there.
    pub(super) async fn wind_up(&mut self) -> Result<(), String> {
        self.settle().await?;
        for contract in 0..self.model.contracts.len() {
            self.asked.push((Request::Release { contract }, false));
            self.ask(self.asked.len() - 1).await?;
        }
        self.settle().await?;
        for (at, host) in self.model.hosts.iter().enumerate() {
            if self.model.used(at) != (yiqiu_base::Size::ZERO, 0) {
                return Err(format!("host {} is not empty though everything is released", host.name));
            }
        }
        Ok(())
    }
}
