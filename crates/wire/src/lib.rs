//! levee-wire
