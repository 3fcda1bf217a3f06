use levee_journal::{Error, Identity};
use levee_model::Epoch;
use levee_model::postgres::Lsn;

use crate::{START, SYSTEM, TIMELINE, check_log, lineage, log, open};

#[test]
fn sealing_ends_older_writers_even_in_the_middle_of_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate();
    let journal = open(dir.path(), &identity);
    let mut writer = journal.writer(lineage(1), START).unwrap();
    writer.append(START, &log(START, 1000)).unwrap();
    let end = writer.flush().unwrap();
    writer.append(end, &log(end, 1000)).unwrap();
    // Another handle, as another process has.
    open(dir.path(), &identity).seal(Epoch(2)).unwrap();
    let error = writer.flush().unwrap_err();
    assert!(matches!(error, Error::StaleEpoch { epoch: Epoch(1), sealed: Epoch(2) }), "{error}");
    assert!(matches!(writer.flush(), Err(Error::WriterFailed)));
    drop(writer);
    assert_eq!(journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end, end);
    assert!(matches!(journal.writer(lineage(1), START), Err(Error::StaleEpoch { .. })));
    assert!(matches!(journal.seal(Epoch(1)), Err(Error::StaleEpoch { .. })));
    journal.seal(Epoch(2)).unwrap();
    assert_eq!(journal.epoch().unwrap(), Epoch(2));

    let mut writer = journal.writer(lineage(3), START).unwrap();
    assert_eq!(journal.epoch().unwrap(), Epoch(3), "a newer writer seals by coming");
    writer.append(end, &log(end, 1000)).unwrap();
    writer.flush().unwrap();
    drop(writer);
    check_log(&journal, START, Lsn(end.0 + 1000));
}

#[test]
fn what_is_acknowledged_while_sealing_is_in_the_sealed_point() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::generate();
        let journal = open(dir.path(), &identity);
        let mut writer = journal.writer(lineage(1), START).unwrap();
        let (acknowledged, point) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut acknowledged = START;
                loop {
                    writer.append(writer.end(), &log(writer.end(), 333)).unwrap();
                    match writer.flush() {
                        Ok(end) => acknowledged = end,
                        Err(Error::StaleEpoch { .. }) => return acknowledged,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(5));
            journal.seal(Epoch(2)).unwrap();
            let point = journal.extent(SYSTEM, TIMELINE).unwrap().unwrap().durable_end;
            (writing.join().unwrap(), point)
        });
        assert_eq!(acknowledged, point);
    }
}
