//! The failures that docs/CONFORMANCE.md expects, each with its reason.
//!
//! They are the rows of the page's tables whose first cell is code: `` | `suite/check` | where | reason | ``.
//! The name may hold `*`s; then everything that it matches must fail. `where` is `vmfs5`, `vmfs6`,
//! `vmfs` (both), `passthrough` or `all` (any place).

use anyhow::{Result, bail, ensure};

use crate::place::Kind;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `suite/check`, perhaps with `*`s.
    pub name: String,
    place: String,
    /// Why it fails.
    pub reason: String,
}

/// All rows.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    rows: Vec<Row>,
}

impl Expected {
    /// Reads them from the page's text.
    ///
    /// # Errors
    /// When a row isn't understood or gives no reason.
    pub fn parse(page: &str) -> Result<Self> {
        let mut rows = Vec::new();
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [_, name, place, reason, _] = cells[..] else {
                bail!("a row has three cells: {line}");
            };
            ensure!(
                matches!(place, "vmfs5" | "vmfs6" | "vmfs" | "passthrough" | "all"),
                "where is it expected? {line}"
            );
            ensure!(!reason.is_empty(), "no reason: {line}");
            rows.push(Row {
                name: name.trim_matches('`').to_owned(),
                place: place.to_owned(),
                reason: reason.to_owned(),
            });
        }
        Ok(Self { rows })
    }

    /// The row that expects `check` of `suite` to fail on `kind`.
    pub fn row(&self, kind: &Kind, suite: &str, check: &str) -> Option<&Row> {
        let name = format!("{suite}/{check}");
        let kind = kind.to_string();
        self.rows.iter().find(|row| {
            let here = match row.place.as_str() {
                "all" => true,
                "vmfs" => kind == "vmfs5" || kind == "vmfs6",
                place => place == kind,
            };
            here && matches(&row.name, &name)
        })
    }
}

/// Whether `name` is `pattern`, each `*` of which stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|at| matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n| name | where | why |\n|---|---|---|\n\
        | `pjd/*::fifo` | vmfs | no FIFOs |\n| `xfs/generic/003` | vmfs5 | no |\n| `fio/x` | all | old kernel |\n";

    fn reason(kind: &str, suite: &str, check: &str) -> Option<String> {
        let expected = Expected::parse(PAGE).expect("page");
        let kind = kind.parse().expect("kind");
        Some(expected.row(&kind, suite, check)?.reason.clone())
    }

    #[test]
    fn a_row_holds_where_it_says() {
        assert_eq!(
            reason("vmfs6", "pjd", "a::b::fifo").as_deref(),
            Some("no FIFOs")
        );
        assert_eq!(reason("passthrough", "pjd", "a::b::fifo"), None);
        assert_eq!(reason("vmfs6", "pjd", "a::b::fifo2"), None);
        assert_eq!(reason("vmfs5", "xfs", "generic/003").as_deref(), Some("no"));
        assert_eq!(reason("vmfs6", "xfs", "generic/003"), None);
        assert_eq!(reason("/", "fio", "x").as_deref(), Some("old kernel"));
    }

    #[test]
    fn a_row_without_a_reason_is_refused() {
        assert!(Expected::parse("| `a/b` | vmfs | |\n").is_err());
        assert!(Expected::parse("| `a/b` | somewhere | because |\n").is_err());
        assert!(Expected::parse("| `a/b` | because |\n").is_err());
    }
}
