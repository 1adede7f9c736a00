//! Nodes: seen, and switched on and off.

use yiqiu_base::{
    Code, Id, Power, Principal, Problem,
    http::{Page, Paging},
    id::{Command, Node},
};

use super::{Service, scope};
use crate::{
    model::{NodeModel, PowerRequest, Wish, check_grace},
    store::NodeFilter,
};

impl Service {
    /// By id.
    pub async fn node_get(&self, who: &Principal, id: Id<Node>) -> Result<NodeModel, Problem> {
        let node = self.store().node_get(id).await?;
        if who.may_touch(&node.owner) { Ok(node) } else { Err(Problem::not_found("node", id)) }
    }

    /// In the order of making; on one host, by its name or id, if that is given.
    pub async fn node_list(
        &self,
        who: &Principal,
        host: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<NodeModel>, Problem> {
        let host = match host {
            Some(host) => Some(self.host_get(who, host).await?.id),
            None => None,
        };
        let filter = NodeFilter { owner: scope(who).map(str::to_owned), host, rcontract: None };
        Ok(Page::of(self.store().node_list(&filter, paging).await?, paging, |n| n.id.to_string()))
    }

    /// Wishes for a power state, or for a reboot; the same command id again changes nothing. On: carried out once, so that
    /// a node that dies later stays `failed` until the next wish.
    pub async fn node_power(
        &self,
        who: &Principal,
        id: Id<Node>,
        wish: impl Into<Wish>,
        command: Option<Id<Command>>,
        if_generation: Option<i64>,
    ) -> Result<NodeModel, Problem> {
        let wish = wish.into();
        let node = self.node_get(who, id).await?;
        if let Some(grace) = wish.grace_ms {
            check_grace(grace).map_err(Problem::invalid)?;
        }
        if wish.power == Power::Hibernated {
            return Err(Problem::new(
                Code::WrongState,
                format!("node {} cannot hibernate: the driver of its host has no way to keep its memory", node.name),
            ));
        }
        let request = PowerRequest { node_id: node.id, wish, command, if_generation };
        let node = match self.store().node_power(&request, self.now()).await {
            Ok(node) => node,
            Err(problem) => return Err(self.explained(who, problem).await),
        };
        self.push(std::slice::from_ref(&node));
        Ok(node)
    }
}
