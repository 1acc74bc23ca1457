//! The ways to attach the kernel program to an interface, and to take over the program that an earlier run left attached.

use std::error::Error as StdError;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{
    LinkOrder, MultiProgLink as _, ProgramError, TcAttachType, Xdp, XdpMode, loaded_programs,
};
use carp_common::abi::layout::{EGRESS_PROGRAM, TCX_PROGRAM, XDP_PROGRAM};

use super::error::{KernelError, errno, refused};
use super::pins::{HookClaim, Pins};
use super::sight::Sight;
use crate::api::Place;
use crate::api::event::kernel::Ingress;
use crate::io::netlink::{Client, Link};
use crate::lock;
use crate::sys;

/// The largest number of carpds that have a tcx program on one interface.
const TCX_PLACES: u32 = 64;

/// A place in the receive path where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver, before the kernel has a packet buffer.
    XdpNative,
    /// The same program in the stack, which copies every packet.
    XdpGeneric,
    /// tcx in the stack, on the packet buffer. Several programs can be there.
    Tcx,
}

impl Hook {
    /// Returns the name of its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::XdpNative | Self::XdpGeneric => XDP_PROGRAM,
            Self::Tcx => TCX_PROGRAM,
        }
    }

    /// Returns the hook whose name is the prefix of a pin's name.
    #[must_use]
    pub fn of_pin(name: &str) -> Option<Self> {
        let all = [Self::XdpNative, Self::XdpGeneric, Self::Tcx];
        all.into_iter().find(|hook| name.starts_with(hook.name()))
    }

    /// Returns its name, which is also the prefix of its pins.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
        }
    }
}

/// A program on an interface. If it is pinned, it stays there when this is dropped.
#[derive(Debug)]
pub struct Attachment {
    link: Attached,
    /// The id of our program.
    program: u32,
    pin: String,
    // It is dropped last, because nobody takes the link for a leftover while it is held.
    place: HookClaim,
}

/// A link, with what is needed to check it.
#[derive(Debug)]
enum Attached {
    /// An XDP hook has only one program, and netlink reports its id.
    Xdp {
        _link: FdLink,
        ifindex: u32,
    },
    Tcx(SchedClassifierLink),
}

/// The change of an attachment by another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookLoss {
    /// It detached the program.
    Detached,
    /// It replaced the program.
    Replaced,
}

impl Attachment {
    fn new(
        attached: FdLink,
        link: &Link,
        hook: Hook,
        pin: String,
        place: HookClaim,
    ) -> Result<Self, KernelError> {
        let failed = |error| refused("look at the attached program", error);
        Ok(Self {
            program: attached.info().map_err(failed)?.program_id(),
            link: match hook {
                Hook::XdpNative | Hook::XdpGeneric => Attached::Xdp {
                    _link: attached,
                    ifindex: link.index,
                },
                Hook::Tcx => Attached::Tcx(attached.try_into().map_err(failed)?),
            },
            pin,
            place,
        })
    }

    /// Returns what another process did to it. `None` if nothing was done, or if it cannot be checked.
    pub fn loss(&self, netlink: &mut Client) -> Option<HookLoss> {
        let there = match &self.link {
            Attached::Xdp { ifindex, .. } => netlink.link(*ifindex).ok()?.xdp_program,
            Attached::Tcx(link) => {
                let info = sys::bpf_link_info(link.fd().ok()?).ok()?;
                if info.ifindex == 0 { 0 } else { info.program }
            }
        };
        match there {
            0 => Some(HookLoss::Detached),
            program => (program != self.program).then_some(HookLoss::Replaced),
        }
    }

    /// Returns the program in the form that a thread checks.
    pub fn sight(&self) -> Option<Sight> {
        Some(match &self.link {
            Attached::Xdp { ifindex, .. } => Sight::Xdp {
                ifindex: *ifindex,
                program: self.program,
            },
            Attached::Tcx(link) => Sight::Link {
                link: link.fd().ok()?.try_clone_to_owned().ok()?,
                program: Some(self.program),
            },
        })
    }

