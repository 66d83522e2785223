//! Tables for BPF_PROG_TEST_RUN on the running kernel: rows of input packet → reason, verdict and exact output packet, for `steer`, `restore` and
//! `guard` and `clamp_mss`, in both address families, with the negatives beside them.

mod clamp;
mod clients;
mod copies;
mod fixture;
mod guard;
mod in_band;
mod registers;
mod restore;
mod rows;
mod size;
mod stamp;
mod steer;
mod stress;
mod tcp;
mod translate;
