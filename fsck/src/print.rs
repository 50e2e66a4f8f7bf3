//! What a run found, for people and for programs.

use std::io::{self, Write};

use fsck_vmfs::{Finding, Outcome};
use serde_json::json;

use crate::cli::{Args, Kind};

/// One JSON object a line: `{"record":"finding",…}` or `"note"` for each, then
/// `{"record":"summary",…}`.
pub(crate) fn json(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let report = &outcome.report;
    for (record, findings) in [("finding", &report.findings), ("note", &report.notes)] {
        for finding in findings {
            let mut line = json!({ "record": record });
            if let (Some(line), Ok(serde_json::Value::Object(fields))) =
                (line.as_object_mut(), serde_json::to_value(finding))
            {
                line.extend(fields);
            }
            writeln!(out, "{line}")?;
        }
    }
    let totals: serde_json::Map<_, _> = report
        .totals
        .iter()
        .map(|(code, total)| (code.name().to_owned(), json!(total)))
        .collect();
    let summary = json!({
        "record": "summary",
        "clean": report.is_clean(),
        "descriptors": report.descriptors,
        "entries": report.entries,
        "addresses": report.addresses,
        "resources": report.resources,
        "totals": totals,
        "repaired": report.repaired,
        "left": report.left,
        "wrote": outcome.wrote,
        "refused": outcome.refused,
        "exit_code": outcome.exit_code(),
    });
    writeln!(out, "{summary}")
}

/// Lines for a person.
pub(crate) fn text(out: &mut dyn Write, outcome: &Outcome, args: &Args) -> io::Result<()> {
    let report = &outcome.report;
    for note in &report.notes {
        if args.verbose || note.repair.is_none() {
            writeln!(out, "note: {note}")?;
        }
    }
    for finding in &report.findings {
        finding_line(out, finding, outcome, args)?;
    }
    for (code, total) in &report.totals {
        let shown = report
            .findings
            .iter()
            .filter(|finding| finding.code == *code);
        let shown = shown.count() as u64;
        if *total > shown {
            writeln!(out, "{code}: {} more", total - shown)?;
        }
    }
    writeln!(
        out,
        "{} file descriptors, {} directory entries, {} addresses",
        report.descriptors, report.entries, report.addresses
    )?;
    for count in &report.resources {
        writeln!(
            out,
            "{:<18} {:>10} compared {:>10} used {:>6} differ",
            count.kind.to_string(),
            count.compared,
            count.used,
            count.differing
        )?;
    }
    if let Some(reason) = &outcome.refused {
        writeln!(out, "not repaired: {reason}")?;
    }
    let total: u64 = report.totals.values().sum();
    match (total, outcome.wrote) {
        (0, _) => writeln!(out, "clean"),
        (_, true) => writeln!(
            out,
            "{total} errors, {} repaired, {} left",
            report.repaired, report.left
        ),
        (_, false) if args.kind() == Kind::Check => writeln!(
            out,
            "{total} errors, {} of which -y would repair",
            total - report.left
        ),
        (_, false) => writeln!(out, "{total} errors, nothing was written"),
    }
}

fn finding_line(
    out: &mut dyn Write,
    finding: &Finding,
    outcome: &Outcome,
    args: &Args,
) -> io::Result<()> {
    write!(out, "{finding}")?;
    match &finding.repair {
        Some(repair) if outcome.wrote && finding.repaired => write!(out, "; repaired: {repair}")?,
        Some(repair) if args.verbose => write!(out, "; repair: {repair}")?,
        _ => {}
    }
    if args.verbose
        && let Some(loss) = &finding.loss
    {
        write!(out, "; may lose {loss}")?;
    }
    writeln!(out)
}
