pub mod lifecycle;
pub mod model;
pub mod scheduler;
