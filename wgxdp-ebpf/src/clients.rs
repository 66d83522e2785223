//! Learned clients: noted by `restore` where they speak, answered by `steer` there. What may move whom is in `wgxdp_common::client`.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use wgxdp_common::client::{HandshakeKey, Local, LocalId, SessionKey, Whereabouts};
use wgxdp_common::count::Reason;
use wgxdp_common::message::{Message, SessionIndex};
use wgxdp_common::net::{Address, Port};
use wgxdp_common::table::EndpointKey;

use crate::maps::{ADDRESSES, CLIENTS, HANDSHAKES, LOCALS, SESSIONS, field, read, write};
use crate::packet::Datagram;

/// `steer`: notes the index by which the other side will address us, from our handshake messages.
#[inline(always)]
pub(crate) fn note_session(udp: &Datagram) {
    let [kind, index, _] = udp.opening;
    if kind == Message::Initiation.word() || kind == Message::Response.word() {
        // A full map lets the oldest go; there is nothing else that could fail.
        let _ = SESSIONS.insert(session(SessionIndex(index), udp.source), 0, u64::from(BPF_ANY));
    }
}

#[inline(always)]
const fn session(index: SessionIndex, tunnel: Port) -> SessionKey {
    SessionKey {
        index,
        tunnel,
        reserved: 0,
    }
}

/// `restore`: notes where a message of no configured endpoint came in, as far as it may move anything.
#[inline(always)]
pub(crate) fn hear(key: &EndpointKey, udp: &Datagram, here: Whereabouts) -> Reason {
    let [kind, index, _] = udp.opening;
    let index = SessionIndex(index);
    if kind == Message::Data.word() {
        return hear_data(key, index, here);
    }
    if kind == Message::Initiation.word() {
        let endpoint = *key;
        let _ = HANDSHAKES.insert(HandshakeKey { endpoint, index }, here, u64::from(BPF_ANY));
    }
    Reason::Stranger
}

#[inline(always)]
fn hear_data(key: &EndpointKey, index: SessionIndex, here: Whereabouts) -> Reason {
    if let Some(client) = CLIENTS.get_ptr_mut(key) {
        let was = read(client);
        if was.0 == here.0 {
            return Reason::Client;
        }
        if !was.is_about(key) || !is_ours(index, key.tunnel) {
            return Reason::Stranger;
        }
        write(client, here);
        return Reason::ClientMoved;
    }
    if !is_ours(index, key.tunnel) {
        return Reason::Stranger;
    }
    match CLIENTS.insert(key, here, u64::from(BPF_NOEXIST)) {
        Ok(()) => Reason::ClientLearned,
        // Another CPU was faster.
        Err(_) => Reason::Client,
    }
}

/// Whether this host handed out the index.
#[inline(always)]
fn is_ours(index: SessionIndex, tunnel: Port) -> bool {
    SESSIONS.get_ptr(session(index, tunnel)).is_some()
}

/// `steer`: where to answer somebody without a configured endpoint.
#[inline(always)]
pub(crate) fn whereabouts(key: &EndpointKey, udp: &Datagram) -> Option<Whereabouts> {
    let [kind, first, second] = udp.opening;
    let answers = kind == Message::Response.word() || kind == Message::Cookie.word();
    if answers {
        // The answer to a handshake message bears the index of the other side.
        let index = SessionIndex(if kind == Message::Response.word() {
            second
        } else {
            first
        });
        let endpoint = *key;
        if let Some(heard) = HANDSHAKES.get_ptr(HandshakeKey { endpoint, index }).map(read)
            && heard.is_about(key)
        {
            return Some(heard);
        }
        // Crowded out by strangers: a client that is known is where its data comes from.
    }
    CLIENTS.get_ptr(key).map(read).filter(|entry| entry.is_about(key))
}

/// Which local address this is, if it is one.
#[inline(always)]
pub(crate) fn local_id(address: Address) -> Option<LocalId> {
    LOCALS.get_ptr(address).map(read)
}

/// A local address; `None` if the host has it no more.
#[inline(always)]
pub(crate) fn local(id: LocalId) -> Option<Local> {
    if id.0 == LocalId::NONE.0 {
        return None;
    }
    let local: *mut Local = ADDRESSES.get_ptr_mut(id.0)?;
    let uplink = read(field!(local, uplink));
    if uplink == Local::GONE {
        return None;
    }
    // SAFETY: user space writes an address before anything refers to it, and gives an id to another one as late as possible.
    let address = unsafe { (*local).address };
    Some(Local {
        address,
        uplink,
        reserved: 0,
    })
}
