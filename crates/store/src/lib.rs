//! levee-store
