//! A server and two agents as processes, a small shop, and everything that can be killed, cut off or wrong.
//!
//! `LEVEE_E2E_KILLS=50` sets how often a site is lost in the middle of the load, `LEVEE_E2E_SEED` repeats
//! the moments of an earlier run, and `LEVEE_E2E_ALL=1` kills each process at each step of each kind of run, and not only some.

mod applied;
mod assets;
mod away;
mod bandwidth;
mod by_hand;
mod clock;
mod crashed;
mod cut;
mod damaged;
mod disk;
mod drill;
mod faults;
mod first;
mod foreign;
mod further;
mod hanging;
mod hooks;
mod junk_index;
mod kills;
mod last_contact;
mod locked;
mod network;
mod orders;
mod promoted;
mod queue;
mod recovery_hooks;
mod refusals;
mod removed;
mod repository;
mod restored;
mod retention;
mod runs;
mod schedules;
mod secrets;
mod seed;
mod staged;
mod status;
mod strangers;
mod tablespaces;
mod then;
mod traces;
mod undelete;
mod unread;
mod upkeep;
mod without_levee;
mod world;
mod writers;
mod zero_loss;
