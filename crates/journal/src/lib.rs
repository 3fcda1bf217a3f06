//! levee-journal
