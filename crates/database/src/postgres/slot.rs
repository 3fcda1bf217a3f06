//! The replication slot that makes the source keep the log which is not durable elsewhere yet.

use levee_engine::postgres::{ConnectOptions, Connection, quote_literal};
use levee_model::AssetId;
use levee_model::postgres::Lsn;

use crate::{Error, Result};

/// The longest name that PostgreSQL gives a slot.
const NAME_LENGTH_MAX: usize = 63;

/// What the server says about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    pub name: String,
    /// The process that streams from it.
    pub active_pid: Option<i32>,
    /// The log is kept from here on; `None` when the slot reserves nothing, or has lost it.
    pub restart: Option<Lsn>,
    /// How much log is kept for it, in bytes.
    pub held_bytes: u64,
    /// Whether what it reserved is gone (`wal_status = lost`).
    pub is_lost: bool,
    /// How much more may be written before it is in danger, in bytes; `None` without max_slot_wal_keep_size.
    pub safe_bytes: Option<i64>,
    /// Whether the server counts who streams from it among those that a commit waits for; `None` when nobody does.
    pub is_waited_for: Option<bool>,
}

/// How ensuring a slot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    Existed,
    /// Either never there before, or dropped by someone else.
    Created,
}

/// How holding a slot to its bound ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bounded {
    Within(SlotStatus),
    Missing,
    /// It held back too much of the log, and was dropped so that the source's disk does not fill up.
    Dropped {
        held_bytes: u64,
        bound_bytes: u64,
    },
}

/// The slot's name for an asset: `levee_shop_orders`.
///
/// Slot names have fewer characters than ours, so others become `_`; where that, or the length, could make two assets
/// meet in one name, a hash of the asset's own name is at the end.
pub fn name_for(asset: &AssetId) -> String {
    let plain = format!("levee_{}_{}", asset.app, asset.asset);
    let mapped: String =
        plain.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' }).collect();
    if mapped == plain && plain.matches('_').count() == 2 && plain.len() <= NAME_LENGTH_MAX {
        return mapped;
    }
    let sum = crc32c::crc32c(asset.to_string().as_bytes());
    format!("{}_{sum:08x}", &mapped[..mapped.len().min(NAME_LENGTH_MAX - 9)])
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=NAME_LENGTH_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::InvalidSlotName { name: name.chars().take(80).collect() })
    }
}

/// Creates the slot when it is not there; it then holds the log from the last checkpoint on.
pub fn ensure(options: &ConnectOptions, name: &str) -> Result<Ensured> {
    check_name(name)?;
    let mut connection = Connection::connect_replication(options).map_err(Error::engine("connecting for a slot"))?;
    ensure_on(&mut connection, name)
}

pub(crate) fn ensure_on(connection: &mut Connection, name: &str) -> Result<Ensured> {
    const DUPLICATE_OBJECT: &str = "42710";
    const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
    match connection.create_physical_slot(name) {
        Ok(()) => Ok(Ensured::Created),
        Err(error) => match error.sqlstate() {
            Some(DUPLICATE_OBJECT) => Ok(Ensured::Existed),
            Some(CONFIGURATION_LIMIT_EXCEEDED) => Err(Error::AllSlotsInUse { source: error }),
            _ => Err(Error::Engine { doing: "creating a replication slot", source: error }),
        },
    }
}

/// What the server says about the slot; `None` when there is none of that name. Needs a connection for queries.
pub fn status(options: &ConnectOptions, name: &str) -> Result<Option<SlotStatus>> {
    let mut connection = Connection::connect(options).map_err(Error::engine("connecting for a slot"))?;
    status_on(&mut connection, name)
}

