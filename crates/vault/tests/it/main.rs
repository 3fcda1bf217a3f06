//! Behaviour of whole repositories, with stock restic as the judge.

mod backing_up;
mod checking;
mod faults;
mod interop;
mod opening;
mod restoring;
mod streaming;
mod support;
