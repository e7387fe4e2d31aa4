//! What users and we test and measure with; nothing below knows it.

pub mod people;
