//! A network in a box, and the instruments to watch carpd in it.
//!
//! | Module | What it is |
//! |---|---|
//! | [`mod@lab`] | hosts (network namespaces), a switch (a bridge in its own namespace) and the cables between them |
//! | [`process`] | a program running on a host: its output line by line, signals, exit status |
//! | [`daemons`] | carpd, ucarp and keepalived as such programs |
//! | [`dump`] | the report that carpd logs on SIGUSR1 |
//! | [`packet`] | bytes of CARP, VRRP and ARP to values and back, written without the daemon's own code |
//! | [`capture`] | everything that the hosts send, as the switch receives it, with kernel arrival times |
//! | [`inject`] | raw frames from a host |
//! | [`attacker`] | an attacker who records advertisements and sends them again |
//! | [`attack`] | the attacks with recordings |
//! | [`oracle`] | what makes a kernel speak in an address's name |
//! | [`bsd`] | a model of a BSD kernel's CARP, on real frames |
//! | [`flood`] | as many frames as one core can send |
//! | [`cable`] | a cable that loses, doubles, swaps, delays or mirrors frames |
//! | [`switch`] | what a managed switch can do to a port |
//! | [`client`] | a client that uses the virtual address and reports its outages |
//! | [`residue`] | what a killed carpd leaves on the machine |
//! | [`usage`] | what processes cost |
//! | [`witness`] | a continuous record of the hosts that answer for the virtual address |
//! | [`toll`] | what a disturbance cost the client and the election |
//! | [`sim`] | no real network: the engine in a simulated one, under every fault |
//!
//! Namespaces need root. [`lab!`] skips a test visibly when there is none, and fails it where a skip would hide a
//! broken test run (`CI=true` or `CARP_REQUIRE_ROOT=1`).
//!
//! Nothing here sleeps for a fixed time: every wait has a condition and a deadline, and reports what it saw when the
//! deadline passes.

#![expect(
    clippy::disallowed_methods,
    reason = "the lab runs in real time; the simulation, which must not, denies it below"
)]

pub mod attack;
pub mod attacker;
pub mod bsd;
pub mod cable;
pub mod capture;
pub mod client;
pub mod daemons;
pub mod dump;
pub mod flood;
pub mod inject;
pub mod lab;
pub mod machine;
pub mod oracle;
pub mod packet;
pub mod process;
pub mod residue;
#[path = "../sim/mod.rs"]
#[deny(clippy::disallowed_methods)]
pub mod sim;
pub mod switch;
pub mod toll;
pub mod usage;
mod wait;
pub mod witness;

pub use attack::Attack;
pub use attacker::{Attacker, Recording};
pub use bsd::Bsd;
pub use cable::{Cable, Quality};
pub use capture::{Capture, Captured, Mark};
pub use client::{Client, Outage};
pub use daemons::{Carpd, Keepalived, Ucarp};
pub use dump::Dump;
pub use flood::Flood;
pub use inject::{Forgery, Injector};
pub use lab::{Host, Lab};
pub use machine::Machine;
pub use packet::{Arp, Carp, Mac, Packet, Vrrp};
pub use process::Daemon;
pub use toll::Toll;
pub use wait::eventually;
pub use witness::{Sighting, Witness};
