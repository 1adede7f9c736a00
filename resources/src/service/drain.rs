//! Hosts out of service and back: drained, in maintenance, retired. This tier tells holders and shows what is left; it
//! never picks another place.

use yiqiu_base::{
    Id, Principal, Problem,
    http::{Page, Paging},
    id::Node,
    name,
};

use super::Service;
use crate::{
    model::{HostModel, HostWish, Wished},
    store::{DrainLeft, Holder},
};

/// The longest reason, and the most nodes that one request stops.
const WHY_MOST: usize = 200;
const STOPS_MOST: usize = 1_000;

/// What is left on a host.
#[derive(Debug, Clone)]
pub struct Drain {
    /// The host.
    pub host: HostModel,
    /// Who wished what is wished of it, and why.
    pub wished: Wished,
    /// Whose nodes are left.
    pub holders: Vec<Holder>,
    /// A page of them.
    pub left: Page<DrainLeft>,
}

impl Service {
    /// Wishes something of a host. Returns it, and what ops should know of the rest of its zone.
    pub async fn host_wish(
        &self,
        who: &Principal,
        name_or_id: &str,
        wish: HostWish,
        why: &str,
        if_generation: Option<i64>,
    ) -> Result<(HostModel, Vec<String>), Problem> {
        who.require_ops()?;
        let wished = self.wished(who, why)?;
        let id = self.store().host_get(name_or_id).await?.id;
        let (before, after) = self.store().host_wish(id, if_generation, wish, &wished).await?;
        if after.wish == HostWish::Retired {
            self.0.sessions.end(id);
        }
        let mut warnings = Vec::new();
        if after.wish != HostWish::InService
            && let Some(area) = before.area
            && self.store().host_others_online(id, area).await? == 0
        {
            let zone = self.store().place_all().await?.remove(&area.rack_id).unwrap_or_default().zone.0;
            warnings.push(format!(
                "no other host of zone {zone} takes claims: what is on {} has nowhere to go in this zone",
                after.name
            ));
        }
        Ok((after, warnings))
    }

    fn wished(&self, who: &Principal, why: &str) -> Result<Wished, Problem> {
        if why.chars().count() > WHY_MOST || why.chars().any(char::is_control) {
            return Err(Problem::invalid(format!(
                "a reason has at most {WHY_MOST} characters, and no control characters: `{}`",
                name::shown(why)
            )));
        }
        Ok(Wished { by: who.subject.clone(), why: why.to_owned(), since_ms: self.now() })
    }

    /// What is left on a host and whose, whether it is drained or not.
    pub async fn drain_get(&self, who: &Principal, name_or_id: &str, paging: &Paging) -> Result<Drain, Problem> {
        who.require_ops()?;
        let host = self.store().host_get(name_or_id).await?;
        let wished = self.store().host_wished(&[host.id]).await?.remove(&host.id).unwrap_or_default();
        let holders = self.store().drain_holders(host.id).await?;
        let left = Page::of(self.store().drain_left(host.id, paging).await?, paging, |left| left.node_id.to_string());
        Ok(Drain { host, wished, holders, left })
    }

    /// Stops nodes of a host that is draining: all that are named, or none.
    pub async fn drain_stop(
        &self,
        who: &Principal,
        name_or_id: &str,
        nodes: &[Id<Node>],
        why: &str,
    ) -> Result<(), Problem> {
        who.require_ops()?;
        if nodes.is_empty() || nodes.len() > STOPS_MOST {
            return Err(Problem::invalid(format!("name 1 to {STOPS_MOST} nodes to stop, not {}", nodes.len())));
        }
        let wished = self.wished(who, why)?;
        let host = self.store().host_get(name_or_id).await?;
        let stopped = self.store().drain_stop(host.id, nodes, &wished).await?;
        self.push(&stopped);
        Ok(())
    }
}
