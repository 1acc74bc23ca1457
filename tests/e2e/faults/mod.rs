//! Faults on real packets: what happens, for how long, and who sees it. `docs/FAULTS.md` has a line for each.
//!
//! | Module | What breaks |
//! |---|---|
//! | [`process`] | the daemon: killed, stopped, continued, starved |
//! | [`link`] | the interface: carrier, administrator, name, existence, MTU |
//! | [`source`] | the address that advertisements come from |
//! | [`loss`] | the way: loss in one direction, duplicates, disorder, delay, reflection |
//! | [`healing`] | nothing any more: two masters meet |
//! | [`peers`] | the others: odd sources, other groups, three of them |
//! | [`clock`] | the wall clock |
//! | [`resources`] | scripts, descriptors, the ring, netlink, the sending queue |
//! | [`errors`] | system calls that fail |
//! | [`yardstick`] | the same for ucarp and keepalived, measured |
//! | [`scene`] | what these tests share |
//!
//! That somebody is MASTER is read from the wire, that somebody answers from ARP replies to a neighbour, that the
//! address works from a client's probes; carpd's own log counts for nothing here.

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
