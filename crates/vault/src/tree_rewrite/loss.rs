//! What is lost of a directory that is written again. Not a matter of bytes: other programs write times with their
//! distance from UTC, what is empty, or fields in another order, and nothing goes when Levee writes the same its way.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::{FileTime, Tree};

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The first thing that `json` says and `tree`, which was read from it, would not when written again.
pub(super) fn first(json: &[u8], tree: &Tree) -> Option<String> {
    let Ok(fields) = serde_json::from_slice::<Fields<'_>>(json) else {
        return Some("the form of the directory".into());
    };
    if let Some(field) = fields.keys().find(|field| *field != "nodes") {
        return Some(format!("the field {field:?} of the directory"));
    }
    let nodes = fields.get("nodes").and_then(|nodes| serde_json::from_str::<Option<Vec<&RawValue>>>(nodes.get()).ok());
    // One at a time: as values that can be compared they take many times the memory.
    nodes.flatten().unwrap_or_default().into_iter().zip(tree.nodes()).find_map(|(read, node)| {
        let mut written = Vec::new();
        node.write_json(&mut written);
        let field = first_field(read.get(), std::str::from_utf8(&written).unwrap_or_default())?;
        Some(format!("the field {field:?} of {:?}", node.name))
    })
}

/// The first field of a node that is not written as it was read.
fn first_field(read: &str, written: &str) -> Option<String> {
    if read == written {
        return None;
    }
    let fields = |json| serde_json::from_str::<Fields<'_>>(json).unwrap_or_default();
    let written = fields(written);
    let is_lost = |(field, value): &(String, &RawValue)| {
        let written = written.get(field).map_or("null", |value| value.get());
        match field.as_str() {
            // It was taken apart and put together again.
            "name" => false,
            "mtime" | "atime" | "ctime" => time(value.get()) != time(written),
            _ => value.get() != written && !says_all_of(&parsed(written), &parsed(value.get())),
        }
    };
    fields(read).into_iter().find(is_lost).map(|(field, _)| field)
}

fn time(json: &str) -> Option<FileTime> {
    serde_json::from_str(json).ok()
}

fn parsed(json: &str) -> Value {
    // What cannot be parsed was compared as text and is not the same: it counts as lost.
    serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.into()))
}

fn says_all_of(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            read.iter().all(|(field, value)| says_all_of(written.get(field).unwrap_or(&Value::Null), value))
        }
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len() && written.iter().zip(read).all(|(written, read)| says_all_of(written, read))
        }
        _ => written == read || is_empty(written) && is_empty(read),
    }
}

/// What Go leaves out, and may as well be written.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<&str>) {
        let tree = Tree::from_json(json.as_bytes()).unwrap();
        assert_eq!(first(json.as_bytes(), &tree).as_deref(), expected, "{json}");
    }

    #[test]
    fn another_way_of_writing_loses_nothing() {
        check(r#"{"nodes":[]}"#, None);
        check(r#"{"nodes":null}"#, None);
        check("{}", None);
        let nodes = [
            r#"{"name":"a","type":"file","mtime":"2026-11-20T13:00:00.5+01:00","content":null}"#,
            r#"{"type":"file", "content":[], "name":"b", "size":0, "links":0, "linktarget":"", "subtree":null}"#,
            r#"{"name":"c","type":"file","extended_attributes":[{"name":"user.x","value":null}]}"#,
            r#"{"name":"d","type":"file","user":"\u00e4","new":{"a":1e400},"generic_attributes":{"b":"Pg=="}}"#,
            r#"{"name":"\\u00e9","type":"symlink","mode":134218239,"linktarget":"\u003c"}"#,
        ];
        check(&format!("{{\"nodes\":[{}]}}", nodes.join(",")), None);
    }

    #[test]
    fn what_would_be_lost_is_named() {
        check(r#"{"nodes":[],"version":3}"#, Some("the field \"version\" of the directory"));
        let in_a_node = |field: &str, json: &str| {
            let node = format!(r#"{{"nodes":[{{"name":"x","type":"fifo"}},{{"name":"y",{json}}}]}}"#);
            check(&node, Some(&format!("the field {field:?} of \"y\"")));
        };
        in_a_node("type", r#""type":"door""#);
        in_a_node("mode", r#""type":"file","mode":4096"#);
        in_a_node("mode", r#""type":"file","mode":2147484141"#);
        in_a_node("extended_attributes", r#""type":"file","extended_attributes":[{"name":"user.x","flags":1}]"#);
        in_a_node("linktarget", r#""type":"symlink","linktarget":"kept","linktarget_raw":"b3RoZXI=""#);
    }
}
