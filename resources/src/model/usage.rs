//! What a line reserved and what its node really used, since its making.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use yiqiu_base::{Id, Power, Size, clock::Ms, id::Line};

use super::Counters;

/// A stretch of a line's meter.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// Its power state.
    pub power: Power,
    /// What the line held.
    pub size: Size,
    /// From when.
    pub from_ms: Ms,
    /// Until when; `None`: it goes on.
    pub to_ms: Option<Ms>,
}

/// What was reserved in one power state. Sums are strings of decimal digits: they may leave 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Preset {
    /// For how long, in milliseconds.
    pub ms: i64,
    /// Millicores times milliseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub cpu_millicore_ms: i128,
    /// Bytes times milliseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub memory_byte_ms: i128,
    /// Bytes times milliseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub disk_byte_ms: i128,
    /// Operations a second times milliseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub disk_iops_ms: i128,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde passes it
fn digits<S: Serializer>(n: &i128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(n)
}

/// What was measured, over all boots: the newest total of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Actual {
    /// Processor time in nanoseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub cpu_ns: i128,
    /// Bytes in use times milliseconds.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub memory_byte_ms: i128,
    /// Bytes received.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub net_rx_bytes: i128,
    /// Bytes sent.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub net_tx_bytes: i128,
    /// Bytes read from disks.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub block_read_bytes: i128,
    /// Bytes written to disks.
    #[serde(serialize_with = "digits")]
    #[schema(value_type = String)]
    pub block_write_bytes: i128,
}

/// A line's preset and actual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineUsage {
    /// Which line.
    pub line_id: Id<Line>,
    /// Its name.
    pub name: String,
    /// What it holds now.
    pub held: Size,
    /// Reserved while its node ran.
    pub on: Preset,
    /// Reserved while it did not.
    pub off: Preset,
    /// Reserved while its memory was on disk.
    pub hibernated: Preset,
    /// Measured.
    pub actual: Actual,
}

impl LineUsage {
    /// A line of which nothing is counted yet.
    pub fn new(line_id: Id<Line>, name: String, held: Size) -> Self {
        let (on, off, hibernated) = (Preset::default(), Preset::default(), Preset::default());
        Self { line_id, name, held, on, off, hibernated, actual: Actual::default() }
    }

    /// Adds a stretch; one that goes on counts up to `now`.
    pub fn add_stretch(&mut self, stretch: Stretch, now: Ms) {
        let Stretch { power, size, from_ms, to_ms } = stretch;
        let ms = to_ms.unwrap_or(now).saturating_sub(from_ms).max(0);
        let preset = match power {
            Power::On => &mut self.on,
            Power::Off => &mut self.off,
            Power::Hibernated => &mut self.hibernated,
        };
        let times = |amount: i64| i128::from(amount) * i128::from(ms);
        let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
        preset.ms = preset.ms.saturating_add(ms);
        preset.cpu_millicore_ms += times(cpu_millicores);
        preset.memory_byte_ms += times(memory_bytes);
        preset.disk_byte_ms += times(disk_bytes);
        preset.disk_iops_ms += times(disk_iops);
    }

    /// Adds the totals of a boot.
    pub fn add_boot(&mut self, counters: Counters) {
        let Counters { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } =
            counters;
        // A total that wrapped at the end of 64 bits reads as what it is without a sign.
        let whole = |n: i64| i128::from(n.cast_unsigned());
        self.actual.cpu_ns += whole(cpu_ns);
        self.actual.memory_byte_ms += whole(memory_byte_ms);
        self.actual.net_rx_bytes += whole(net_rx_bytes);
        self.actual.net_tx_bytes += whole(net_tx_bytes);
        self.actual.block_read_bytes += whole(block_read_bytes);
        self.actual.block_write_bytes += whole(block_write_bytes);
    }
}

/// What one contract holds of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub rcontract_id: Id<yiqiu_base::id::RContract>,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// How many nodes.
    pub nodes: i64,
    /// How much, without the overhead of its nodes.
    pub size: Size,
}
