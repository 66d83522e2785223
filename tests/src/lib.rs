//! The laboratory: real WireGuard between a branch with two uplinks and a hub behind both, in network namespaces.
//!
//! | module | what it is |
//! |---|---|
//! | [`host`] | a host: an anonymous pair of namespaces |
//! | [`process`] | processes that never outlive the laboratory |
//! | [`topology`] | hosts and links, drawn on top of it |
//! | [`access`] | the link between a customer and its provider, of several kinds of device |
//! | `wire` | a link without a link-layer header: two tun devices and a thread |
//! | [`concentrator`] | the other topology: a hub with two uplinks, and clients that it learns |
//! | `nat` | a client's router with address translation |
//! | [`wireguard`] | WireGuard at both ends |
//! | [`impair`] | loss, black holes and narrow paths, by a TC program |
//! | [`cut`] | the ways in which an uplink dies |
//! | [`crowd`] | peers that nobody plays |
//! | [`traffic`] | what an application in the tunnel sends, and what became of it |
//! | [`capture`] | which packets pass by a host |
//! | [`trial`] | cut, measure, heal, measure |
//! | [`daemon`] | wgxdp under test |
//! | [`scrape`] | its metrics |
//! | [`audit`] | what is on a host, before and after |
//! | [`xdp`] | XDP programs on its devices |
//! | [`privilege`] | what tests do without root |
//! | [`outlet`], [`inlet`] | frames sent as they are, and frames as they arrive |
//! | [`frame`], [`progrun`], [`fixture`] | frames, BPF_PROG_TEST_RUN on them, and the programs configured for it |
//! | [`bench`] | the benchmarks |
//! | [`starve`] | processors and machines that have no time for anybody |
//! | [`poll`], [`clock`], `cores` | waiting on states, the one clock, and who runs on which core |
//!
//! It needs root, iproute2 and wireguard-tools, and wireguard-go where the kernel has no WireGuard; nothing else, but that one
//! benchmark compares with what uses `ping` and with FRR, if they are there.

pub mod access;
pub mod audit;
pub mod bench;
pub mod capture;
pub mod clock;
pub mod concentrator;
mod cores;
pub mod crowd;
pub mod cut;
pub mod daemon;
pub mod far_end;
pub mod fixture;
pub mod frame;
pub mod host;
pub mod impair;
pub mod inlet;
pub mod masquerade;
mod nat;
pub mod outlet;
mod overflow;
pub mod poll;
pub mod privilege;
pub mod process;
pub mod progrun;
pub mod scrape;
pub mod starve;
pub mod topology;
pub mod traffic;
pub mod trial;
mod wire;
pub mod wireguard;
pub mod xdp;
