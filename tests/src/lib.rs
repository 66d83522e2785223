//! The laboratory.

pub mod frame;
pub mod progrun;
