//! levee-database
