//! libFuzzer around [`carp_fuzz::cli`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carp_fuzz::cli::target(data));
