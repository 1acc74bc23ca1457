//! What touches the system: sockets, netlink, the kernel program, scripts, clocks. It acts and reports, and decides
//! nothing.
//!
//! | Module | What it is |
//! |---|---|
//! | [`arp_watch`] | who else claims our addresses |
//! | [`clock`] | the one reader of clocks |
//! | [`timer`] | one timerfd for the earliest deadline |
//! | [`datapath`] | where advertisements come from: XDP, or a packet socket |
//! | [`errand`] | a thread for what may wait for the kernel or a disk |
//! | [`port`] | what leaves through an interface, and its multicast groups |
//! | [`netlink`] | links, addresses |
//! | [`scripts`] | up and down scripts |
//! | [`state_dir`] | what is kept over a restart |
//! | [`signals`] | what the operator asks for with `kill` |

pub mod arp_watch;
pub mod clock;
pub mod datapath;
pub mod errand;
pub mod netlink;
pub mod port;
pub mod scripts;
pub mod signals;
pub mod state_dir;
pub mod timer;
