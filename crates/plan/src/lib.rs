//! levee-plan
