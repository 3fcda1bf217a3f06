//! What a site has at a moment: processes, sockets and files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use levee_testing::process::processes_under;
use levee_testing::wait::poll;

use super::world::{PATIENCE, Site, World};

/// Where data arrive all the time.
const ARRIVING: [&str; 2] = ["repository", "journal"];

/// What comes with the first drill and is no trace of it: the agent's memory of how commands ended, and the
/// folder for all drills, which must be empty.
pub const KEPT_BY_DRILLS: [&str; 2] = ["agent/answers.json", "agent/apps/shop/runs"];

/// Everything at a site that a drill could leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    processes: BTreeSet<String>,
    listeners: BTreeSet<String>,
    sockets: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Traces {
    pub fn of(world: &World, site: Site) -> Traces {
        let folder = world.folder(site);
        let processes = processes_under(&folder);
        let inodes: BTreeSet<String> = processes.iter().flat_map(|(pid, _)| socket_inodes(*pid)).collect();
        let mut files = BTreeSet::new();
        list(&folder, &folder, &mut files);
        Traces {
            processes: processes.into_iter().map(|(_, command_line)| command_line).collect(),
            listeners: ["tcp", "tcp6"].into_iter().flat_map(|table| listeners(table, &inodes)).collect(),
            sockets: unix_sockets(&folder),
            files,
        }
    }

    /// Waits until a site has nothing that it did not have before, but for what may stay. Files that are being written
    /// have other names for a moment.
    #[track_caller]
    pub fn check_nothing_left(world: &World, site: Site, before: &Traces, may_stay: &[&str]) {
        let mut left = Vec::new();
        let is_clean = poll(PATIENCE / 6, || {
            left = Traces::of(world, site).beyond(before);
            left.retain(|trace| !may_stay.contains(&trace.as_str()));
            left.is_empty().then_some(())
        });
        assert!(is_clean.is_some(), "{left:#?} was left\n{}", world.log_tails());
    }

    /// What is here and was not there before.
    fn beyond(&self, before: &Traces) -> Vec<String> {
        let parts = [
            (&self.processes, &before.processes),
            (&self.listeners, &before.listeners),
            (&self.sockets, &before.sockets),
            (&self.files, &before.files),
        ];
        parts.into_iter().flat_map(|(now, before)| now.difference(before).cloned()).collect()
    }
}

fn socket_inodes(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode =
        |link: std::path::PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string());
    descriptors.filter_map(|descriptor| inode(fs::read_link(descriptor.path()).ok()?)).collect()
}

/// Local addresses on which one of these sockets listens. The table's columns: proc(5).
fn listeners(table: &str, inodes: &BTreeSet<String>) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_ours = *fields.get(3)? == "0A" && inodes.contains(*fields.get(9)?);
        is_ours.then(|| format!("{table} {}", fields[1]))
    };
    text.lines().skip(1).filter_map(listener).collect()
}

fn unix_sockets(folder: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.split_whitespace().nth(7));
    paths.filter(|path| Path::new(path).starts_with(folder)).map(str::to_string).collect()
}

fn list(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // What the agent notes while it looks after the copies comes when it comes.
        if entry.file_name() == "upkeep" {
            continue;
        }
        let path = entry.path();
        files.insert(path.strip_prefix(root).unwrap_or(&path).display().to_string());
        let is_arriving = ARRIVING.iter().any(|name| entry.file_name() == *name);
        if !is_arriving && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(root, &path, files);
        }
    }
}
