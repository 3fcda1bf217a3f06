use levee_database::Error;
use levee_database::postgres::slot::{self, Bounded, Ensured};
use levee_engine::postgres::Connection;
use levee_testing::postgres::Cluster;

use crate::options;

#[test]
fn a_slot_is_made_seen_and_dropped() {
    let cluster = Cluster::builder().start();
    let options = options(&cluster);
    let mut connection = Connection::connect(&options).unwrap();
    assert_eq!(slot::status(&options, "s").unwrap(), None);
    assert_eq!(slot::ensure(&options, "s").unwrap(), Ensured::Created);
    assert_eq!(slot::ensure(&options, "s").unwrap(), Ensured::Existed);
    let status = slot::status(&options, "s").unwrap().unwrap();
    assert!(status.restart.is_some() && status.active_pid.is_none() && !status.is_lost, "{status:?}");
    for _ in 0..3 {
        cluster.psql("create table if not exists t (a int); insert into t values (1)");
        cluster.switch_wal();
    }
    let held = slot::status(&options, "s").unwrap().unwrap().held_bytes;
    assert!(held > 32 << 20, "{held}");
    let within = slot::hold_to_bound(&mut connection, &options, "s", 1 << 30).unwrap();
    assert!(matches!(&within, Bounded::Within(status) if status.held_bytes == held), "{within:?}");
    assert!(matches!(slot::hold_to_bound(&mut connection, &options, "s", 1 << 20).unwrap(), Bounded::Dropped { .. }));
    assert_eq!(slot::hold_to_bound(&mut connection, &options, "s", 1 << 20).unwrap(), Bounded::Missing);
    slot::drop(&options, "s").unwrap();
}

#[test]
fn slots_that_can_not_be_used_are_told() {
    let cluster = Cluster::builder().setting("max_replication_slots", "1").setting("wal_level", "logical").start();
    let options = options(&cluster);
    assert!(matches!(slot::ensure(&options, "Bad Name"), Err(Error::InvalidSlotName { .. })));
    cluster.psql("select pg_create_logical_replication_slot('l', 'test_decoding')");
    assert!(matches!(slot::status(&options, "l"), Err(Error::SlotIsLogical { .. })));
    assert!(matches!(slot::ensure(&options, "s"), Err(Error::AllSlotsInUse { .. })));
}
