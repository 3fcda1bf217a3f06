mod control;
mod vault;