    /// Returns whether it outlives this process.
    pub fn is_pinned(&self) -> bool {
        self.place.has(&self.pin)
    }

    /// Returns whether this is the name of its pin.
    pub fn is_pinned_as(&self, name: &str) -> bool {
        self.pin == name
    }

    /// Detaches the program.
    pub fn detach(self) {
        self.place.remove(&self.pin);
    }
}

/// Loads the program of a hook. It sees no packet before it is attached.
pub fn load(object: &mut Ebpf, hook: Hook) -> Result<(), KernelError> {
    let loaded = match hook {
        Hook::XdpNative | Hook::XdpGeneric => xdp(object)?.load(),
        Hook::Tcx => tcx(object, TCX_PROGRAM)?.load(),
    };
    loaded_once(loaded)
}

/// Loads the program for egress and returns its descriptor.
pub fn load_egress(object: &mut Ebpf) -> Result<OwnedFd, KernelError> {
    let program = tcx(object, EGRESS_PROGRAM)?;
    loaded_once(program.load())?;
    let failed = |error| refused("hold the tcx program", error);
    let program = program.fd().map_err(failed)?;
    program
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| refused("hold the tcx program", error))
}

fn loaded_once(loaded: Result<(), ProgramError>) -> Result<(), KernelError> {
    match loaded {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(refused("load the kernel program", error)),
    }
}

/// Attaches the loaded program of a hook to an interface, in place of the program that an earlier run of carpd left.
pub fn attach(
    object: &mut Ebpf,
    link: &Link,
    hook: Hook,
    pins: &Pins,
    netlink: &mut Client,
) -> Result<Attachment, KernelError> {
    let tell = |what| pins.outbox.tell(Place::Interface(link.name.clone()), what);
    let (place, pin) = match hook {
        Hook::XdpNative | Hook::XdpGeneric => {
            let place = pins.claim(link.index, &link.name, "xdp")?;
            // The hook has one mode at a time.
            let other = match hook {
                Hook::XdpNative => Hook::XdpGeneric,
                Hook::XdpGeneric | Hook::Tcx => Hook::XdpNative,
            };
            place.remove(other.name());
            (place, hook.name().to_owned())
        }
        Hook::Tcx => claim_tcx(link, pins)?,
    };
    if let Some(leftover) = place.leftover(&pin) {
        match replace(object, leftover, hook) {
            Ok(taken_over) => {
                tell(Ingress::TakenOver { hook: hook.name() });
                return Attachment::new(taken_over, link, hook, pin, place);
            }
            Err(error) => {
                place.remove(&pin);
                let (pin, error) = (pin.clone(), error.to_string());
                tell(Ingress::NotTakenOver { pin, error });
            }
        }
    }
    let mut attach = || match hook {
        Hook::XdpNative => attach_xdp(object, link, XdpMode::Driver, netlink),
        Hook::XdpGeneric => attach_xdp(object, link, XdpMode::Skb, netlink),
        Hook::Tcx => attach_tcx(object, link)
            .and_then(|attached| attached.try_into().map_err(failed_on(link))),
    };
    let attached = match place.pin(attach()?, &pin) {
        Some(pinned) => pinned,
        None => attach()?,
    };
    Attachment::new(attached, link, hook, pin, place)
}

