//! levee-agent
