//! The programs' own crate; the programs themselves are in the binaries.
#![no_std]
