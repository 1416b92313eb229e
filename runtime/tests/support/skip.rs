//! What a test does where something it needs is missing.

/// Says why the test is skipped; with `BULKHEAD_NO_SKIPS`, as hack/test sets it, that is a failure.
pub fn skip<T>(missing: &str) -> Option<T> {
    assert!(
        std::env::var_os("BULKHEAD_NO_SKIPS").is_none(),
        "nothing may be skipped: {missing}"
    );
    eprintln!("skipped: {missing}");
    None
}
