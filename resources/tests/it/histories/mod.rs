//! Random histories. `racing`: clients that get in each other's way. `long`: one thing after the other, with late and
//! repeated messages, crashes and hosts that come back with old states, where everything is compared with a model.

mod long;
mod machine;
mod model;
mod racing;
mod script;
mod seen;
mod world;
