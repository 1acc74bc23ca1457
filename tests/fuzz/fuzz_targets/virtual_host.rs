//! libFuzzer around [`carp_fuzz::virtual_host`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::virtual_host::target(data));