pub(crate) fn status_on(connection: &mut Connection, name: &str) -> Result<Option<SlotStatus>> {
    const DOING: &str = "reading a replication slot";
    check_name(name)?;
    let sql = format!(
        "SELECT slot_type, active_pid, restart_lsn, wal_status, safe_wal_size, \
         (SELECT sync_state <> 'async' FROM pg_catalog.pg_stat_replication WHERE pid = active_pid) AS waited_for, \
         greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
         ELSE pg_current_wal_lsn() END, restart_lsn))::bigint AS held \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(name)
    );
    let rows = connection.simple_query(&sql).map_err(Error::engine(DOING))?;
    let Some(row) = rows.first() else { return Ok(None) };
    if row.by_name("slot_type") != Some("physical") {
        return Err(Error::SlotIsLogical { slot: name.into() });
    }
    let is_lost = row.by_name("wal_status") == Some("lost");
    Ok(Some(SlotStatus {
        name: name.into(),
        active_pid: row.by_name("active_pid").and_then(|pid| pid.parse().ok()),
        restart: row.by_name("restart_lsn").and_then(|lsn| lsn.parse().ok()).filter(|_| !is_lost),
        held_bytes: row.by_name("held").and_then(|held| held.parse().ok()).unwrap_or(0),
        is_lost,
        safe_bytes: row.by_name("safe_wal_size").and_then(|size| size.parse().ok()),
        is_waited_for: row.by_name("waited_for").map(|waited_for| waited_for == "t"),
    }))
}

/// Drops the slot, ending whoever streams from it under the same role. A slot that is not there is no error.
pub fn drop(options: &ConnectOptions, name: &str) -> Result<()> {
    const DOING: &str = "dropping a replication slot";
    /// A receiver ends within moments once it is told to; about 5 s in all.
    const ATTEMPTS: u32 = 50;
    let mut connection = Connection::connect(options).map_err(Error::engine("connecting for a slot"))?;
    let mut last_pid = None;
    for _ in 0..ATTEMPTS {
        let Some(status) = status_on(&mut connection, name)? else { return Ok(()) };
        if let Some(pid) = status.active_pid {
            last_pid = Some(pid);
            connection
                .simple_query(&format!("SELECT pg_catalog.pg_terminate_backend({pid})"))
                .map_err(Error::engine(DOING))?;
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        }
        const OBJECT_IN_USE: &str = "55006";
        const UNDEFINED_OBJECT: &str = "42704";
        let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(name));
        match connection.simple_query(&sql) {
            Ok(_) => return Ok(()),
            Err(error) if error.sqlstate() == Some(UNDEFINED_OBJECT) => return Ok(()),
            // Someone came between the question and the drop.
            Err(error) if error.sqlstate() == Some(OBJECT_IN_USE) => {}
            Err(source) => return Err(Error::Engine { doing: DOING, source }),
        }
    }
    let by = last_pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    Err(Error::SlotInUse { slot: name.into(), by })
}

/// Drops the slot when it holds back more than `bound_bytes` of log. Looks by an open connection, since it does so often.
pub fn hold_to_bound(
    connection: &mut Connection,
    options: &ConnectOptions,
    name: &str,
    bound_bytes: u64,
) -> Result<Bounded> {
    let Some(status) = status_on(connection, name)? else { return Ok(Bounded::Missing) };
    let held_bytes = status.held_bytes;
    if held_bytes <= bound_bytes {
        return Ok(Bounded::Within(status));
    }
    drop(options, name)?;
    tracing::error!(slot = name, held_bytes, bound_bytes, "the slot held back too much log and was dropped");
    Ok(Bounded::Dropped { held_bytes, bound_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_asset_has_a_slot_name_of_its_own() {
        let check = |asset: &str, expected: &str| {
            let name = name_for(&asset.parse().unwrap());
            assert!(name.starts_with(expected), "{name}");
            assert!(check_name(&name).is_ok(), "{name}");
            name
        };
        assert_eq!(check("shop/orders", "levee_shop_orders"), "levee_shop_orders");
        assert_ne!(check("a-b/c", "levee_a_b_c_"), check("a.b/c", "levee_a_b_c_"));
        assert_ne!(check("a_b/c", "levee_a_b_c_"), check("a/b_c", "levee_a_b_c_"));
        let long = "x".repeat(60);
        assert_ne!(check(&format!("{long}/{long}"), "levee_x"), check(&format!("{long}/{long}y"), "levee_x"));
    }
}
