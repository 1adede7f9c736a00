//! Amounts of what a host has: one shape for capacity, overhead and claims.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Code, Problem};

/// An amount of each dimension. All integers in base units; never negative in what users ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Thousandths of a processor.
    #[serde(default)]
    pub cpu_millicores: i64,
    /// Bytes of memory.
    #[serde(default)]
    pub memory_bytes: i64,
    /// Bytes of disk.
    #[serde(default)]
    pub disk_bytes: i64,
    /// Disk operations a second.
    #[serde(default)]
    pub disk_iops: i64,
}

/// One of the four things that a [`Size`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Thousandths of a processor.
    CpuMillicores,
    /// Bytes of memory.
    MemoryBytes,
    /// Bytes of disk.
    DiskBytes,
    /// Disk operations a second.
    DiskIops,
}

impl Dimension {
    /// All four, in the order in which refusals name them.
    pub const ALL: [Dimension; 4] =
        [Dimension::CpuMillicores, Dimension::MemoryBytes, Dimension::DiskBytes, Dimension::DiskIops];

    /// Its name, as in fields of requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Dimension::CpuMillicores => "cpu_millicores",
            Dimension::MemoryBytes => "memory_bytes",
            Dimension::DiskBytes => "disk_bytes",
            Dimension::DiskIops => "disk_iops",
        }
    }

    /// An amount of this dimension for people, such as `1.5 cpu` or `512 MiB memory`.
    pub fn shown(self, amount: i64) -> String {
        match self {
            Dimension::CpuMillicores => format!("{} cpu", thousandths(amount)),
            Dimension::MemoryBytes => format!("{} memory", bytes_shown(amount)),
            Dimension::DiskBytes => format!("{} disk", bytes_shown(amount)),
            Dimension::DiskIops => format!("{amount} iops"),
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most of one dimension that anything may be: 2^50 (a pebibyte, a trillion cores). Far below the edge of 64 bits,
/// so that a sum over every node of a region cannot overflow.
pub const MOST: i64 = 1 << 50;

impl Size {
    /// Nothing.
    pub const ZERO: Size = Size { cpu_millicores: 0, memory_bytes: 0, disk_bytes: 0, disk_iops: 0 };

    /// One dimension of it.
    pub fn get(&self, dimension: Dimension) -> i64 {
        match dimension {
            Dimension::CpuMillicores => self.cpu_millicores,
            Dimension::MemoryBytes => self.memory_bytes,
            Dimension::DiskBytes => self.disk_bytes,
            Dimension::DiskIops => self.disk_iops,
        }
    }

    /// Each dimension of two sizes through `f`.
    pub fn zip(self, other: Size, f: impl Fn(i64, i64) -> i64) -> Size {
        Size {
            cpu_millicores: f(self.cpu_millicores, other.cpu_millicores),
            memory_bytes: f(self.memory_bytes, other.memory_bytes),
            disk_bytes: f(self.disk_bytes, other.disk_bytes),
            disk_iops: f(self.disk_iops, other.disk_iops),
        }
    }

    /// The sum; stays at the edge of 64 bits rather than wrap.
    #[must_use]
    pub fn plus(self, other: Size) -> Size {
        self.zip(other, i64::saturating_add)
    }

    /// The difference; may be negative.
    #[must_use]
    pub fn minus(self, other: Size) -> Size {
        self.zip(other, i64::saturating_sub)
    }

    /// `n` times as much.
    #[must_use]
    pub fn times(self, n: i64) -> Size {
        self.zip(Size::ZERO, |a, _| a.saturating_mul(n))
    }

    /// The dimensions in which this is more than `limit`, with by how much.
    pub fn beyond(self, limit: Size) -> Vec<(Dimension, i64)> {
        Dimension::ALL
            .into_iter()
            .filter_map(|d| {
                let over = self.get(d).saturating_sub(limit.get(d));
                (over > 0).then_some((d, over))
            })
            .collect()
    }

    /// Whether every dimension is at most that of `limit`.
    pub fn within(self, limit: Size) -> bool {
        Dimension::ALL.into_iter().all(|d| self.get(d) <= limit.get(d))
    }

    /// Checks what someone asks for: cpu and memory above zero, disk and iops not below it, none above [`MOST`].
    pub fn check(&self, noun: &str) -> Result<(), Problem> {
        for d in Dimension::ALL {
            let amount = self.get(d);
            let least = i64::from(matches!(d, Dimension::CpuMillicores | Dimension::MemoryBytes));
            if amount < least || amount > MOST {
                return Err(Problem::new(
                    Code::InvalidArgument,
                    format!("{d} of {noun} is {amount}: expected {least} to {MOST}"),
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for d in Dimension::ALL {
            if self.get(d) != 0 {
                if !first {
                    f.write_str(", ")?;
                }
                first = false;
                f.write_str(&d.shown(self.get(d)))?;
            }
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Bytes for people: exact in the largest binary unit that divides them, else with one decimal.
pub fn bytes_shown(bytes: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes.unsigned_abs() >= unit.unsigned_abs() {
            return if bytes % unit == 0 {
                format!("{} {name}", bytes / unit)
            } else {
                let tenths = i128::from(bytes) * 10 / i128::from(unit);
                let sign = if tenths < 0 { "-" } else { "" };
                format!("{sign}{}.{} {name}", tenths.abs() / 10, tenths.abs() % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// Thousandths as a decimal without trailing zeros: `1500` is `1.5`.
pub fn thousandths(milli: i64) -> String {
    let sign = if milli < 0 { "-" } else { "" };
    let milli = milli.unsigned_abs();
    let text = format!("{sign}{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads `512MiB`, `2GiB`, `1.5GiB`, `10GB` or plain bytes.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let factor: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" | "ki" => 1 << 10,
        "mib" | "m" | "mi" => 1 << 20,
        "gib" | "g" | "gi" => 1 << 30,
        "tib" | "t" | "ti" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("`{unit}` is not a unit of bytes: expected KiB, MiB, GiB, TiB, KB, MB, GB or TB")),
    };
    let milli = parse_thousandths(number)?;
    let bytes = i128::from(milli) * i128::from(factor) / 1000;
    i64::try_from(bytes).map_err(|_| format!("`{text}` is more bytes than 64 bits hold"))
}

/// Reads a decimal with at most three places as thousandths: `1.5` is `1500`.
pub fn parse_thousandths(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a number: expected digits with at most three decimal places, such as 1.5");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 3 || (text.contains('.') && part.is_empty())
    {
        return Err(bad());
    }
    let whole: i64 = whole.parse().map_err(|_| bad())?;
    let part: i64 = format!("{part:0<3}").parse().map_err(|_| bad())?;
    whole.checked_mul(1000).and_then(|w| w.checked_add(part)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reading_and_showing() {
        for (text, bytes) in
            [("512MiB", Ok(512 << 20)), ("1.5GiB", Ok(3 << 29)), ("7", Ok(7)), ("10GB", Ok(10_000_000_000))]
        {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        for text in ["", "-1", "1.2345", "1e3", "5XB", "99999999999TiB", "1.", ".5"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(thousandths(1500), "1.5");
        assert_eq!(thousandths(-20), "-0.02");
        assert_eq!(thousandths(2000), "2");
        assert_eq!(bytes_shown(512 << 20), "512 MiB");
        assert_eq!(bytes_shown(-(3 << 29)), "-1.5 GiB");
    }

    #[test]
    fn a_size_asked_for_has_bounds() {
        let good = Size { cpu_millicores: 1, memory_bytes: 1, ..Size::ZERO };
        assert!(good.check("node").is_ok());
        for bad in [
            Size { cpu_millicores: 0, ..good },
            Size { cpu_millicores: -1, ..good },
            Size { memory_bytes: 0, ..good },
            Size { memory_bytes: i64::MAX, ..good },
            Size { disk_bytes: -1, ..good },
            Size { disk_iops: MOST + 1, ..good },
        ] {
            assert_eq!(bad.check("node").unwrap_err().code, Code::InvalidArgument, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn within_is_the_absence_of_beyond(a in any::<[i32; 4]>(), b in any::<[i32; 4]>()) {
            let size = |v: [i32; 4]| Size {
                cpu_millicores: v[0].into(), memory_bytes: v[1].into(), disk_bytes: v[2].into(), disk_iops: v[3].into(),
            };
            prop_assert_eq!(size(a).within(size(b)), size(a).beyond(size(b)).is_empty());
            prop_assert_eq!(size(a).minus(size(b)).plus(size(b)), size(a));
        }

        #[test]
        fn showing_thousandths_reads_back(n in 0..i64::from(i32::MAX)) {
            prop_assert_eq!(parse_thousandths(&thousandths(n)), Ok(n));
        }
    }
}
