//! System calls that no crate here wraps: two commands of bpf(2) for measuring (loading a program without an object,
//! and the same test run for both), and a socket for whole frames.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::datapath::Hook;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// The first fields of `bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest as zeros.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: *const u64,
    license: *const libc::c_char,
    rest: [u64; 4],
}

/// The same for BPF_PROG_TEST_RUN.
#[repr(C)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: *const u8,
    data_out: *mut u8,
    repeat: u32,
    duration: u32,
    rest: [u64; 5],
}

/// Loads `r0 = XDP_PASS; exit`, or `TCX_NEXT`, preceded by this many times four additions. Each addition waits for
/// the last one of its register, so four take a cycle if the processor does nothing else. On a shared processor, they
/// are slowed by as much as the hashes, which also keep several units busy.
pub fn load_pass(hook: Hook, cycles: usize) -> OwnedFd {
    const REGISTERS: [u64; 4] = [2, 3, 4, 5];
    const SET_TO_1: u64 = 0x0000_0001_0000_00b7;
    const ADD: u64 = 0x0c;
    const EXIT: u64 = 0x95;
    let (program_type, answer) = match hook {
        Hook::Xdp => (BPF_PROG_TYPE_XDP, 0x0000_0002_0000_00b7),
        Hook::Tcx | Hook::Egress => (BPF_PROG_TYPE_SCHED_CLS, 0xffff_ffff_0000_00b7),
    };
    let mut instructions = Vec::new();
    if cycles > 0 {
        instructions.extend(REGISTERS.map(|register| SET_TO_1 | register << 8));
        let additions = REGISTERS.map(|register| ADD | register << 8 | register << 12);
        instructions.extend(additions.into_iter().cycle().take(4 * cycles));
    }
    instructions.extend([answer, EXIT]);
    let mut load = Load {
        program_type,
        instruction_count: u32::try_from(instructions.len()).unwrap(),
        instructions: instructions.as_ptr(),
        license: c"GPL".as_ptr(),
        rest: [0; 4],
    };
    let size = size_of::<Load>();
    // SAFETY: the attributes are of this command and size, and what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    let fd = i32::try_from(fd).unwrap();
    // SAFETY: the call returned a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs the program on one frame many times. Returns its last action, and the time of one run in whole nanoseconds.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> (u32, u32) {
    let mut run = TestRun {
        program: u32::try_from(program.as_raw_fd()).unwrap(),
        return_value: 0,
        data_size_in: u32::try_from(frame.len()).unwrap(),
        data_size_out: 0,
        data_in: frame.as_ptr(),
        data_out: std::ptr::null_mut(),
        repeat,
        duration: 0,
        rest: [0; 5],
    };
    let size = size_of::<TestRun>();
    // SAFETY: as above; the kernel writes into the attributes alone.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    (run.return_value, run.duration)
}

/// A socket that sends frames out of an interface.
pub struct FrameSocket {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl FrameSocket {
    pub fn open(ifindex: u32) -> Self {
        // SAFETY: a call without pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        Self {
            // SAFETY: the call returned a new descriptor that nobody else has.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
            address: libc::sockaddr_ll {
                sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
                sll_protocol: 0,
                sll_ifindex: i32::try_from(ifindex).unwrap(),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            },
        }
    }

    pub fn send(&self, frame: &[u8]) {
        let length = libc::socklen_t::try_from(size_of_val(&self.address)).unwrap();
        let address = (&raw const self.address).cast();
        // SAFETY: both buffers are as long as said and outlive the call, which only reads them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                address,
                length,
            )
        };
        assert_eq!(
            usize::try_from(sent),
            Ok(frame.len()),
            "{}",
            io::Error::last_os_error()
        );
    }
}
