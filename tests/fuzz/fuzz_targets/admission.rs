//! libFuzzer around [`carp_fuzz::admission`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::admission::target(data));
