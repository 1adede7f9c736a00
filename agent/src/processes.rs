//! The process table, and what some of its processes cost. Formats: proc(5).

use std::fs;

use yiqiu_base::Size;

/// In which unit the kernel tells processor time to programs, on every architecture: hundredths of a second.
const TICKS_A_SECOND: i64 = 100;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i64,
    pub(crate) parent: i64,
    /// The first 15 bytes of its program's name.
    pub(crate) name: String,
    /// Ticks of processor time, its own.
    cpu: i64,
    /// Ticks after the boot of the machine.
    began: i64,
}

impl Process {
    /// Its command line.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let text = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// The argument after this one.
    pub(crate) fn argument(&self, flag: &str) -> Option<String> {
        self.arguments().windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].clone())
    }

    /// `12 (a name) S 1 …`: the name may hold anything, so the last parenthesis ends it.
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            parent: number(1)?,
            name: name.to_owned(),
            cpu: number(11)? + number(12)?,
            began: number(19)?,
        })
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())));
    numbered.filter_map(|e| Process::parse(&fs::read_to_string(e.path().join("stat")).ok()?)).collect()
}

/// Memory that these processes hold, shared pages by their share, and processor time on average since each began.
pub(crate) fn cost<'a>(processes: impl IntoIterator<Item = &'a Process>) -> Size {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or_default();
    #[allow(clippy::cast_possible_truncation)] // seconds since the boot
    let now = (uptime * TICKS_A_SECOND as f64) as i64;
    let mut cost = Size::ZERO;
    for process in processes {
        cost.memory_bytes += memory(process.pid);
        cost.cpu_millicores += process.cpu * 1000 / (now - process.began).max(TICKS_A_SECOND);
    }
    cost
}

/// Its proportional share where that can be read, else what is resident.
fn memory(pid: i64) -> i64 {
    let kib = |file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().trim_end_matches(" kB").trim().parse::<i64>().ok()
    };
    kib("smaps_rollup", "Pss").or_else(|| kib("status", "VmRSS")).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_process_table() {
        let line = "12 (a (b) c) S 3 12 12 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0 900 1000 100\n";
        let process = Process { pid: 12, parent: 3, name: "a (b) c".to_owned(), cpu: 12, began: 900 };
        assert_eq!(Process::parse(line), Some(process));
        assert_eq!(Process::parse("12 (cut off"), None);
    }

    #[test]
    fn this_process_is_there_and_costs_something() {
        let own = i64::from(std::process::id());
        let all = all();
        let me: Vec<&Process> = all.iter().filter(|p| p.pid == own).collect();
        assert_eq!(me.len(), 1);
        assert!(cost(me).memory_bytes > 1 << 20);
    }
}
