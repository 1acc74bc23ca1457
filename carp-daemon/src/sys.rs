//! Everything that needs `unsafe`: system calls that `nix`, `socket2` and `std` do not wrap (packet socket addresses
//! and options, pinned BPF links), and registration with the runtime.
//!
//! This is the only module of the daemon with `unsafe`. Every function here is safe to call.
#![expect(
    unsafe_code,
    reason = "sockaddr_ll, SOL_PACKET, AsyncFd; everything else in the crate is safe"
)]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use nix::sys::timerfd::TimerFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A type that owns one open descriptor from its creation until it is dropped.
pub trait OwnsDescriptor: AsRawFd {}

impl OwnsDescriptor for socket2::Socket {}
impl OwnsDescriptor for netlink_sys::Socket {}
impl OwnsDescriptor for aya::maps::RingBuf<aya::maps::MapData> {}
impl<L> OwnsDescriptor for aya_log::EbpfLogger<L> {}
impl OwnsDescriptor for Descriptor<TimerFd> {}
impl OwnsDescriptor for Descriptor<Epoll> {}

/// Gives [`AsRawFd`], which the runtime needs, to types of `nix` that have other ways to their descriptors.
#[derive(Debug)]
pub struct Descriptor<T>(pub T);

impl AsRawFd for Descriptor<TimerFd> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsRawFd for Descriptor<Epoll> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// Registers `source` with the runtime, which then reports when it is readable.
///
/// # Errors
/// Returns any error of `epoll_ctl(2)`.
pub fn watch<T: OwnsDescriptor>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the implementors of `OwnsDescriptor`, all listed above, return one descriptor which they keep open as long
    // as they live, and the result owns `source`.
    let registered = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Binds a packet socket to one interface.
///
/// `protocol` is an EtherType in host order, or `ETH_P_ALL`. With 0 the socket receives nothing, which suits a socket
/// that only sends.
///
/// # Errors
/// Returns any error of `bind(2)`, such as ENODEV for an interface that is gone.
pub fn bind_to_interface(socket: BorrowedFd<'_>, ifindex: u32, protocol: u16) -> io::Result<()> {
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = libc::sockaddr_ll {
        sll_family: LINK_FAMILY,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let pointer: *const libc::sockaddr_ll = &raw const address;
    // SAFETY: `pointer` is valid for the length given and the kernel only reads it during the call.
    let status = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            pointer.cast(),
            length_of::<libc::sockaddr_ll>(),
        )
    };
    check(status)
}

/// Excludes the frames that this host sends from a packet socket. Kernel 4.20.
///
/// # Errors
/// Returns any error of `setsockopt(2)`.
pub fn ignore_outgoing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_packet_option(socket, libc::PACKET_IGNORE_OUTGOING, &1_i32)
}

/// Requests a [`PacketAuxdata`] with every frame. It contains the VLAN tag that the kernel removed from the frame.
///
/// # Errors
/// Returns any error of `setsockopt(2)`.
pub fn receive_auxdata(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_packet_option(socket, libc::PACKET_AUXDATA, &1_i32)
}

/// Opens the interface's hardware filter for an Ethernet multicast group, as long as the socket exists.
///
/// # Errors
/// Returns any error of `setsockopt(2)`.
pub fn join_link_group(socket: BorrowedFd<'_>, ifindex: u32, group: [u8; 6]) -> io::Result<()> {
    let request = link_group(ifindex, group)?;
    set_packet_option(socket, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Undoes [`join_link_group`].
///
/// # Errors
/// Returns any error of `setsockopt(2)`.
pub fn leave_link_group(socket: BorrowedFd<'_>, ifindex: u32, group: [u8; 6]) -> io::Result<()> {
    let request = link_group(ifindex, group)?;
    set_packet_option(socket, libc::PACKET_DROP_MEMBERSHIP, &request)
}

fn link_group(ifindex: u32, group: [u8; 6]) -> io::Result<libc::packet_mreq> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&group);
    Ok(libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        mr_type: MULTICAST_MEMBERSHIP,
        mr_alen: 6,
        mr_address: address,
    })
}

/// Returns how many frames were lost to a full buffer since the last call. Reading resets the kernel's count.
///
/// # Errors
/// Returns any error of `getsockopt(2)`.
pub fn take_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = length_of::<libc::tpacket_stats>();
    let pointer: *mut libc::tpacket_stats = &raw mut statistics;
    // SAFETY: `pointer` is valid for writes of the length given, and any bytes make a valid `tpacket_stats`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            pointer.cast(),
            &raw mut length,
        )
    };
    check(status).map(|()| statistics.tp_drops)
}

