//! Faults of the real thing: processes that are killed in the middle of each operation, a full disk, a cut network, old
//! copies of data, a clock that jumps. After each the books hold, and the audit is clean or says exactly what is not.

mod bench;
mod clock;
mod cut;
mod disk;
mod kills;
mod yesterday;
