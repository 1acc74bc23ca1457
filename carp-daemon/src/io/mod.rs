//! Everything that touches the system: sockets, netlink, the kernel program, scripts and clocks. These modules act
//! and report; they decide nothing.
//!
//! | Module | What it does |
//! |---|---|
//! | [`chain`] | writes an error and its causes on one line |
//! | [`clock`] | reads the clocks; nothing else does |
//! | [`timer`] | waits for the earliest deadline with one timerfd |
//! | [`datapath`] | receives advertisements, through XDP or a packet socket |
//! | [`errand`] | runs work that may wait for the kernel or a disk in a thread |
//! | [`neighbour_watch`] | watches for other hosts that claim our addresses |
//! | [`port`] | sends through an interface and joins its multicast groups |
//! | [`netlink`] | reads and changes links, addresses and routes |
//! | [`scripts`] | runs up and down scripts |
//! | [`state_dir`] | stores what must survive a restart |
//! | [`signals`] | receives the operator's signals |

pub mod chain;
pub mod clock;
pub mod datapath;
pub mod errand;
pub mod neighbour_watch;
pub mod netlink;
pub mod port;
pub mod scripts;
pub mod signals;
pub mod state_dir;
pub mod timer;
