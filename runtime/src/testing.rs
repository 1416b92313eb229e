//! What tests of several modules share.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread with a mount namespace of its own, so that no mount of it can be left on the host
/// and tests do not see each other's.
pub(crate) fn in_private_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let result = scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).expect("tests of mounts run as root");
                mount(
                    None::<&str>,
                    "/",
                    None::<&str>,
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                    None::<&str>,
                )
                .expect("tests of mounts run as root");
                test();
            })
            .join();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// One of the workspace's programs, built by `cargo build` before the tests.
pub(crate) fn program(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("/proc is mounted");
    // target/<triple>/<profile>/deps/<test>
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests run from the target directory");
    let program = profile.join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --workspace` first",
        program.display()
    );
    program
}
