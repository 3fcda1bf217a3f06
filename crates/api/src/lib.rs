//! levee-api