/// `struct tpacket_auxdata` (packet(7)) reduced to the VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketAuxdata {
    /// Tag control information of the tag that the kernel removed, if there was one.
    pub vlan_tci: Option<u16>,
}

impl PacketAuxdata {
    /// Parses the bytes of a `PACKET_AUXDATA` control message. Returns `None` if there are too few.
    ///
    /// Layout: status, len, snaplen (u32 each), mac, net, vlan_tci, vlan_tpid (u16 each), host order.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let status = u32::from_ne_bytes(*bytes.first_chunk()?);
        let vlan_tci = u16::from_ne_bytes(*bytes.get(16..18)?.first_chunk()?);
        Some(Self {
            vlan_tci: (status & libc::TP_STATUS_VLAN_VALID != 0).then_some(vlan_tci),
        })
    }
}

/// Returns the cookie of the calling thread's network namespace, a number that the kernel never reuses. Kernel 5.14.
///
/// # Errors
/// Returns any error of `socket(2)` or `getsockopt(2)`, such as ENOPROTOOPT on older kernels.
pub fn network_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = length_of::<u64>();
    // SAFETY: both pointers are valid for writes of their sizes, and any bytes make a valid `u64`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    check(status).map(|()| cookie)
}

/// Opens an object that is pinned in a bpffs.
///
/// # Errors
/// Returns any error of `bpf(2)`, such as ENOENT if nothing is pinned there.
pub fn open_bpf_object(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let descriptor = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the kernel has just opened the descriptor for us, close-on-exec, and no other code knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins a program, a map or a link in a bpffs.
///
/// # Errors
/// Returns any error of `bpf(2)`, such as EEXIST if something is pinned there.
pub fn pin_bpf_object(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = PinAttributes {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// The keys of a map, at most so many, whatever it holds.
///
/// # Errors
/// Returns the error of `bpf(2)`.
pub fn bpf_map_keys(map: BorrowedFd<'_>, key_len: usize, limit: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    while keys.len() < limit {
        let mut next = vec![0; key_len];
        let attributes = ElementAttributes {
            map_fd: map.as_raw_fd().cast_unsigned(),
            _pad: 0,
            key: keys.last().map_or(0, |key| key.as_ptr() as u64),
            value: next.as_mut_ptr() as u64,
            flags: 0,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &attributes) {
            Ok(_) => keys.push(next),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

/// Returns the value of a key in a map; its values have this length. Not for maps with a value for each processor.
///
/// # Errors
/// Returns the error of `bpf(2)`, which is ENOENT if there is no value.
pub fn bpf_map_value(map: BorrowedFd<'_>, key: &[u8], value_len: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; value_len];
    let attributes = ElementAttributes {
        map_fd: map.as_raw_fd().cast_unsigned(),
        _pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &attributes).map(|_| value)
}

/// The part of `union bpf_attr` that the commands on elements read (linux/bpf.h).
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that BPF_OBJ_PIN and BPF_OBJ_GET read (linux/bpf.h).
#[repr(C)]
struct PinAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Attaches a tcx program at an interface's egress, before all programs that are there. Dropping the result detaches
/// it unless something else holds the link. Kernel 6.6.
///
/// aya can do this as well, but only in the thread that owns its object.
///
/// # Errors
/// Returns any error of `bpf(2)`, such as ENODEV if the interface is gone, and EINVAL on an older kernel.
pub fn attach_tcx_egress(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that BPF_LINK_CREATE reads for tcx (linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        prog_fd: u32,
        target_ifindex: u32,
        attach_type: u32,
        flags: u32,
        relative_fd: u32,
        _pad: u32,
        expected_revision: u64,
    }
    let attributes = Attributes {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: BPF_TCX_EGRESS,
        flags: BPF_F_BEFORE,
        // 0 means before all others, whatever was attached in the meantime.
        relative_fd: 0,
        _pad: 0,
        expected_revision: 0,
    };
    let descriptor = bpf(BPF_LINK_CREATE, &attributes)?;
    // SAFETY: the kernel has just opened the descriptor for us, close-on-exec, and no other code knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Detaches the program of a `bpf_link`. The link itself stays, without effect. Kernel 5.9.
///
/// # Errors
/// Returns any error of `bpf(2)`.
pub fn detach_bpf_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &link.as_raw_fd()).map(drop)
}

/// The program of a `bpf_link` and the place where it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The id of the program.
    pub program: u32,
    /// The interface of an XDP or tcx link. 0 once it is detached.
    pub ifindex: u32,
}

/// Reads the information of an XDP or tcx link.
///
/// # Errors
/// Returns any error of `bpf(2)`.
pub fn bpf_link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads (linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    /// `struct bpf_link_info` up to the first member of its union, which both kinds share.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _pad: u32,
        ifindex: u32,
        _attach_type: u32,
    }
    let mut info = Info::default();
    let attributes = Attributes {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        #[expect(clippy::cast_possible_truncation, reason = "two dozen bytes")]
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(LinkInfo {
        program: info.program,
        ifindex: info.ifindex,
    })
}

/// Commands of `bpf(2)`, and values of its attributes (linux/bpf.h).
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;

/// Calls `bpf(2)`. `attributes` is a prefix of `union bpf_attr`; the kernel takes the rest as zeros.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let pointer: *const T = attributes;
    // SAFETY: `pointer` is valid for the length given. The attributes of the commands above contain C strings and
    // structures of the stated lengths, all of which live during the call, and descriptors.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    let result = libc::c_int::try_from(Errno::result(result)?);
    result.map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The process in which [`fork`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The calling process.
    Parent,
    /// The new process.
    Child,
}

/// Duplicates the process.
///
/// # Errors
/// Returns any error of `fork(2)`, or `InvalidInput` if the process has more than one thread. The new process would
/// only have the calling thread, and whatever the others had locked would stay locked.
pub fn fork() -> io::Result<Fork> {
    if thread_count()? != 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a process with several threads cannot fork",
        ));
    }
    // SAFETY: this is the only thread, as counted above, so in the child every lock is free and every invariant
    // holds.
    let result = unsafe { nix::unistd::fork() }?;
    Ok(if result.is_child() {
        Fork::Child
    } else {
        Fork::Parent
    })
}

