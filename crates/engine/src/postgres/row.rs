use std::str::FromStr;
use std::sync::Arc;

use super::{Error, Result};

/// One row of an answer, every value in its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub(crate) columns: Arc<[String]>,
    pub(crate) values: Vec<Option<String>>,
}

impl Row {
    /// The value of a column by its number from 0; `None` when it is NULL or there is no such column.
    pub fn get(&self, column: usize) -> Option<&str> {
        self.values.get(column)?.as_deref()
    }

    /// The value of a column by its name; `None` when it is NULL or there is no such column.
    pub fn by_name(&self, name: &str) -> Option<&str> {
        self.get(self.columns.iter().position(|column| column == name)?)
    }

    /// A value that must be there, and must be of this form.
    pub fn parsed<T: FromStr>(&self, doing: &'static str, column: &'static str) -> Result<T> {
        let value = self.by_name(column);
        value.and_then(|text| text.parse().ok()).ok_or_else(|| Error::Value {
            doing,
            column,
            value: value.unwrap_or("NULL").chars().take(80).collect(),
        })
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// A name as SQL and the replication commands take it, in double quotes.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL and the replication commands take it. A backslash stays what it is under
/// `standard_conforming_strings`, which every connection sets.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
