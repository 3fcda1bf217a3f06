//! levee-engine
