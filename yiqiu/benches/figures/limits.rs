//! What the machine itself can do: nothing durable is quicker than its disk, nothing that starts a process quicker
//! than fork and exec.

use std::{fs::File, io::Write, process::Command, time::Instant};

use anyhow::ensure;

use crate::report::{Figure, Report, folder, median, percentile};

const APPENDS: usize = 1_000;
const FORKS: usize = 200;

/// Times in milliseconds.
pub(crate) struct Limits {
    append_p50: f64,
    append_p99: f64,
    fork_p50: f64,
}

/// Measures all of them: a second or two.
pub(crate) fn measure() -> anyhow::Result<Limits> {
    let appends = fdatasync(APPENDS)?;
    let mut forks = Vec::with_capacity(FORKS);
    for _ in 0..FORKS {
        let from = Instant::now();
        ensure!(Command::new("/bin/true").status()?.success(), "/bin/true fails");
        forks.push(ms(from));
    }
    Ok(Limits { append_p50: median(&appends), append_p99: percentile(&appends, 0.99), fork_p50: median(&forks) })
}

/// The median of a 4 KiB append and its fdatasync now, in milliseconds: disks have moods, so it is measured beside each
/// load.
pub(crate) fn fdatasync_ms() -> anyhow::Result<f64> {
    Ok(median(&fdatasync(APPENDS / 2)?))
}

fn fdatasync(count: usize) -> anyhow::Result<Vec<f64>> {
    let path = folder()?.join("fdatasync");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let from = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(ms(from));
    }
    std::fs::remove_file(&path)?;
    Ok(times)
}

/// Milliseconds since then.
pub(crate) fn ms(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn report(limits: &Limits, report: &mut Report) -> anyhow::Result<()> {
    let Limits { append_p50, append_p99, fork_p50 } = limits;
    let figure = |bench, n, value, beside, beside_value| Figure { bench, n, value, unit: "ms", beside, beside_value };
    report.add(figure("fdatasync_p50", APPENDS, *append_p50, "such syncs a second", 1e3 / append_p50))?;
    report.add(figure("fdatasync_p99", APPENDS, *append_p99, "p50 in ms", *append_p50))?;
    report.add(figure("fork_exec_p50", FORKS, *fork_p50, "such starts a second", 1e3 / fork_p50))
}
