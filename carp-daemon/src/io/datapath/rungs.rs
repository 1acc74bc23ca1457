//! Which way to listen serves an interface, and in which order they are tried.
//!
//! Native XDP, tcx, socket. On a veth tcx comes first: native XDP there makes the kernel copy every packet that shares
//! its buffer, as TCP's do, into pages of its own before any program runs (`veth_convert_skb_to_xdp_buff`). That takes
//! two thirds of TCP's throughput, and no setting avoids the copy: large segments stay on with a program that takes fragments,
//! smaller ones from the peer (`gso_max_size`) make it worse, and GRO behind it undoes none of it. Generic XDP copies
//! likewise on every device and is never chosen unasked.

use std::collections::BTreeMap;
use std::fmt;

use tracing::{info, warn};

use super::egress::Egress;
use super::hook::{Attachment, Hook, Loss};
use super::lookout::Sight;
use super::socket::Receiver;
use super::{Chain, Datapath, Error, error};
use crate::config::{self, Fence};
use crate::io::netlink::{Client, Link};

/// The rung that an interface got, and what there is to say about it.
#[derive(Debug)]
pub struct Choice {
    /// The interface, the rung and the refusals of those before it.
    pub summary: String,
    /// Nothing to warn of.
    pub expected: bool,
}

/// How one interface is listened to.
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
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel(hook) => hook.name(),
            Self::Socket => "socket",
        })
    }
}

impl Datapath {
    /// Starts listening on an interface, on the first rung that works of those that may be used.
    ///
    /// # Errors
    /// Why the last of them does not work.
    pub fn attach(&mut self, link: &Link) -> Result<Choice, Error> {
        let candidates: &[Rung] = match self.wanted {
            config::Datapath::XdpNative => &[Rung::XDP_NATIVE],
            config::Datapath::XdpGeneric => &[Rung::XDP_GENERIC],
            config::Datapath::Tcx => &[Rung::TCX],
            config::Datapath::Socket => &[Rung::Socket],
            config::Datapath::Auto if link.is_veth() => {
                &[Rung::TCX, Rung::XDP_NATIVE, Rung::Socket]
            }
            config::Datapath::Auto => &[Rung::XDP_NATIVE, Rung::TCX, Rung::Socket],
        };
        let (last, others) = candidates.split_last().expect("there are candidates");
        let mut refusals = String::new();
        let mut last_lacking = None;
        let mut expected = true;
        let mut attached = None;
        for rung in others {
            match self.attach_to(link, *rung) {
                Ok(()) => {
                    attached = Some(*rung);
                    break;
                }
                Err(error) => {
                    let cause = error.cause();
                    expected &= matches!(cause, Some(error::Error::NoDriverSupport { .. }));
                    let lacking = match cause {
                        Some(error::Error::NotPermitted { lacking, .. }) => Some(lacking.clone()),
                        Some(_) | None => None,
                    };
                    let cause = cause.map_or(&error as &dyn std::error::Error, |cause| cause);
                    refusals += &match &lacking {
                        Some(_) if lacking == last_lacking => format!("; nor {rung}, likewise"),
                        Some(lacking) => {
                            format!("; not {rung}: {} ({})", Chain(cause), lacking.way_out())
                        }
                        None => format!("; not {rung}: {}", Chain(cause)),
                    };
                    last_lacking = lacking;
                }
            }
        }
        let rung = match attached {
            Some(rung) => rung,
            None => match self.attach_to(link, *last) {
                Ok(()) => *last,
                Err(error) => {
                    if !refusals.is_empty() {
                        warn!("{}: no datapath{refusals}", link.name);
                    }
                    return Err(error);
                }
            },
        };
        self.rungs.insert(link.index, rung);
        let remark = match rung {
            Rung::Socket if self.fence != Fence::Off => {
                ", which cannot fence addresses: a dead MASTER goes on answering"
            }
            Rung::TCX if link.is_veth() && self.wanted == config::Datapath::Auto => {
                ": native XDP takes two thirds of the TCP throughput on a veth"
            }
            Rung::Kernel(_) | Rung::Socket => "",
        };
        // Our program looks into the same table. Without one of ours, a leftover that still fences has its use.
        if rung != Rung::Socket || self.fenced(link.index).is_empty() {
            self.remove_leftovers(link);
        }
        let name = &link.name;
        Ok(Choice {
            summary: format!("receiving on {name} through datapath {rung}{remark}{refusals}"),
            expected: expected && (refusals.is_empty() || rung != Rung::Socket),
        })
    }

    /// Starts anew on an interface, from the first rung: what it has does not work any more.
    ///
    /// # Errors
    /// As [`Datapath::attach`]; then nothing listens there.
    pub fn attach_again(&mut self, link: &Link) -> Result<Choice, Error> {
        self.detach(link.index);
        self.attach(link)
    }

    /// Whether there are programs, which others can take off.
    #[must_use]
    pub fn has_programs(&self) -> bool {
        !self.attachments.is_empty()
    }

    /// What others did to the program on an interface.
    #[must_use]
    pub fn loss(&self, ifindex: u32, netlink: &mut Client) -> Option<Loss> {
        self.attachments.get(&ifindex)?.loss(netlink)
    }

    /// Every program that others can take off.
    #[must_use]
    pub fn sights(&self) -> Vec<Sight> {
        let served = self.attachments.values().filter_map(Attachment::sight);
        let covered = self.egress.iter().flat_map(Egress::sights);
        served.chain(covered).collect()
    }

    /// Removes the programs that nobody owns any more on interfaces other than these.
    pub fn remove_unowned_but(&self, links: &BTreeMap<u32, Link>) {
        for ifindex in self.pins.interfaces() {
            if !links.contains_key(&ifindex) {
                // What has an owner is that one's to remove.
                let _ = self.pins.remove_unowned(ifindex, "an interface");
            }
        }
    }

    /// Programs that nobody owns any more.
    fn remove_leftovers(&self, link: &Link) {
        for name in self.pins.remove_unowned(link.index, &link.name).removed {
            info!(
                "{}: removed the {name} program that an earlier run left",
                link.name
            );
        }
    }

    fn attach_to(&mut self, link: &Link, rung: Rung) -> Result<(), Error> {
        match rung {
            Rung::Kernel(hook) => {
                self.adopt_addresses();
                let attached = self
                    .kernel()
                    .and_then(|(kernel, pins)| kernel.attach(link, hook, pins));
                let attachment = attached.map_err(|source| Error::Kernel {
                    interface: link.name.clone(),
                    rung,
                    source,
                })?;
                self.attachments.insert(link.index, attachment);
            }
            Rung::Socket => {
                let receiver = Receiver::open(link).map_err(|source| Error::Socket {
                    interface: link.name.clone(),
                    source,
                })?;
                self.receivers.insert(link.index, receiver);
            }
        }
        Ok(())
    }
}
