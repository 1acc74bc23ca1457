//! The ways to listen on an interface, and the order in which they are tried.
//!
//! The order is native XDP, tcx, socket. On a veth tcx comes first, because native XDP there makes the kernel copy every packet
//! that shares its buffer, as TCP's do, into pages of its own before any program runs (`veth_convert_skb_to_xdp_buff`). That
//! takes two thirds of TCP's throughput, and no setting avoids the copy: large segments stay on with a program that takes
//! fragments, smaller segments from the peer (`gso_max_size`) make it worse, and GRO afterwards does not help. Generic XDP
//! copies packets on every device, and is only used if the operator asks for it.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};
use std::io;

use super::error::KernelError;
use super::hook::Hook;
use crate::config::{self, Fence};
use crate::io::chain::Chain;
use crate::io::netlink::Link;
use crate::privileges::MissingCapabilities;

/// One way to listen on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The kernel program.
    Kernel(Hook),
    /// A packet socket.
    Socket,
}

impl Rung {
    const XDP_NATIVE: Self = Self::Kernel(Hook::XdpNative);
    const XDP_GENERIC: Self = Self::Kernel(Hook::XdpGeneric);
    const TCX: Self = Self::Kernel(Hook::Tcx);

    /// Returns the rungs to try on an interface, in order. There is at least one.
    #[must_use]
    pub fn candidates(wanted: config::Datapath, link: &Link) -> &'static [Self] {
        match wanted {
            config::Datapath::XdpNative => &[Self::XDP_NATIVE],
            config::Datapath::XdpGeneric => &[Self::XDP_GENERIC],
            config::Datapath::Tcx => &[Self::TCX],
            config::Datapath::Socket => &[Self::Socket],
            config::Datapath::Auto if link.is_veth() => {
                &[Self::TCX, Self::XDP_NATIVE, Self::Socket]
            }
            config::Datapath::Auto => &[Self::XDP_NATIVE, Self::TCX, Self::Socket],
        }
    }

    /// Returns the hooks whose programs any interface may ever need.
    #[must_use]
    pub const fn hooks(wanted: config::Datapath) -> &'static [Hook] {
        match wanted {
            config::Datapath::Auto => &[Hook::XdpNative, Hook::Tcx],
            config::Datapath::XdpNative | config::Datapath::XdpGeneric => &[Hook::XdpNative],
            config::Datapath::Tcx => &[Hook::Tcx],
            config::Datapath::Socket => &[],
        }
    }

    /// Returns what the operator should know about this rung on an interface, in words that follow its name.
    fn remark(self, link: &Link, wanted: config::Datapath, fence: Fence) -> &'static str {
        match self {
            Self::Socket if fence != Fence::Off => {
                ", which cannot fence addresses: a dead MASTER goes on answering"
            }
            Self::TCX if link.is_veth() && wanted == config::Datapath::Auto => {
                ": native XDP takes two thirds of the TCP throughput on a veth"
            }
            Self::Kernel(_) | Self::Socket => "",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel(hook) => hook.name(),
            Self::Socket => "socket",
        })
    }
}

/// The rung that an interface got, for the log.
#[derive(Debug)]
pub struct Choice {
    /// The interface, the rung, and the refusals of the rungs before it.
    pub summary: String,
    /// There is nothing to warn of.
    pub expected: bool,
}

/// The rungs that were tried in vain on an interface.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Each with its reason, in words that follow a sentence.
    text: String,
    /// The privileges that the latest of them lacked.
    lacking: Option<MissingCapabilities>,
    /// One of them was refused for another reason than the driver.
    is_unexpected: bool,
}

impl Refusals {
    /// Adds a rung and its refusal.
    pub fn add(&mut self, rung: Rung, error: &DatapathError) {
        let cause = error.cause();
        self.is_unexpected |= !matches!(cause, Some(KernelError::NoDriverSupport { .. }));
        let lacking = match cause {
            Some(KernelError::NotPermitted { lacking, .. }) => Some(lacking.clone()),
            Some(_) | None => None,
        };
        let cause = Chain(cause.map_or(error as &dyn StdError, |cause| cause));
        let written = match &lacking {
            Some(_) if lacking == self.lacking => write!(self.text, "; nor {rung}, likewise"),
            Some(lacking) => write!(self.text, "; not {rung}: {cause} ({})", lacking.way_out()),
            None => write!(self.text, "; not {rung}: {cause}"),
        };
        written.expect("writing to a String cannot fail");
        self.lacking = lacking;
    }

    /// Returns the refusals in words that follow a sentence. `None` if there are none.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        (!self.text.is_empty()).then_some(self.text.as_str())
    }

    /// Returns the choice of `rung` after these refusals.
    #[must_use]
    pub fn choice(self, rung: Rung, link: &Link, wanted: config::Datapath, fence: Fence) -> Choice {
        let (name, text) = (&link.name, &self.text);
        let remark = rung.remark(link, wanted, fence);
        Choice {
            summary: format!("receiving on {name} through datapath {rung}{remark}{text}"),
            expected: !self.is_unexpected && (text.is_empty() || rung != Rung::Socket),
        }
    }
}

