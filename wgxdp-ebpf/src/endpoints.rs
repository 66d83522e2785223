//! Whose endpoint it is: the look-up in the table of endpoints (`wgxdp_common::endpoints`).

use wgxdp_common::endpoints::{EndpointEntry, WAYS};
use wgxdp_common::table::EndpointKey;

use crate::maps::{BUCKETS, ENDPOINTS, bucket_mask, read};

/// The endpoint, if it is a configured one.
#[inline(always)]
pub(crate) fn find(key: &EndpointKey) -> Option<&'static EndpointEntry> {
    let bucket = BUCKETS.get_ptr(key.hash() & bucket_mask())?;
    for way in 0..WAYS {
        // SAFETY: inside the bucket.
        let number = read(unsafe { &raw const (*bucket).0[way] });
        if number == 0 {
            continue;
        }
        let entry: *const EndpointEntry = ENDPOINTS.get_ptr(number - 1)?;
        // SAFETY: user space writes an entry before a number leads to it, and no more while a program may look at it.
        let entry = unsafe { &*entry };
        if key.is(&entry.key) {
            return Some(entry);
        }
    }
    None
}
