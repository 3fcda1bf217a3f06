//! What plans say and how runs go, also when everything around them fails.

mod fixture;
mod plans;
mod runs;
mod simulation;
mod world;
