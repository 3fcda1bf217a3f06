//! What a client was promised, on its own disk and by its own clock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;

/// Lines that are durable when `append` returns: a number, a moment, and what it was.
pub struct Ledger {
    file: File,
}

/// One line of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub number: u64,
    pub at: Timestamp,
    pub fields: Vec<String>,
}

impl Ledger {
    pub fn create(path: &Path) -> io::Result<Ledger> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Ledger { file })
    }

    /// Writes one entry, durably.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// Writes entries, durable as a whole.
    pub fn append_all(&mut self, entries: &[Entry]) -> io::Result<()> {
        let text: String = entries
            .iter()
            .map(|entry| format!("{}\t{}\t{}\n", entry.number, entry.at, entry.fields.join("\t")))
            .collect();
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }

    /// Everything in a ledger. A last line without its end was never promised to anybody.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let text = fs::read_to_string(path)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            let mut fields = line.split('\t').map(str::to_string);
            let number = fields.next()?.parse().ok()?;
            let at = fields.next()?.parse().ok()?;
            Some(Entry { number, at, fields: fields.collect() })
        };
        whole
            .lines()
            .map(|line| {
                let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("no ledger's line: {line:?}"));
                parse(line).ok_or_else(broken)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = Ledger::create(&path).unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), []);
        let entry = |number| Entry { number, at: Timestamp::UNIX_EPOCH, fields: vec!["a".into(), "b c".into()] };
        ledger.append(&entry(1)).unwrap();
        ledger.append_all(&[entry(2), entry(3)]).unwrap();
        ledger.file.write_all(b"4\t197").unwrap();
        assert_eq!(Ledger::read(&path).unwrap(), [entry(1), entry(2), entry(3)]);
    }
}
