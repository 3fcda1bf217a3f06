//! levee-testing
