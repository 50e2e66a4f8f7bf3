use std::fmt::Write;

use vmfs_core::scsi::Recorded;

use super::workload::Performed;

impl Performed {
    /// The commands before `position`, at most `count`, and between them the steps that began
    /// there: what a person who looks for the cause of a failure wants to see.
    pub fn show(&self, position: usize, count: usize) -> String {
        let mut text = String::new();
        let end = position.min(self.record.len());
        for number in end.saturating_sub(count)..end {
            for (log, prefix) in self.logs.iter().zip(&self.prefixes) {
                for (index, step) in log.steps.iter().enumerate() {
                    if step.started.position == number {
                        let (state, what) = (index + 1, &step.what);
                        let _ = writeln!(text, "{prefix} {state}: {what}");
                    }
                }
            }
            let _ = writeln!(text, "{}", line(number, &self.record[number]));
        }
        text
    }
}

/// All of a record.
pub(super) fn list(record: &[Recorded]) -> String {
    let lines = record.iter().enumerate();
    lines
        .map(|(number, command)| line(number, command) + "\n")
        .collect()
}

fn line(number: usize, command: &Recorded) -> String {
    match command {
        Recorded::Write { offset, bytes } => {
            let start = &bytes[..bytes.len().min(8)];
            let length = bytes.len();
            format!("    {number}: write {offset:#x}, {length:#x} bytes {start:02x?}")
        }
        Recorded::WriteZeros { offset, length } => {
            format!("    {number}: zero {offset:#x}, {length:#x}")
        }
        Recorded::Flush { covers } => format!("    {number}: flush of those before {covers}"),
    }
}
