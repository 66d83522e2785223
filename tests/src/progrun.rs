//! BPF_PROG_TEST_RUN: one program, one packet, on the running kernel. aya's own interface cannot ask for CHECKSUM_COMPLETE.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (linux/bpf.h, kernel 6.15): the packet comes with the sum of all behind its link-layer header, and
/// the kernel verifies afterwards that the program kept the two together.
const CHECKSUM_COMPLETE: u32 = 1 << 2;

/// Places of fields in `struct __sk_buff`, all of which are `__u32` (linux/bpf.h).
const SK_BUFF_MARK: usize = 2;
const SK_BUFF_IFINDEX: usize = 10;
const SK_BUFF_GSO_SEGS: usize = 41;
const SK_BUFF_GSO_SIZE: usize = 44;

/// What the program sees besides the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Index of the device; 0 leaves the loopback device.
    pub ifindex: u32,
    /// The fwmark.
    pub mark: u32,
    /// Ask for CHECKSUM_COMPLETE.
    pub checksum_complete: bool,
    /// Of a super-packet: how many packets it stands for, and bytes of UDP payload in each but the last. 0 for others.
    pub gso: (u32, u32),
}

impl Context {
    /// Nothing special, on the loopback device.
    pub const PLAIN: Self = Self {
        ifindex: 0,
        mark: 0,
        checksum_complete: false,
        gso: (0, 0),
    };
    /// Arrives on the loopback device, asked for by its index.
    pub const ON_LOOPBACK: Self = Self {
        ifindex: 1,
        ..Self::PLAIN
    };
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return value.
    pub verdict: i32,
    /// The packet as the program left it.
    pub packet: Vec<u8>,
    /// The mark as the program left it.
    pub mark: u32,
    /// The mean over all repetitions.
    pub duration: Duration,
}

/// Runs a loaded classifier `repeat` times on `packet`. Its changes persist from one repetition to the next.
///
/// # Errors
/// What `bpf(2)` says; EBADMSG when CHECKSUM_COMPLETE was asked for and does not hold afterwards.
pub fn run(program: impl AsFd, packet: &[u8], context: Context, repeat: u32) -> io::Result<Outcome> {
    let mut skb = [0_u32; SK_BUFF_GSO_SIZE + 1];
    skb[SK_BUFF_MARK] = context.mark;
    skb[SK_BUFF_IFINDEX] = context.ifindex;
    (skb[SK_BUFF_GSO_SEGS], skb[SK_BUFF_GSO_SIZE]) = context.gso;
    let mut skb_out = [0_u32; 64];

    // SAFETY: plain integers; the kernel wants unused fields zero.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.ctx_in = (&raw const skb) as u64;
    attr.test.ctx_size_in = size_of_val(&skb) as u32;
    attr.test.ctx_out = (&raw mut skb_out) as u64;
    attr.test.ctx_size_out = size_of_val(&skb_out) as u32;
    if context.checksum_complete {
        attr.test.flags = CHECKSUM_COMPLETE;
    }
    let outcome = test_run(program, packet, repeat, attr)?;
    Ok(Outcome {
        mark: skb_out[SK_BUFF_MARK],
        ..outcome
    })
}

/// The same for an XDP program, on a frame that arrives on the loopback device. A large one comes in several buffers.
///
/// # Errors
/// What `bpf(2)` says.
pub fn run_xdp(program: impl AsFd, frame: &[u8], repeat: u32) -> io::Result<Outcome> {
    // SAFETY: plain integers; the kernel wants unused fields zero.
    let attr: bpf_attr = unsafe { std::mem::zeroed() };
    test_run(program, frame, repeat, attr)
}

/// Runs it with the context that `attr` holds, whose pointers are valid.
fn test_run(program: impl AsFd, packet: &[u8], repeat: u32, mut attr: bpf_attr) -> io::Result<Outcome> {
    let mut output = vec![0; packet.len() + 64];
    attr.test.prog_fd = program.as_fd().as_raw_fd() as u32;
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    attr.test.data_out = output.as_mut_ptr() as u64;
    attr.test.data_size_out = output.len() as u32;
    attr.test.repeat = repeat;
    // SAFETY: every pointer in `attr` is to memory that lives through the call, with its size beside it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled in this member of the union.
    let test = unsafe { attr.test };
    output.truncate(test.data_size_out as usize);
    Ok(Outcome {
        verdict: test.retval as i32,
        packet: output,
        mark: 0,
        duration: Duration::from_nanos(u64::from(test.duration)),
    })
}
