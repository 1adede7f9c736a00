//! The PaaS: services deployed as programs, and kept running. There is nothing here yet.
//!
//! *Purpose*: from a packaged program and a wish for some units of it, to units that run, know their peers, and are
//! upgraded and rolled back together. It will stand above the three tiers and ask them for machines as any other
//! tenant does.
//!
//! *Does not*: cut hosts, place components, meter or bill; that is for the tiers below. It will not assume either where
//! its machines come from.
