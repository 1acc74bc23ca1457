//! libFuzzer around [`carp_fuzz::netlink`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::netlink::target(data));
