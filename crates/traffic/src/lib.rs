//! levee-traffic
