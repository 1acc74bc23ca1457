//! libFuzzer around [`carp_fuzz::classify`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::classify::target(data));
