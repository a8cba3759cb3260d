//! Feeds libFuzzer's bytes to the target of this name in `tests/src/fuzz/`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microlambda_tests::fuzz::config(bytes));
