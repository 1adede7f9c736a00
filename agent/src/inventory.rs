//! What is really on this host, when the server asks; and what ops decided about what should not be there.

use std::{collections::VecDeque, sync::Arc};

use yiqiu_base::NodeType;
use yiqiu_proto::{
    agent::{self as wire, DriverInventory, InventoryRequest, OrphanCommand, OrphanDone, agent_message::Message},
    common,
};

use crate::{
    driver::{Driver, DriverError, Found, Inventory, NodeId},
    host::Host,
};

impl Host {
    /// Asks every driver, and answers in its own time.
    pub(crate) fn take_stock(self: &Arc<Self>, request: InventoryRequest) {
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            let asked = host.drivers.iter().map(|driver| inventory(&**driver));
            let drivers = futures::future::join_all(asked).await;
            host.answer(Message::Inventory(wire::Inventory { id: request.id, drivers }));
        });
    }

    /// Carries out what ops decided about something that is no node, and answers.
    pub(crate) fn settle_orphan(self: &Arc<Self>, command: OrphanCommand) {
        let host = Arc::clone(self);
        self.tasks.spawn(async move {
            let OrphanCommand { id, node_type: _, handle, adopt_as } = &command;
            let done = host.decided(&command).await;
            let failed = done.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::info!(handle, adopt_as, failed, "ops decided about an orphan");
            host.answer(Message::OrphanDone(OrphanDone { id: id.clone(), failed }));
        });
    }

    async fn decided(&self, command: &OrphanCommand) -> Result<(), DriverError> {
        let refused = |why: &str| DriverError::Refused(why.to_owned());
        let node_type = NodeType::try_from(command.node_type()).map_err(|problem| refused(&problem.detail))?;
        let driver = self.driver(node_type).ok_or_else(|| refused("this agent has no driver for it"))?;
        // What the machine says now decides, not what it said when the audit was made.
        let inventory = driver.inventory().await?;
        let found = inventory.found.iter().find(|found| found.handle == command.handle);
        if let Some(node) = found.and_then(|found| found.node)
            && self.with(node, |node| node.record.assignment.is_some()) == Some(true)
        {
            return Err(refused("it is a node that is assigned to this host: release its line instead"));
        }
        if command.adopt_as.is_empty() {
            return driver.orphan_remove(&command.handle).await;
        }
        let node = NodeId::parse(&command.adopt_as).map_err(|problem| refused(&problem.detail))?;
        if inventory.found.iter().any(|found| found.node == Some(node)) {
            return Err(refused("the node is there already: remove one of the two"));
        }
        if found.is_none_or(|found| found.labelled != command.adopt_as) {
            return Err(refused("it is gone, or does not say any more that it is that node"));
        }
        driver.orphan_adopt(&command.handle, node).await?;
        self.with(node, |node| node.stale = true);
        Ok(())
    }

    fn answer(&self, message: Message) {
        self.state().answers.push_back(message);
        self.outgoing.notify_one();
    }

    /// The answers to send, oldest first.
    pub(crate) fn take_answers(&self) -> VecDeque<Message> {
        std::mem::take(&mut self.state().answers)
    }
}

async fn inventory(driver: &dyn Driver) -> DriverInventory {
    let node_type = common::NodeType::from(driver.node_type()).into();
    match driver.inventory().await {
        Ok(Inventory { found, overhead_fixed, overhead_nodes }) => DriverInventory {
            node_type,
            missing: String::new(),
            found: found.into_iter().map(told).collect(),
            overhead_fixed: Some(overhead_fixed.into()),
            overhead_nodes: Some(overhead_nodes.into()),
        },
        Err(error) => DriverInventory { node_type, missing: error.to_string(), ..DriverInventory::default() },
    }
}

fn told(found: Found) -> wire::Found {
    let Found {
        node,
        handle,
        labelled,
        running,
        cpu_limit_millicores,
        memory_limit_bytes,
        cpu_millicores,
        memory_bytes,
    } = found;
    wire::Found {
        node_id: node.map(|id| id.to_string()).unwrap_or_default(),
        handle,
        labelled,
        running,
        cpu_limit_millicores,
        memory_limit_bytes,
        cpu_millicores,
        memory_bytes,
    }
}
