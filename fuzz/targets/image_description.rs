#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| levee_vault::fuzzing::image_description(content));
