//! Fuzz targets.
//!
//! Each is a plain function of bytes that panics when something is wrong, so that libFuzzer can look for bytes that make it
//! panic (`cargo xtask fuzz`, the executables in `fuzz_targets`) and any toolchain can try the ones in `corpus` again
//! (`cargo test`).
//!
//! | Target | What gets the bytes |
//! |---|---|
//! | [`wire`] | the parsers of CARP, Ethernet, IP and ARP, and of the ring buffer's records |
//! | [`classify`] | the frame classifier, with a configuration and a link that are part of the input |
//! | [`admission`] | the kernel side's HMAC beside the `hmac` crate, and what it lets the daemon hear |
//! | [`virtual_host`] | the protocol core: a configuration and a sequence of inputs with times |
//! | [`cli`] | the command line with password file and file of virtual hosts |
//! | [`netlink`] | datagrams from rtnetlink |

pub mod admission;
pub mod classify;
pub mod cli;
pub mod netlink;
pub mod virtual_host;
pub mod wire;

/// A name in `corpus` and `fuzz_targets`, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("wire", wire::target),
    ("classify", classify::target),
    ("admission", admission::target),
    ("virtual_host", virtual_host::target),
    ("cli", cli::target),
    ("netlink", netlink::target),
];
