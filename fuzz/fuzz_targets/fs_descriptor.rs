#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vmfs_tests::parsers::run("fs_descriptor", bytes);
});
