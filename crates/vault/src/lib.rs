//! levee-vault
