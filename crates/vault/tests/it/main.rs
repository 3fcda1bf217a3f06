//! Behaviour of whole repositories, with stock restic as the judge.

mod archives;
mod backing_up;
mod breaking;
mod caching;
mod chaos;
mod checking;
mod copying;
mod faults;
mod faults_of_removal;
mod forgetting;
mod full_store;
mod hard_files;
mod hard_repository;
mod interop;
mod late_listing;
mod opening;
mod pruning;
mod repairing;
mod rereading;
mod restore_options;
mod restoring;
mod streaming;
mod support;
mod suspecting;
mod transporting;
mod undeleting;
