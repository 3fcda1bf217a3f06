//! The shop's folder: some 10,000 real files that keep changing, with a ledger of the changes.
//!
//! A change is first written to the folder and then entered in the shop's database; when that is
//! committed, the change counts as acknowledged. So the folder's writer stops with the database, as an
//! application does that keeps files and rows together.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::dns::Resolver;
use super::ledger::{Entry, Ledger};
use levee_testing::postgres::Session;

const FILE_BYTES_MAX: u64 = 64 << 10;
const PAUSE_BETWEEN_CHANGES: Duration = Duration::from_millis(20);
const PAUSE_WHILE_AWAY: Duration = Duration::from_millis(100);
/// One change of this many makes a new file; the others rewrite one that is there.
const NEW_FILE_EVERY: u64 = 5;

/// A file that is always there, for the protection file's probe.
pub const CATALOGUE: &str = "catalogue.txt";

/// Where the ledgers of the folder lie. One writer at a time appends to them.
#[derive(Clone, Debug)]
pub struct DocumentLedgers {
    /// Changes that were acknowledged.
    pub acknowledged: PathBuf,
    /// Changes that were begun: what is found in the folder may be one of these.
    pub begun: PathBuf,
}

impl DocumentLedgers {
    pub fn below(folder: &Path) -> DocumentLedgers {
        DocumentLedgers {
            acknowledged: folder.join("documents-acknowledged.tsv"),
            begun: folder.join("documents-begun.tsv"),
        }
    }

    /// Every change that was acknowledged so far.
    pub fn read(&self) -> Result<Vec<Entry>> {
        Ledger::read(&self.acknowledged).context("cannot read the ledger of documents")
    }
}

/// Copies real files of this machine into `folder` and enters them in the ledgers. Returns how many.
pub fn fill(folder: &Path, files_max: usize, ledgers: &DocumentLedgers) -> Result<usize> {
    let mut sources = Vec::new();
    collect(Path::new("/usr/share"), files_max, &mut sources);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join(CATALOGUE), "what the shop sells\n").context("cannot write the catalogue")?;
    let mut entries = vec![entry(1, CATALOGUE, b"what the shop sells\n")];
    for source in sources {
        let relative = source.strip_prefix("/usr/share").unwrap_or(&source);
        // The ledger's lines are divided by tabs and line ends.
        let Some(name) = relative.to_str().filter(|name| !name.contains(['\t', '\n'])) else { continue };
        let Ok(content) = fs::read(&source) else { continue };
        let target = folder.join(relative);
        let parent = target.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&target, &content).with_context(|| format!("cannot write {}", target.display()))?;
        entries.push(entry(entries.len() as u64 + 1, name, &content));
    }
    for path in [&ledgers.begun, &ledgers.acknowledged] {
        let mut ledger = Ledger::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        ledger.append_all(&entries).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(entries.len())
}

fn collect(folder: &Path, files_max: usize, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        if found.len() >= files_max {
            return;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            collect(&entry.path(), files_max, found);
        } else if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX {
            found.push(entry.path());
        }
    }
}

fn entry(number: u64, path: &str, content: &[u8]) -> Entry {
    Entry { number, at: Timestamp::now(), fields: vec![path.into(), hex(content)] }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of the shop that changes the folder at one site, while the shop's name leads to that site.
pub struct DocumentWriter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where a writer works.
pub struct Workplace {
    pub folder: PathBuf,
    pub address: IpAddr,
    /// The database's port; `None` when the demo runs without a database.
    pub database_port: Option<u16>,
}

impl DocumentWriter {
    pub fn start(place: Workplace, resolver: Resolver, ledgers: &DocumentLedgers) -> Result<DocumentWriter> {
        let paths: Vec<String> =
            ledgers.read()?.into_iter().filter_map(|entry| entry.fields.into_iter().next()).collect();
        let mut writer = Writer {
            next: Ledger::read(&ledgers.begun).context("cannot read the ledger of documents")?.len() as u64 + 1,
            paths,
            place,
            resolver,
            session: None,
            acknowledged: Ledger::create(&ledgers.acknowledged).context("cannot open the ledger of documents")?,
            begun: Ledger::create(&ledgers.begun).context("cannot open the ledger of documents")?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let told_to_stop = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told_to_stop.load(Ordering::Relaxed) {
                let pause = match writer.change_one() {
                    Ok(()) => PAUSE_BETWEEN_CHANGES,
                    Err(_) => {
                        writer.session = None;
                        PAUSE_WHILE_AWAY
                    }
                };
                std::thread::sleep(pause);
            }
        });
        Ok(DocumentWriter { stop, thread: Some(thread) })
    }
}

impl Drop for DocumentWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

struct Writer {
    next: u64,
    paths: Vec<String>,
    place: Workplace,
    resolver: Resolver,
    session: Option<Session>,
    acknowledged: Ledger,
    begun: Ledger,
}

