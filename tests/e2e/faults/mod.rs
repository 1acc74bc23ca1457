//! Faults on real packets: what happens, for how long, and who notices. `docs/FAULTS.md` has a line for each.
//!
//! | Module | What breaks |
//! |---|---|
//! | [`process`] | the daemon: killed, stopped, continued, starved |
//! | [`link`] | the interface: carrier, administrator, name, existence, MTU |
//! | [`source`] | the address that advertisements come from |
//! | [`loss`] | the path: loss in one direction, duplicates, reordering, delay, reflection |
//! | [`healing`] | the end of a partition: two masters meet |
//! | [`peers`] | the others: odd sources, other groups, three of them |
//! | [`clock`] | the wall clock |
//! | [`resources`] | scripts, descriptors, the ring, netlink, the send queue |
//! | [`errors`] | system calls that fail |
//! | [`yardstick`] | the same, measured on ucarp and keepalived |
//! | [`scene`] | shared parts of these tests |
//!
//! The tests read from the wire which host is MASTER, from ARP replies to a neighbour which host answers, and from a
//! client's probes whether the address works. carpd's own log does not count here.

mod clock;
mod errors;
mod healing;
mod link;
mod loss;
mod peers;
mod process;
mod resources;
pub mod scene;
mod source;
mod yardstick;
