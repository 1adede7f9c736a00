//! What cuts a host into nodes, a module for each way.

pub mod container;
pub mod process;
pub mod sim;
pub(crate) mod supervisor;
