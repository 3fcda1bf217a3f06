//! Where snapshots appear: directories made of templates.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::time_template::strftime_of;
use crate::{Snapshot, SnapshotId};

/// As restic has them.
pub const DEFAULT_TEMPLATES: [&str; 4] = ["ids/%i", "snapshots/%T", "hosts/%h/%T", "tags/%t/%T"];

/// As restic shows times: RFC 3339 in this machine's time zone.
pub const DEFAULT_TIME_TEMPLATE: &str = "2006-01-02T15:04:05Z07:00";
/// The link to the newest snapshot of a directory.
const LATEST: &str = "latest";

/// Something in a directory above the snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Directory,
    Snapshot(SnapshotId),
    /// A link to a neighbour.
    Link(String),
}

/// The directories above the snapshots, by path; the root is `""`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    directories: BTreeMap<String, BTreeMap<String, Place>>,
}

impl Layout {
    /// `snapshots` are in the order of their times.
    pub fn new(
        snapshots: &[(SnapshotId, Snapshot)],
        templates: &[String],
        time_template: &str,
        zone: &TimeZone,
    ) -> Self {
        let time_format = strftime_of(time_template);
        let mut layout = Self::default();
        layout.directories.insert(String::new(), BTreeMap::new());
        for template in templates {
            // The directories of a template are there although nothing is in them.
            let fixed: Vec<&str> = template.split('/').take_while(|part| !part.contains('%')).collect();
            layout.make_directory(&fixed.join("/"));
            for (id, snapshot) in snapshots {
                for path in paths_of(template, id, snapshot, &time_format, zone) {
                    layout.add(&path, *id, template.ends_with("%T"));
                }
            }
        }
        layout
    }

    pub fn directory(&self, path: &str) -> Option<&BTreeMap<String, Place>> {
        self.directories.get(path)
    }

    fn make_directory(&mut self, path: &str) {
        self.directories.entry(path.into()).or_default();
        if let Some((parent, name)) = split(path) {
            self.make_directory(parent);
            if let Some(parent) = self.directories.get_mut(parent) {
                parent.entry(name.into()).or_insert(Place::Directory);
            }
        }
    }

    fn add(&mut self, path: &str, id: SnapshotId, has_latest: bool) {
        let Some((parent, name)) = split(path) else { return };
        self.make_directory(parent);
        let Some(directory) = self.directories.get_mut(parent) else { return };
        // Several of one second are told apart by a number.
        let mut unique = name.to_string();
        let mut number = 0;
        while directory.contains_key(&unique) {
            number += 1;
            unique = format!("{name}-{number}");
        }
        directory.insert(unique.clone(), Place::Snapshot(id));
        if has_latest {
            directory.insert(LATEST.into(), Place::Link(unique));
        }
    }
}

/// The directory and the name of a path; `None` for the root.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() {
        return None;
    }
    Some(path.rsplit_once('/').unwrap_or(("", path)))
}

/// Everything a template makes of a snapshot: one path, or one for each tag.
fn paths_of(template: &str, id: &SnapshotId, snapshot: &Snapshot, time_format: &str, zone: &TimeZone) -> Vec<String> {
    let tags: Vec<&str> = match (template.contains("%t"), snapshot.tags.is_empty()) {
        (true, true) => return Vec::new(),
        (true, false) => snapshot.tags.iter().map(String::as_str).collect(),
        (false, _) => vec![""],
    };
    let time = snapshot.time.to_zoned(zone.clone()).strftime(time_format).to_string();
    let (short, long) = (id.short(), id.to_string());
    let fill = |tag: &str| -> String {
        let mut path = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('%') {
            path.push_str(before);
            let mut letters = after.chars();
            match letters.next() {
                Some('i') => path.push_str(&short),
                Some('I') => path.push_str(&long),
                Some('u') => path.push_str(&as_name(&snapshot.username)),
                Some('h') => path.push_str(&as_name(&snapshot.hostname)),
                Some('t') => path.push_str(&as_name(tag)),
                Some('T') => path.push_str(&time),
                Some(other) => path.extend(['%', other]),
                None => path.push('%'),
            }
            rest = letters.as_str();
        }
        path.push_str(rest);
        path.trim_matches('/').to_string()
    };
    tags.into_iter().map(fill).collect()
}

/// A snapshot's own words must not lead elsewhere.
fn as_name(text: &str) -> String {
    match text {
        "" | "." | ".." => "_".into(),
        text => text.replace(['/', '\0'], "_"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;

    fn snapshot(number: u8, host: &str, time: &str, tags: &[&str]) -> (SnapshotId, Snapshot) {
        let json = format!("{{\"time\":\"{time}\",\"tree\":null,\"paths\":[],\"hostname\":\"{host}\"}}");
        let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
        let tags = tags.iter().map(|tag| tag.to_string()).collect();
        (SnapshotId(Id::from_bytes([number; 32])), Snapshot { tags, ..snapshot })
    }

    #[test]
    fn snapshots_appear_in_each_place() {
        let snapshots = [
            snapshot(1, "a", "2026-11-20T12:00:00Z", &["x", "y"]),
            snapshot(2, "a", "2026-11-20T12:00:00.5Z", &[]),
            snapshot(3, "../b", "2026-11-21T12:00:00Z", &[".."]),
        ];
        let templates = DEFAULT_TEMPLATES.map(String::from);
        let layout = Layout::new(&snapshots, &templates, DEFAULT_TIME_TEMPLATE, &TimeZone::UTC);
        let check = |path: &str, expected: &str| {
            let names: Vec<_> = layout.directory(path).unwrap().keys().map(String::as_str).collect();
            assert_eq!(names.join(" "), expected, "{path}");
        };
        let first = "2026-11-20T12:00:00+00:00";
        let last = "2026-11-21T12:00:00+00:00";
        check("", "hosts ids snapshots tags");
        check("ids", "01010101 02020202 03030303");
        check("snapshots", &format!("{first} {first}-1 {last} latest"));
        check("hosts", ".._b a");
        check("hosts/a", &format!("{first} {first}-1 latest"));
        check("tags", "_ x y");
        let latest = &layout.directory("snapshots").unwrap()["latest"];
        assert_eq!(*latest, Place::Link(last.into()));
        assert_eq!(layout.directory("ids").unwrap()["02020202"], Place::Snapshot(snapshots[1].0));
        let by_year = Layout::new(&snapshots, &["by/%T".to_string()], "2006/01/02", &TimeZone::UTC);
        let names: Vec<_> = by_year.directory("by/2026/11").unwrap().keys().map(String::as_str).collect();
        assert_eq!(names.join(" "), "20 20-1 21 latest");
        let empty = Layout::new(&[], &templates, DEFAULT_TIME_TEMPLATE, &TimeZone::UTC);
        assert_eq!(empty.directory("").unwrap().len(), 4);
        assert!(empty.directory("tags").unwrap().is_empty());
    }
}
