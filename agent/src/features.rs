//! What this machine can, as words: found here, never configured.

use std::{collections::BTreeMap, fs, path::Path};

/// Flags of processors that something may depend on; the kernel knows many more.
const FLAGS: [&str; 11] =
    ["aes", "avx", "avx2", "avx512f", "hypervisor", "rdrand", "sha_ni", "sse4_2", "svm", "vmx", "pclmulqdq"];

/// The longest value.
const VALUE_MOST: usize = 100;

/// The features of this machine.
pub(crate) fn found() -> BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut features =
        from_texts(&read("/proc/cpuinfo"), &read("/proc/sys/kernel/osrelease"), &read("/etc/os-release"));
    features.insert("arch".into(), std::env::consts::ARCH.into());
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
        features.insert("kvm".into(), "yes".into());
    }
    if let Some(version) = cgroup(Path::new("/sys/fs/cgroup")) {
        features.insert("cgroup".into(), version.into());
    }
    features
}

/// What the kernel's texts tell.
fn from_texts(cpuinfo: &str, kernel: &str, os: &str) -> BTreeMap<String, String> {
    let of = |text: &str, separator: char, key: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(separator));
        lines.map(|(k, v)| (k.trim(), v.trim())).find(|(k, _)| *k == key).map(|(_, v)| v.trim_matches('"').to_owned())
    };
    let cpu = |key| of(cpuinfo, ':', key).unwrap_or_default();
    let os = |key| of(os, '=', key).unwrap_or_default();
    let system = [os("ID"), os("VERSION_ID")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let mut features: BTreeMap<String, String> = [
        ("cpu-vendor", cpu("vendor_id")),
        ("cpu-model", cpu("model name")),
        ("kernel", kernel.trim().to_owned()),
        ("os", system),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), printable(&value)))
    .filter(|(_, value)| !value.is_empty())
    .collect();
    let flags = cpu("flags");
    let has = |flag: &&str| flags.split_whitespace().any(|f| f == *flag);
    features.extend(FLAGS.into_iter().filter(has).map(|flag| (format!("cpu.{flag}"), "yes".to_owned())));
    features
}

/// Without what would steer a terminal, or end a word in a filter.
fn printable(value: &str) -> String {
    let clean = value.chars().map(|c| if c == ' ' || (c.is_ascii_graphic() && c != ',') { c } else { '_' });
    clean.take(VALUE_MOST).collect::<String>().trim().to_owned()
}

/// Which control groups the kernel has mounted.
fn cgroup(root: &Path) -> Option<&'static str> {
    match (root.join("cgroup.controllers").exists(), root.join("unified").exists(), root.join("memory").exists()) {
        (true, _, _) => Some("v2"),
        (false, true, _) => Some("hybrid"),
        (false, false, true) => Some("v1"),
        (false, false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_become_features() {
        let cpuinfo =
            "vendor_id\t: GenuineIntel\nmodel name\t: Xeon, fast\nflags\t\t: fpu avx2 aes nx\n\nvendor_id\t: other\n";
        let features = from_texts(cpuinfo, "6.1.0-9-amd64\n", "ID=debian\nVERSION_ID=\"12\"\n");
        let expected = [
            ("cpu-model", "Xeon_ fast"),
            ("cpu-vendor", "GenuineIntel"),
            ("cpu.aes", "yes"),
            ("cpu.avx2", "yes"),
            ("kernel", "6.1.0-9-amd64"),
            ("os", "debian-12"),
        ];
        assert_eq!(features, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(from_texts("", "", ""), BTreeMap::new());
    }

    #[test]
    fn this_machine_has_features() {
        let features = found();
        assert_eq!(features["arch"], std::env::consts::ARCH);
        assert!(features.contains_key("kernel"), "{features:?}");
    }
}
