//! Fuzz targets.
//!
//! Each target is a function of bytes that panics if something is wrong. libFuzzer looks for bytes that make it panic
//! (`cargo xtask fuzz`, with the executables in `fuzz_targets`), and every toolchain can run the inputs in `corpus`
//! again (`cargo test`).
//!
//! | Target | What it feeds with the bytes |
//! |---|---|
//! | [`wire`] | the parsers of CARP, Ethernet, IP and ARP, and of the ring buffer's records |
//! | [`classify`] | the frame classifier, with a configuration and a link from the input |
//! | [`admission`] | the kernel program's HMAC, compared with the crate `hmac`, and its choice of what the daemon receives |
//! | [`virtual_host`] | the protocol core, with a configuration and a sequence of inputs and times |
//! | [`cli`] | the command line with password file and file of virtual hosts |
//! | [`netlink`] | the parser of datagrams from rtnetlink |

pub mod admission;
pub mod classify;
pub mod cli;
pub mod netlink;
pub mod virtual_host;
pub mod wire;

/// The name of a target in `corpus` and `fuzz_targets`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("wire", wire::target),
    ("classify", classify::target),
    ("admission", admission::target),
    ("virtual_host", virtual_host::target),
    ("cli", cli::target),
    ("netlink", netlink::target),
];
