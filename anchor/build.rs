//! Links the anchor without a C runtime: there is one per container and one per exec, so its memory counts.

fn main() {
    // Our own `_start`; a fixed address, since the code that would relocate a static PIE is in the C runtime.
    for arg in ["-nostartfiles", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