/// The reason why an interface cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel program cannot run on the interface.
    #[error("cannot receive on {interface} through datapath {rung}: {}", .source.way_out())]
    Kernel {
        /// The interface.
        interface: String,
        /// The rung that was tried.
        rung: Rung,
        /// The reason.
        source: KernelError,
    },
    /// The packet socket cannot be opened.
    #[error(
        "cannot receive on {interface} through datapath socket: a packet socket takes CAP_NET_RAW"
    )]
    Socket {
        /// The interface.
        interface: String,
        /// The reason: EPERM without CAP_NET_RAW.
        source: io::Error,
    },
    /// The kernel program or its maps cannot be used on any interface.
    #[error("datapath {rung} cannot be used: {}", .source.way_out())]
    Program {
        /// The rung that needs the program.
        rung: Rung,
        /// The reason.
        source: KernelError,
    },
}

impl DatapathError {
    /// Returns whether the kernel did not answer in time, which says nothing about the rung.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        match self.cause() {
            Some(KernelError::Look { source, .. }) => source.kind() == io::ErrorKind::TimedOut,
            Some(_) | None => false,
        }
    }

    /// Returns the error of the kernel program, if that is the reason.
    const fn cause(&self) -> Option<&KernelError> {
        match self {
            Self::Kernel { source, .. } => Some(source),
            Self::Socket { .. } | Self::Program { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: &str) -> Link {
        Link {
            kind: kind.to_owned(),
            ..Link::up(2, "eth0")
        }
    }

    fn refused(rung: Rung, source: KernelError) -> DatapathError {
        DatapathError::Kernel {
            interface: "eth0".to_owned(),
            rung,
            source,
        }
    }

    fn no_driver_support() -> KernelError {
        KernelError::NoDriverSupport {
            interface: "eth0".to_owned(),
            source: "refused".into(),
        }
    }

    /// Returns the choice of `rung` by `--datapath auto` after refusals.
    fn choice(rung: Rung, refusals: Vec<(Rung, KernelError)>) -> Choice {
        let mut refused_before = Refusals::default();
        for (rung, error) in refusals {
            refused_before.add(rung, &refused(rung, error));
        }
        refused_before.choice(rung, &link(""), config::Datapath::Auto, Fence::Arp)
    }

    #[test]
    fn auto_tries_tcx_first_on_a_veth_and_the_driver_first_elsewhere() {
        let auto = |kind| Rung::candidates(config::Datapath::Auto, &link(kind));
        let [native, tcx, socket] = [Rung::XDP_NATIVE, Rung::TCX, Rung::Socket];
        assert_eq!(auto(""), [native, tcx, socket]);
        assert_eq!(auto("veth"), [tcx, native, socket]);
    }

    #[test]
    fn an_explicit_datapath_has_no_other_candidates() {
        for (wanted, rung) in [
            (config::Datapath::XdpNative, Rung::XDP_NATIVE),
            (config::Datapath::XdpGeneric, Rung::XDP_GENERIC),
            (config::Datapath::Tcx, Rung::TCX),
            (config::Datapath::Socket, Rung::Socket),
        ] {
            for kind in ["", "veth"] {
                assert_eq!(Rung::candidates(wanted, &link(kind)), [rung]);
            }
        }
    }

    #[test]
    fn only_a_driver_without_native_xdp_is_expected_and_only_if_the_fence_holds() {
        let first = choice(Rung::XDP_NATIVE, vec![]);
        assert!(first.expected);
        assert_eq!(
            first.summary,
            "receiving on eth0 through datapath xdp-native"
        );
        let second = choice(Rung::TCX, vec![(Rung::XDP_NATIVE, no_driver_support())]);
        assert!(second.expected);
        assert_eq!(
            second.summary,
            "receiving on eth0 through datapath tcx; not xdp-native: the driver of eth0 has no native XDP, or not with its \
             present settings: refused"
        );
        let missing = || KernelError::Missing("a program");
        assert!(!choice(Rung::TCX, vec![(Rung::XDP_NATIVE, missing())]).expected);
        let refusals = vec![
            (Rung::XDP_NATIVE, no_driver_support()),
            (Rung::TCX, no_driver_support()),
        ];
        let last = choice(Rung::Socket, refusals);
        assert!(!last.expected);
        let remark = "through datapath socket, which cannot fence addresses: a dead MASTER goes on answering; not ";
        assert!(last.summary.contains(remark), "{}", last.summary);
    }

    #[test]
    fn a_look_that_the_kernel_does_not_answer_in_time_is_no_refusal() {
        let look = |kind: io::ErrorKind| KernelError::Look {
            interface: "eth0".to_owned(),
            source: kind.into(),
        };
        let is_unanswered = |source| refused(Rung::XDP_NATIVE, source).is_unanswered();
        assert!(is_unanswered(look(io::ErrorKind::TimedOut)));
        assert!(!is_unanswered(look(io::ErrorKind::PermissionDenied)));
        assert!(!is_unanswered(no_driver_support()));
    }

    #[test]
    fn two_rungs_that_lack_the_same_privileges_have_one_explanation() {
        let not_permitted = || KernelError::NotPermitted {
            action: "load",
            lacking: MissingCapabilities::of(&[]),
            source: "refused".into(),
        };
        let refusals = vec![
            (Rung::XDP_NATIVE, not_permitted()),
            (Rung::TCX, not_permitted()),
        ];
        let way_out = MissingCapabilities::of(&[]).way_out();
        let expected = format!(
            "; not xdp-native: not permitted to load: refused ({way_out}); nor tcx, likewise"
        );
        let summary = choice(Rung::Socket, refusals).summary;
        assert!(summary.ends_with(&expected), "{summary}");
    }
}
