//! Tables for BPF_PROG_TEST_RUN on the running kernel: rows of input packet → reason, verdict and exact output packet, for `steer` and `restore`,
//! in both address families, with the negatives beside them.

mod clients;
mod fixture;
mod restore;
mod rows;
mod size;
mod steer;
mod stress;
mod translate;
