//! The real process, its system calls and every form of its end. It sends to a receiver inside the test.

mod disk;
mod ends;
mod restored;
mod scene;
mod synced;
mod unit;
