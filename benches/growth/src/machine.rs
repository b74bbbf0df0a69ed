//! What was measured on, and with what.

use std::fs;
use std::path::Path;
use std::process::Command;
use sysinfo::System;

/// Bytes of the caches of one core, as far as the system tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caches {
    pub l2: Option<f64>,
    pub l3: Option<f64>,
}

/// What was measured on, a row each.
pub fn rows(caches: Caches) -> Vec<(&'static str, String)> {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_all();
    let unknown = || "unknown".to_owned();
    let cpu = system.cpus().first();
    let model = cpu.map_or_else(unknown, |cpu| cpu.brand().trim().to_owned());
    let cores = std::thread::available_parallelism().map_or_else(|_| unknown(), |n| n.to_string());
    let size = |bytes: Option<f64>| bytes.map_or_else(unknown, mebibytes);
    vec![
        ("Processor", format!("{model}, {cores} cores to run on")),
        ("Caches", format!("L2 {} for each core, L3 {}", size(caches.l2), size(caches.l3))),
        ("Memory", format!("{:.1} GiB", system.total_memory() as f64 / (1 << 30) as f64)),
        ("System", System::long_os_version().unwrap_or_else(unknown)),
        ("Kernel", kernel().unwrap_or_else(unknown)),
        ("Compiler", rustc().unwrap_or_else(unknown)),
        ("Date", time::OffsetDateTime::now_utc().date().to_string()),
    ]
}

fn mebibytes(bytes: f64) -> String {
    format!("{} MiB", bytes / (1 << 20) as f64)
}

fn rustc() -> Option<String> {
    let output = Command::new("rustc").arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The caches of the first core; Linux tells, others do not.
pub fn caches() -> Caches {
    let mut caches = Caches::default();
    let of_first_core = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter().flatten();
    for cache in of_first_core.flatten() {
        let file = |name| fs::read_to_string(cache.path().join(name)).unwrap_or_default();
        let size = file("size");
        let bytes = match size.trim().strip_suffix('K') {
            Some(kibibytes) => kibibytes.parse::<f64>().ok().map(|n| n * 1024.0),
            None => None,
        };
        match file("level").trim() {
            "2" => caches.l2 = bytes,
            "3" => caches.l3 = bytes,
            _ => {}
        }
    }
    caches
}

/// The versions of some crates, from a lock file.
pub fn versions(lock: &Path, crates: &[&str]) -> Vec<String> {
    let lock = fs::read_to_string(lock).unwrap_or_default();
    let quoted = |line: &str, key| {
        let value = line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?;
        Some(value.to_owned())
    };
    let mut lines = lock.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(name) = quoted(line, "name")
            && crates.contains(&name.as_str())
            && let Some(version) = lines.next().and_then(|line| quoted(line, "version"))
        {
            found.push(format!("{name} {version}"));
        }
    }
    found
}

/// The kernel's version, without the name of who built it.
fn kernel() -> Option<String> {
    System::kernel_version()?.split('-').next().map(str::to_owned)
}
