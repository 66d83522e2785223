//! Whose endpoint it is: the look-up in the table of endpoints (`wgxdp_common::endpoints`).

use wgxdp_common::endpoints::{EndpointEntry, WAYS};
use wgxdp_common::table::EndpointKey;

use crate::maps::{BUCKETS, ENDPOINTS, bucket_mask, read};

/// The endpoint, if it is one of a peer's.
#[inline(always)]
pub(crate) fn find(key: &EndpointKey) -> Option<&'static EndpointEntry> {
    // SAFETY: user space writes an entry before a number leads to it, and no more while a program may look at it, but for words that are read one by one.
    place(key).map(|entry| unsafe { &*entry })
}

/// Where the endpoint stands in the table.
#[inline(always)]
pub(crate) fn place(key: &EndpointKey) -> Option<*mut EndpointEntry> {
    let bucket = BUCKETS.get_ptr(key.hash() & bucket_mask())?;
    for way in 0..WAYS {
        // SAFETY: inside the bucket.
        let number = read(unsafe { &raw const (*bucket).0[way] });
        if number == 0 {
            continue;
        }
        let entry: *mut EndpointEntry = ENDPOINTS.get_ptr_mut(number - 1)?;
        // SAFETY: as in `find`.
        if key.is(unsafe { &(*entry).key }) {
            return Some(entry);
        }
    }
    None
}
