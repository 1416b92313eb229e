#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent_protocol::fuzzing::schedule(data));
