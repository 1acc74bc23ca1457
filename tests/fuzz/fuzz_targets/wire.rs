//! libFuzzer around [`carp_fuzz::wire`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::wire::target(data));
