//! Holds the tests across processes: a server and two agents as users run them, killed at the worst of
//! times. They are in `tests/it/`; there is nothing else here.
