//! Whether something that is asked for is to be carried out, and why not.

use std::collections::BTreeMap;

use yiqiu_base::{Code, Power, Size, clock::Ms};
use yiqiu_resources::{
    model::{ContractState, LineChange},
    service::{AmendRequest, LineRequest},
};

use super::{ContractM, LineM, Model, OPS, Request, each};

impl Model {
    fn name_taken(&self, owner: usize, name: &str) -> bool {
        let is = |c: &ContractM| c.owner == owner && c.name == name && c.state != ContractState::Released;
        self.contracts.iter().any(is)
    }

    /// Whether a new line fits beside what is used; charges it if so.
    fn fits(&self, line: &LineRequest, used: &mut [(Size, i64)]) -> Result<(), Code> {
        let at = self.host_of(line);
        let host = &self.hosts[at];
        if !host.takes_claims() {
            return Err(Code::WrongState);
        }
        if host.bm && used[at].1 > 0 {
            return Err(Code::HostFull);
        }
        let then = used[at].0.plus(line.size.unwrap_or_else(|| host.whole())).plus(each());
        if !then.within(host.rentable()) {
            return Err(Code::HostFull);
        }
        used[at] = (then, used[at].1 + 1);
        Ok(())
    }

    fn all_used(&self) -> Vec<(Size, i64)> {
        (0..self.hosts.len()).map(|host| self.used(host)).collect()
    }

    /// Whether a request that was not carried out before is to be carried out now, or why not.
    pub(in super::super) fn decide(&self, request: &Request, now: Ms) -> Result<(), Code> {
        match request {
            Request::Claim { owner, request, key: _ } => {
                if matches!((request.starts_ms, request.ends_ms), (Some(s), Some(e)) if e <= s) {
                    return Err(Code::InvalidArgument);
                }
                if *owner != OPS && request.lines.iter().any(|line| self.hosts[self.host_of(line)].bm) {
                    return Err(Code::PermissionDenied);
                }
                if request.ends_ms.is_some_and(|ends| ends <= now) {
                    return Err(Code::InvalidArgument);
                }
                if self.name_taken(*owner, &request.name) {
                    return Err(Code::AlreadyExists);
                }
                let mut used = self.all_used();
                request.lines.iter().try_for_each(|line| self.fits(line, &mut used))
            }
            Request::Amend { contract, request, seen, key: _ } => self.decide_amend(*contract, request, *seen),
            Request::Renew { contract, ends, key: _ } => {
                let contract = &self.contracts[*contract];
                if matches!(contract.state, ContractState::Releasing | ContractState::Released) {
                    return Err(Code::WrongState);
                }
                let inside_out = matches!((contract.starts, ends), (Some(s), Some(e)) if e <= &s);
                let over = ends.is_some_and(|ends| ends <= now);
                if inside_out || over { Err(Code::InvalidArgument) } else { Ok(()) }
            }
            Request::Release { .. } => Ok(()),
            Request::Power { line, wish, command: _, seen } => {
                let line = &self.lines[*line];
                if !line.live {
                    return Err(Code::NotFound);
                }
                if seen.is_some_and(|seen| seen != line.generation) {
                    return Err(Code::StaleGeneration);
                }
                let started = self.contracts[line.contract].state == ContractState::Active && !line.stopped;
                let again = wish.reboot && line.power != Power::On;
                if line.removed || again || (wish.power == Power::On && !started) {
                    return Err(Code::WrongState);
                }
                Ok(())
            }
        }
    }

    fn decide_amend(&self, at: usize, request: &AmendRequest, seen: Option<i64>) -> Result<(), Code> {
        let contract = &self.contracts[at];
        if contract.owner != OPS && request.add.iter().any(|line| self.hosts[self.host_of(line)].bm) {
            return Err(Code::PermissionDenied);
        }
        if seen.is_some_and(|seen| seen != contract.generation) {
            return Err(Code::StaleGeneration);
        }
        if !matches!(contract.state, ContractState::Active | ContractState::Scheduled) {
            return Err(Code::WrongState);
        }
        let mut named = Vec::new();
        let mut find = |wanted: &str| {
            let is = |line: &usize| self.lines[*line].line_id.to_string() == wanted;
            let found = self.standing(at).find(is).ok_or(Code::NotFound)?;
            if named.contains(&found) {
                return Err(Code::InvalidArgument);
            }
            named.push(found);
            Ok(found)
        };
        let mut removed = Vec::new();
        for line in &request.remove {
            removed.push(find(line)?);
        }
        let mut names: BTreeMap<usize, String> = self.standing(at).map(|l| (l, self.lines[l].name.clone())).collect();
        let mut growing = Vec::new();
        for change in &request.change {
            let line = find(&change.line)?;
            let (name, size) = self.then(line, change);
            if size != self.lines[line].spec && self.hosts[self.lines[line].host].bm {
                return Err(Code::InvalidArgument);
            }
            names.insert(line, name);
            growing.push((line, self.lines[line].held.zip(size, i64::max)));
        }
        names.retain(|line, _| !removed.contains(line));
        let mut names: Vec<&str> = names.values().map(String::as_str).collect();
        names.extend(request.add.iter().map(|line| line.name.as_str()));
        if names.is_empty() {
            return Err(Code::InvalidArgument);
        }
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Code::AlreadyExists);
        }
        let mut used = self.all_used();
        for (line, held) in growing {
            let LineM { host, held: before, .. } = self.lines[line];
            if held == before {
                continue;
            }
            if !self.hosts[host].takes_claims() {
                return Err(Code::WrongState);
            }
            used[host].0 = used[host].0.plus(held.minus(before));
            if !used[host].0.within(self.hosts[host].rentable()) {
                return Err(Code::HostFull);
            }
        }
        request.add.iter().try_for_each(|line| self.fits(line, &mut used))?;
        match &request.name {
            Some(name) if *name != contract.name && self.name_taken(contract.owner, name) => Err(Code::AlreadyExists),
            _ => Ok(()),
        }
    }

    /// The name and the size of a line after a change.
    pub(super) fn then(&self, line: usize, change: &LineChange) -> (String, Size) {
        let line = &self.lines[line];
        let name = change.name.clone().unwrap_or_else(|| line.name.clone());
        (name, change.size.map_or(line.spec, |size| size.of(line.spec)))
    }
}
