//! Who ran what in a node.

use yiqiu_base::{Principal, Problem, clock::Ms, name, outbox::NewEvent};
use yiqiu_proto::resources::NodeExec;

use super::Store;
use crate::model::{ExecWanted, NodeModel};

impl Store {
    /// Notes in the events that someone runs a command in a node. Only its first word is told.
    pub async fn node_exec_noted(
        &self,
        who: &Principal,
        node: &NodeModel,
        wanted: &ExecWanted,
        now: Ms,
    ) -> Result<(), Problem> {
        let payload = NodeExec {
            node_id: node.id.to_string(),
            name: node.name.clone(),
            host_name: node.host_name.clone(),
            by: who.subject.clone(),
            role: who.role.as_str().to_owned(),
            command: wanted.command.first().map(|word| name::shown(word)).unwrap_or_default(),
            tty: wanted.tty,
        };
        let mut transaction = self.database.begin().await?;
        transaction.emit(NewEvent::new(now, "node.exec", &node.owner, node.id, &payload));
        transaction.commit().await?;
        Ok(())
    }
}
