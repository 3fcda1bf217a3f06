//! The rows that clients write while something is killed.

use std::time::Duration;

use levee_testing::rows::Load;

pub const TABLE: &str = "create table numbers (number bigint primary key)";
/// As fast as they can.
pub const LOAD: Load =
    Load { user: "postgres", database: "postgres", table: "numbers", clients: 3, pause: Duration::ZERO };
