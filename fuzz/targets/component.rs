#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| helix_fuzz::component(data));
