//! A stateless session-reflector (RFC 8762, section 4.3) in user space, for far ends that run no daemon.
//!
//! What comes is answered to where it came from, from the address that it came to, at its own size: never more bytes out than in. What is no session-sender's
//! packet is not answered, least of all another reflector's. Nothing is remembered.
//!
//! The kernel takes the time of arrival; that of leaving is taken before the socket. Nobody vouches for this host's clock, and the error estimate says so.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};
use tracing::debug;
use wgxdp_common::stamp::{BASE_LEN, ErrorEstimate, NotSenders, ReflectorPacket, SenderPacket, Timestamp, tlv};

/// No datagram is longer.
const LONGEST: usize = 65535;

/// Why a reflector cannot be.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for STAMP: {source}{}", advice(source))]
pub struct Error {
    listen: SocketAddr,
    source: io::Error,
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrInUse => "; another reflector or daemon has the port, choose another one",
        io::ErrorKind::AddrNotAvailable => "; give an address of this host, or 0.0.0.0 or [::] for all",
        _ => "",
    }
}

/// A reflector at one address; `[::]` is IPv6 alone.
#[derive(Debug)]
pub struct Reflector {
    socket: UdpSocket,
    address: SocketAddr,
}

/// What the kernel says of a datagram.
struct Arrival {
    len: usize,
    from: SockaddrStorage,
    at: Timestamp,
    ttl: u8,
    to: Option<Local>,
}

/// The address that a datagram came to.
#[derive(Clone, Copy)]
enum Local {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Reflector {
    /// Takes the address.
    ///
    /// # Errors
    /// It is not to be had.
    pub fn bind(listen: SocketAddr) -> Result<Self, Error> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, None)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            if listen.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            } else {
                socket.set_only_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            socket.bind(&listen.into())?;
            let socket = UdpSocket::from(socket);
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| Error { listen, source })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever. What goes wrong with one packet is that packet's affair.
    pub fn serve(&self) -> ! {
        let mut buffer = vec![0; LONGEST];
        loop {
            if let Err(e) = self.answer_next(&mut buffer) {
                debug!("not answered: {e}");
            }
        }
    }

    fn answer_next(&self, buffer: &mut [u8]) -> io::Result<()> {
        let arrival = self.receive(buffer)?;
        let datagram = &mut buffer[..arrival.len];
        match reflect(datagram, arrival.ttl, arrival.at, now()) {
            Ok(()) => self.send(datagram, &arrival),
            Err(why) => {
                debug!(
                    "{} bytes from {}: no session-sender's packet ({why:?})",
                    arrival.len, arrival.from
                );
                Ok(())
            }
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Arrival> {
        let mut control = nix::cmsg_space!(TimeSpec, libc::in6_pktinfo, libc::c_int);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let mut arrival = Arrival {
            len: message.bytes,
            from: message.address.ok_or(io::ErrorKind::AddrNotAvailable)?,
            at: now(),
            ttl: 0,
            to: None,
        };
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(at) => arrival.at = timestamp(at.into()),
                ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => arrival.ttl = ttl as u8,
                ControlMessageOwned::Ipv4PacketInfo(info) => arrival.to = Some(Local::V4(info)),
                ControlMessageOwned::Ipv6PacketInfo(info) => arrival.to = Some(Local::V6(info)),
                _ => {}
            }
        }
        Ok(arrival)
    }

    fn send(&self, datagram: &[u8], arrival: &Arrival) -> io::Result<()> {
        let send = |control: &[ControlMessage<'_>]| {
            let (socket, parts) = (self.socket.as_raw_fd(), [IoSlice::new(datagram)]);
            sendmsg(socket, &parts, control, MsgFlags::empty(), Some(&arrival.from))
        };
        // Of the interface only the address is kept: the way back is the routes' to say.
        match arrival.to {
            Some(Local::V4(to)) => send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ..to
            })]),
            Some(Local::V6(to)) => send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_ifindex: 0,
                ..to
            })]),
            None => send(&[]),
        }?;
        Ok(())
    }
}

/// Makes a session-sender's packet the answer to it, in place.
///
/// # Errors
/// It is none; nothing was changed.
fn reflect(datagram: &mut [u8], ttl: u8, received: Timestamp, left: Timestamp) -> Result<(), NotSenders> {
    let packet = SenderPacket::parse(datagram)?;
    let (base, tlvs) = datagram.split_at_mut(BASE_LEN);
    base.copy_from_slice(&ReflectorPacket::answering(packet, ttl, received, left, ErrorEstimate::UNKNOWN).to_bytes());
    tlv::reflect(tlvs);
    Ok(())
}

fn now() -> Timestamp {
    timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// `at`: since 1970. In NTP's format, whatever the sender's is (RFC 8762, section 4.2.1).
fn timestamp(at: Duration) -> Timestamp {
    Timestamp::ntp(at.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECEIVED: Timestamp = Timestamp(7);
    const LEFT: Timestamp = Timestamp(9);

    #[test]
    fn an_answer_repeats_the_sender_and_marks_its_tlvs() {
        let packet = SenderPacket {
            sequence: 5,
            timestamp: Timestamp(0xfeed),
            error: ErrorEstimate::UNKNOWN,
            session: 3,
        };
        let mut datagram = [packet.to_bytes().as_slice(), b"\x80\x01\x00\x02ab\x80\xfc\x00\x00"].concat();
        reflect(&mut datagram, 61, RECEIVED, LEFT).unwrap();
        let expected = ReflectorPacket::answering(packet, 61, RECEIVED, LEFT, ErrorEstimate::UNKNOWN);
        assert_eq!(
            datagram,
            [expected.to_bytes().as_slice(), b"\x00\x01\x00\x02ab\x80\xfc\x00\x00"].concat()
        );
    }

    proptest! {
        #[test]
        fn nothing_is_answered_twice(sequence: u32, time: u64, behind: Vec<u8>, ttl: u8) {
            let packet = SenderPacket { sequence, timestamp: Timestamp(time), error: ErrorEstimate::UNKNOWN, session: 0 };
            let mut datagram = [packet.to_bytes().as_slice(), &behind].concat();
            prop_assert_eq!(reflect(&mut datagram, ttl, RECEIVED, LEFT), Ok(()));
            let answer = datagram.clone();
            prop_assert_eq!(reflect(&mut datagram, ttl, RECEIVED, LEFT), Err(NotSenders::Reflected));
            prop_assert_eq!(datagram, answer);
        }

        #[test]
        fn no_datagram_makes_it_panic(mut junk: Vec<u8>) {
            let before = junk.clone();
            if reflect(&mut junk, 64, RECEIVED, LEFT).is_err() {
                prop_assert_eq!(junk, before);
            }
        }
    }
}