/// Returns the number of threads of this process.
///
/// # Errors
/// Returns an error if `/proc` is missing.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Moves the calling thread to SCHED_RR. Threads and processes that it starts later inherit that; the ones that must
/// not have it call [`schedule_ordinarily`].
///
/// SCHED_RESET_ON_FORK would keep it from all of them, and they could not get it back: the capability for it is given
/// up when carpd serves.
///
/// # Errors
/// Returns any error of `sched_setscheduler(2)`.
pub fn schedule_round_robin(priority: u32) -> Result<(), Errno> {
    schedule(libc::SCHED_RR, priority)
}

/// Moves the calling thread to SCHED_OTHER, the policy of ordinary threads. Takes no privilege.
///
/// # Errors
/// Returns any error of `sched_setscheduler(2)`.
pub fn schedule_ordinarily() -> Result<(), Errno> {
    schedule(libc::SCHED_OTHER, 0)
}

/// Moves the calling thread to SCHED_BATCH, which takes no privilege either.
#[cfg(test)]
pub fn schedule_in_batches() -> Result<(), Errno> {
    schedule(libc::SCHED_BATCH, 0)
}

fn schedule(policy: libc::c_int, priority: u32) -> Result<(), Errno> {
    // The kernel's `struct sched_param` is this one number. musl's is larger, and its function does not call the
    // kernel.
    let parameters: libc::c_int = priority.try_into().map_err(|_| Errno::EINVAL)?;
    let pointer: *const libc::c_int = &raw const parameters;
    // SAFETY: `pointer` is valid and the kernel only reads it during the call.
    let status = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, pointer) };
    Errno::result(status).map(drop)
}

/// Returns freed memory to the kernel. glibc would keep it, and loading a program takes a few megabytes that nothing
/// needs afterwards.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes glibc's own locks and does not touch allocated memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "AF_PACKET is 17")]
const LINK_FAMILY: u16 = libc::AF_PACKET as u16;

#[expect(clippy::cast_possible_truncation, reason = "PACKET_MR_MULTICAST is 0")]
const MULTICAST_MEMBERSHIP: u16 = libc::PACKET_MR_MULTICAST as u16;

fn set_packet_option<T: Copy>(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let pointer: *const T = value;
    // SAFETY: `pointer` is valid for the length given and the kernel only reads it during the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            pointer.cast(),
            length_of::<T>(),
        )
    };
    check(status)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the socket structures are a few dozen bytes"
)]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auxdata_tells_a_stripped_tag_from_none() {
        let mut bytes = [0_u8; 20];
        bytes[16..18].copy_from_slice(&100_u16.to_ne_bytes());
        assert_eq!(
            PacketAuxdata::parse(&bytes),
            Some(PacketAuxdata { vlan_tci: None })
        );
        bytes[..4].copy_from_slice(&libc::TP_STATUS_VLAN_VALID.to_ne_bytes());
        assert_eq!(
            PacketAuxdata::parse(&bytes),
            Some(PacketAuxdata {
                vlan_tci: Some(100)
            })
        );
        assert_eq!(PacketAuxdata::parse(&bytes[..17]), None);
    }
}
