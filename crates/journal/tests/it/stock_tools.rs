use std::fs;
use std::process::{Command, Stdio};

use levee_journal::{Identity, JournalKeys, LogJournal};
use levee_model::postgres::Lsn;

use crate::{SEGMENT, START, files, lineage, log};

/// `age -d -i KEY FILE | zstd -d` is the database's own log file, for each recipient.
#[test]
fn stock_age_and_zstd_give_the_native_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (site, kit) = (Identity::generate(), Identity::generate());
    let keys = JournalKeys { identity: Some(site.clone()), recipients: vec![site.recipient(), kit.recipient()] };
    let journal = LogJournal::open(&dir.path().join("journal"), keys).unwrap();
    let mut writer = journal.writer(lineage(1), START).unwrap();
    for _ in 0..3 * SEGMENT / 100_000 {
        writer.append(writer.end(), &log(writer.end(), 100_000)).unwrap();
        writer.flush().unwrap();
    }
    drop(writer);
    let folder = dir.path().join("journal").join(crate::SYSTEM.to_string()).join("00000001");
    for (number, identity) in [(0, &site), (1, &kit)] {
        let key = dir.path().join("key");
        fs::write(&key, identity.to_file_text().as_bytes()).unwrap();
        let name = files(&dir.path().join("journal")).remove(number);
        let native = Lsn(START.0 + number as u64 * SEGMENT);
        assert!(name.starts_with(&format!("0000000100000000000000{:02}.", 3 + number)), "{name}");
        let mut age = Command::new("age")
            .arg("-d")
            .arg("-i")
            .arg(&key)
            .arg(folder.join(&name))
            .stdout(Stdio::piped())
            .spawn()
            .expect("stock age is needed: apt-get install age zstd");
        let zstd = Command::new("zstd").arg("-dc").stdin(age.stdout.take().unwrap()).output().unwrap();
        assert!(age.wait().unwrap().success() && zstd.status.success(), "{}", String::from_utf8_lossy(&zstd.stderr));
        assert!(zstd.stdout == log(native, SEGMENT as usize));
    }
}

#[test]
fn an_identity_file_is_one_that_age_keygen_understands() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let key = dir.path().join("key");
    fs::write(&key, identity.to_file_text().as_bytes()).unwrap();
    let output = Command::new("age-keygen").arg("-y").arg(&key).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), identity.recipient().to_string());
    let made = Command::new("age-keygen").output().unwrap();
    Identity::from_file_text(&String::from_utf8(made.stdout).unwrap()).unwrap();
}
