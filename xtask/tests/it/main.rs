//! The developer commands as they are called.

mod demo;
