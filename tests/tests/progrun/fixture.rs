//! The configured host that the rows are about.

pub(crate) use wgxdp_tests::fixture::*;