/// Claims the first place that no other process has. If an earlier run left a program, that is its place.
fn claim_tcx(link: &Link, pins: &Pins) -> Result<(HookClaim, String), KernelError> {
    let mut refusal = None;
    for number in 0..TCX_PLACES {
        let name = format!("{}-{number}", Hook::Tcx.name());
        match pins.claim(link.index, &link.name, &name) {
            Ok(place) => return Ok((place, name)),
            Err(error @ lock::LockError::Busy { .. }) => refusal = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(refusal.map_or(KernelError::Missing("a place"), KernelError::Owned))
}

/// Replaces the program of a link with ours, between one packet and the next.
pub fn replace(
    object: &mut Ebpf,
    leftover: FdLink,
    hook: Hook,
) -> Result<FdLink, Box<dyn StdError>> {
    Ok(match hook {
        Hook::XdpNative | Hook::XdpGeneric => {
            let program = xdp(object)?;
            let id = program.attach_to_link(XdpLink::try_from(leftover)?)?;
            program.take_link(id)?.try_into()?
        }
        Hook::Tcx => replace_tcx(object, leftover, TCX_PROGRAM)?,
    })
}

/// Replaces the program of a tcx link at ingress or at egress.
pub(super) fn replace_tcx(
    object: &mut Ebpf,
    leftover: FdLink,
    program: &str,
) -> Result<FdLink, Box<dyn StdError>> {
    let program = tcx(object, program)?;
    let id = program.attach_to_link(SchedClassifierLink::try_from(leftover)?)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_xdp(
    object: &mut Ebpf,
    link: &Link,
    mode: XdpMode,
    netlink: &mut Client,
) -> Result<FdLink, KernelError> {
    let interface = || link.name.clone();
    // This check comes first, because aya's fallback for kernels without bpf_link would replace another program.
    if let Some(taken) = holder(link, netlink)? {
        return Err(taken);
    }
    let program = xdp(object)?;
    let failed = |source: Box<dyn StdError + Send + Sync>| KernelError::Attach {
        interface: interface(),
        source,
    };
    match program.attach_to_if_index(link.index, mode) {
        Ok(id) => program
            .take_link(id)
            .map_err(|error| failed(error.into()))?
            .try_into()
            .map_err(|error: aya::programs::links::LinkError| failed(error.into())),
        Err(error) => Err(match errno(&error) {
            Some(libc::EOPNOTSUPP | libc::ERANGE) if mode == XdpMode::Driver => {
                KernelError::NoDriverSupport {
                    interface: interface(),
                    source: error.into(),
                }
            }
            Some(libc::EPERM | libc::EACCES) => refused("attach the XDP program", error),
            // Another process was faster, or has the hook in the other mode.
            Some(libc::EBUSY | libc::EEXIST) => {
                holder(link, netlink)?.unwrap_or_else(|| failed(error.into()))
            }
            _ => failed(error.into()),
        }),
    }
}

/// Attaches the program before all others, so that none of them lets a packet pass that the fence drops.
fn attach_tcx(object: &mut Ebpf, link: &Link) -> Result<SchedClassifierLink, KernelError> {
    let program = tcx(object, TCX_PROGRAM)?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&link.name, TcAttachType::Ingress, order)
        .map_err(|error| refused("attach the tcx program", error))?;
    let attached = program.take_link(id).map_err(failed_on(link))?;
    // aya uses the name, which another interface may have by now.
    let info = sys::bpf_link_info(attached.fd().map_err(failed_on(link))?);
    match info.map_err(failed_on(link))?.ifindex == link.index {
        true => Ok(attached),
        false => Err(failed_on(link)(io::Error::from_raw_os_error(libc::ENODEV))),
    }
}

fn failed_on<E>(link: &Link) -> impl Fn(E) -> KernelError
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    |source| KernelError::Attach {
        interface: link.name.clone(),
        source: source.into(),
    }
}

fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    object
        .program_mut(XDP_PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Missing("the XDP program"))
}

fn tcx<'a>(object: &'a mut Ebpf, program: &str) -> Result<&'a mut SchedClassifier, KernelError> {
    object
        .program_mut(program)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Missing("a tcx program"))
}

/// Returns the error that names the program at the XDP hook of an interface. `None` if the hook is free.
fn holder(link: &Link, netlink: &mut Client) -> Result<Option<KernelError>, KernelError> {
    let now = netlink
        .link(link.index)
        .map_err(|source| KernelError::Look {
            interface: link.name.clone(),
            source,
        })?;
    if now.xdp_program == 0 {
        return Ok(None);
    }
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == now.xdp_program)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty());
    Ok(Some(KernelError::Taken {
        interface: link.name.clone(),
        id: now.xdp_program,
        name,
    }))
}
