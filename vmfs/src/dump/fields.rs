use std::io::{self, Write};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::output::json;

/// A structure: its name, where it lies, and its fields.
pub(super) struct Structure {
    title: String,
    fields: Map<String, Value>,
}

impl Structure {
    /// A structure without fields yet.
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            fields: Map::new(),
        }
    }

    /// Adds a field.
    pub(super) fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a field that reads best in hexadecimal.
    pub(super) fn hex(self, name: &str, value: impl Into<u64>) -> Self {
        self.field(name, format!("{:#x}", value.into()))
    }

    /// Adds a field that is text.
    pub(super) fn text(self, name: &str, value: &impl ToString) -> Self {
        self.field(name, value.to_string())
    }
}

/// Adds fields of a view one after the other: `fields!(structure, view; dec a, hex b, text c)`.
macro_rules! fields {
    ($structure:expr, $view:expr; $($how:ident $field:ident),* $(,)?) => {{
        let structure = $structure;
        $(let structure = fields!(@$how structure, $view, $field);)*
        structure
    }};
    (@dec $structure:ident, $view:expr, $field:ident) => {
        $structure.field(stringify!($field), $view.$field.get())
    };
    (@hex $structure:ident, $view:expr, $field:ident) => {
        $structure.hex(stringify!($field), $view.$field.get())
    };
    (@byte $structure:ident, $view:expr, $field:ident) => {
        $structure.field(stringify!($field), $view.$field)
    };
    (@text $structure:ident, $view:expr, $field:ident) => {
        $structure.text(stringify!($field), &$view.$field)
    };
    (@name $structure:ident, $view:expr, $field:ident) => {
        $structure.field(
            stringify!($field),
            String::from_utf8_lossy(vmfs_core::format::text(&$view.$field)).into_owned(),
        )
    };
}
pub(super) use fields;

/// Prints structures as text or JSON.
pub(super) fn print(structures: &[Structure], as_json: bool) -> Result<(), Error> {
    if as_json {
        let all: Vec<_> = structures
            .iter()
            .map(|structure| {
                let mut fields = structure.fields.clone();
                fields.insert("structure".to_owned(), structure.title.clone().into());
                Value::Object(fields)
            })
            .collect();
        return json(&all);
    }
    let mut out = io::stdout().lock();
    for structure in structures {
        writeln!(out, "{}", structure.title)?;
        for (name, value) in &structure.fields {
            match value {
                Value::String(text) => writeln!(out, "  {name:<30} {text}")?,
                Value::Array(lines) => {
                    writeln!(out, "  {name}")?;
                    for line in lines {
                        writeln!(out, "    {}", line.as_str().unwrap_or_default())?;
                    }
                }
                other => writeln!(out, "  {name:<30} {other}")?,
            }
        }
    }
    Ok(())
}
