//! Tables for BPF_PROG_TEST_RUN on the running kernel: rows of input packet → reason, verdict and exact output packet, for `steer`, `restore` and
//! `clamp_mss`, in both address families, with the negatives beside them.

mod clamp;
mod fixture;
mod restore;
mod rows;
mod size;
mod steer;
