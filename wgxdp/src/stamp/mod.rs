//! STAMP (RFC 8762) as far as it is user space's business. What goes over the wire is in `wgxdp_common::stamp`.

pub mod key;
pub mod reflect;