impl Writer {
    fn change_one(&mut self) -> io::Result<()> {
        if self.resolver.resolve()? != self.place.address {
            return Err(io::Error::other("the shop is at the other site"));
        }
        if let Some(port) = self.place.database_port {
            let address = SocketAddr::new(self.place.address, port);
            let session = match &mut self.session {
                Some(session) => session,
                None => self.session.insert(Session::open(address, "shop", "shop")?),
            };
            session.query("select 1")?;
        }
        let number = self.next;
        self.next += 1;
        let path = if number.is_multiple_of(NEW_FILE_EVERY) || self.paths.is_empty() {
            format!("new/{}/{number}.txt", number % 100)
        } else {
            // Spreads over the folder, the same way in every run.
            self.paths[(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) as usize % self.paths.len()].clone()
        };
        if path == CATALOGUE {
            return Ok(());
        }
        let content =
            format!("change {number} at {}\n{}", Timestamp::now(), "so it goes\n".repeat((number % 400) as usize));
        let entry = entry(number, &path, content.as_bytes());
        self.begun.append(&entry)?;
        self.replace(&path, content.as_bytes())?;
        if let Some(session) = &mut self.session {
            let hash = &entry.fields[1];
            let sql = format!(
                "insert into document_changes (number, path, hash) values ({number}, '{}', '{hash}')",
                path.replace('\'', "''")
            );
            session.commit(&sql)?;
        }
        if number.is_multiple_of(NEW_FILE_EVERY) {
            self.paths.push(path);
        }
        self.acknowledged.append(&Entry { at: Timestamp::now(), ..entry })
    }

    /// Puts a new content in the place of an old one, so that a reader sees either.
    fn replace(&self, path: &str, content: &[u8]) -> io::Result<()> {
        // First, so that a folder that is gone is not made again.
        let fresh = self.place.folder.join(".being-written");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(content)?;
        let target = self.place.folder.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&fresh, target)
    }
}

/// What a move of the shop has done to the folder.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentLoss {
    /// Acknowledged changes that are not there, nor a later one of the same file.
    pub lost: Vec<Entry>,
    /// When the newest change was acknowledged before which none is lost.
    pub complete_until: Option<Timestamp>,
}

impl DocumentLoss {
    /// How many files have a lost change.
    pub fn files(&self) -> u64 {
        let paths: HashSet<&String> = self.lost.iter().filter_map(|entry| entry.fields.first()).collect();
        paths.len() as u64
    }
}

/// Holds a folder against the changes that were acknowledged.
pub fn compare(acknowledged: &[Entry], ledgers: &DocumentLedgers, folder: &Path) -> Result<DocumentLoss> {
    let begun = Ledger::read(&ledgers.begun).context("cannot read the ledger of documents")?;
    let mut versions: HashMap<(&str, &str), u64> = HashMap::new();
    for entry in &begun {
        if let [path, hash] = entry.fields.as_slice() {
            versions.insert((path, hash), entry.number);
        }
    }
    let mut present: HashMap<&str, Option<u64>> = HashMap::new();
    for entry in acknowledged {
        let Some(path) = entry.fields.first() else { continue };
        present.entry(path).or_insert_with(|| {
            let content = fs::read(folder.join(path)).ok()?;
            versions.get(&(path.as_str(), hex(&content).as_str())).copied()
        });
    }
    Ok(loss(acknowledged, &present))
}

fn loss(acknowledged: &[Entry], present: &HashMap<&str, Option<u64>>) -> DocumentLoss {
    let is_lost = |entry: &&Entry| {
        let found = entry.fields.first().and_then(|path| present.get(path.as_str()).copied().flatten());
        found.is_none_or(|number| number < entry.number)
    };
    let lost = acknowledged.iter().filter(is_lost).cloned().collect();
    let complete_until = acknowledged.iter().take_while(|entry| !is_lost(entry)).last().map(|entry| entry.at);
    DocumentLoss { lost, complete_until }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_changes_are_counted_by_path() {
        let at = |second: u64| Timestamp::from_second(second as i64).unwrap();
        let entries: Vec<Entry> = [(1, "a"), (2, "b"), (3, "a"), (4, "c")]
            .map(|(number, path)| Entry { number, at: at(number), fields: vec![path.into(), "hash".into()] })
            .into();
        let check = |present: &[(&str, Option<u64>)], lost: &[u64], complete_until: Option<u64>| {
            let found = loss(&entries, &present.iter().copied().collect());
            assert_eq!(found.lost.iter().map(|entry| entry.number).collect::<Vec<_>>(), lost);
            assert_eq!(found.complete_until, complete_until.map(at));
        };
        check(&[("a", Some(3)), ("b", Some(7)), ("c", Some(4))], &[], Some(4));
        check(&[("a", Some(1)), ("b", Some(2)), ("c", None)], &[3, 4], Some(2));
        check(&[("b", Some(2))], &[1, 3, 4], None);
        let lost = DocumentLoss { lost: vec![entries[0].clone(), entries[2].clone()], complete_until: None };
        assert_eq!(lost.files(), 1);
    }

    #[test]
    fn a_folder_is_filled_changed_and_compared() {
        let home = tempfile::tempdir().unwrap();
        let (folder, ledgers) = (home.path().join("documents"), DocumentLedgers::below(home.path()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a"), "old").unwrap();
        let first = entry(1, "a", b"old");
        for path in [&ledgers.begun, &ledgers.acknowledged] {
            Ledger::create(path).unwrap().append(&first).unwrap();
        }
        let find = || compare(&ledgers.read().unwrap(), &ledgers, &folder).unwrap();
        assert_eq!(find().lost, []);
        fs::write(folder.join("a"), "something else").unwrap();
        assert_eq!(find().lost, [first]);
    }
}
