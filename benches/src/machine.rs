//! What the figures were taken on.

use std::fs;
use std::process::Command;
use std::thread;

use serde::Serialize;

/// The machine, its software and how busy it was.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor's name.
    pub processor: String,
    /// Processors that the process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel's version.
    pub kernel: String,
    /// Debian packages that the run compares with.
    pub packages: Vec<String>,
    /// Commit of the sources.
    pub commit: String,
    /// Load averages over 1, 5 and 15 minutes when the run began: near 0 on a quiet machine.
    pub load: String,
    /// When the run began, UTC.
    pub date: String,
}

impl Machine {
    /// Looks at this machine; what can't be told is empty.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let versions = output(
            "dpkg-query",
            &["-W", "vmfs-tools", "vmfs6-tools", "libfuse3-dev", "fuse2fs"],
        );
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: thread::available_parallelism().map_or(1, Into::into),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            packages: versions
                .lines()
                .map(|line| line.replace('\t', " "))
                .collect(),
            commit: output(
                "git",
                &[
                    "-C",
                    env!("CARGO_MANIFEST_DIR"),
                    "describe",
                    "--always",
                    "--dirty",
                ],
            ),
            load: read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
        }
    }

    /// One line for a table or a drawing.
    pub fn line(&self) -> String {
        format!(
            "{} × {}, {} MiB, Linux {}, {}; commit {}, {} UTC, load {}",
            self.cores,
            self.processor,
            self.memory_mib,
            self.kernel,
            self.packages.join(", "),
            self.commit,
            self.date,
            self.load
        )
    }
}

/// Memory that new files on tmpfs may take, in bytes.
pub fn available_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    let bytes = run.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
