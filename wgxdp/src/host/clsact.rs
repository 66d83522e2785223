//! The clsact qdisc, which kernels before 6.6 need for programs at TC ingress and egress. Attaching adds it; here it is removed again.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::Result;
use super::netlink::Netlink;

/// `TC_H_CLSACT` and its two hooks (linux/pkt_sched.h).
const CLSACT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff1,
};
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff2,
};
const EGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff3,
};

/// Removes the qdisc from the device unless somebody has a filter there; whether it is gone. A device that is gone, too, is fine.
///
/// # Errors
/// What the kernel refused.
pub async fn remove_if_unused(netlink: &Netlink, index: u32) -> Result<bool> {
    for hook in [INGRESS, EGRESS] {
        if has_filters(netlink, index, hook).await? {
            return Ok(false);
        }
    }
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = CLSACT;
    message.header.handle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    let action = format!("remove the clsact qdisc of device {index}");
    match netlink
        .change(&action, RouteNetlinkMessage::DelQueueDiscipline(message), 0)
        .await
    {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(true),
        Err(e) => Err(e),
    }
}

async fn has_filters(netlink: &Netlink, index: u32, hook: TcHandle) -> Result<bool> {
    let mut request = TcMessage::with_index(index as i32);
    request.header.parent = hook;
    let found = netlink.dump(
        "list TC filters",
        RouteNetlinkMessage::GetTrafficFilter(request),
        |message| match message {
            RouteNetlinkMessage::NewTrafficFilter(message) => Some(message.header.index),
            _ => None,
        },
    );
    match found.await {
        Ok(found) => Ok(!found.is_empty()),
        Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(false),
        Err(e) => Err(e),
    }
}
