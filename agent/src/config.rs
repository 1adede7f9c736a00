//! What an agent is told when it starts. What the machine is, it finds out itself.

use std::{path::PathBuf, sync::Arc};

use yiqiu_base::NodeType;

use crate::{
    driver::Driver,
    drivers::{container::ContainerDriver, process::ProcessDriver},
};

/// The configuration of one host's agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where its credential, its journal, images on their way and process groups are kept. Made if missing.
    pub data_dir: PathBuf,
    /// A path or URL of the Docker socket; `None`: `DOCKER_HOST`, else `/var/run/docker.sock`.
    pub docker: Option<String>,
    /// A one-time join token. Not needed once a credential is saved; one that is not that of the saved credential is
    /// traded if the server refuses the saved one.
    pub token: Option<String>,
    /// The node types that this host offers.
    pub node_types: Vec<NodeType>,
    /// The program that minds processes; `None`: the running one, which has to call [`crate::supervise_main`] first.
    pub supervisor: Option<PathBuf>,
    /// What this boot of the machine is called; `None`: as the kernel calls it.
    pub boot_id: Option<String>,
}

impl AgentConfig {
    /// Everything by default, with a folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            docker: None,
            token: None,
            node_types: NodeType::ALL.to_vec(),
            supervisor: None,
            boot_id: None,
        }
    }

    /// The drivers that this build has for the types offered, for a host of this id.
    pub(crate) fn drivers(&self, host_id: &str) -> Vec<Arc<dyn Driver>> {
        let made = self.node_types.iter().filter_map(|node_type| -> Option<Arc<dyn Driver>> {
            match node_type {
                NodeType::Cm => Some(Arc::new(ContainerDriver::new(self.docker.as_deref(), host_id))),
                NodeType::Bm => {
                    Some(Arc::new(ProcessDriver::new(self.data_dir.join("process"), self.supervisor.clone())))
                }
                NodeType::Vm => None, // no libvirt driver in this build; the facts say so
            }
        });
        made.collect()
    }
}
