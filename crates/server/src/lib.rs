//! levee-server
