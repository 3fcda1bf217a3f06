mod control;
mod database;
mod vault;
