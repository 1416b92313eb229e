//! A config.json of any bytes: reading and planning it end without a panic, and so do a process and resources.
#![no_main]

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use bulkhead_oci::{
    GuestPaths, parse_process, parse_resources, plan, plan_process, plan_resources, read_spec,
};

/// Where the bytes are read from, in memory.
static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| format!("/dev/shm/bulkhead-fuzz-spec-{}", std::process::id()).into());

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(process) = parse_process(data) {
        let _verdict = plan_process(&process);
    }
    if let Ok(resources) = parse_resources(data) {
        let _verdict = plan_resources(&resources);
    }
    fs::write(&*FILE, data).expect("shared memory");
    let guest = GuestPaths {
        container: "/run/share/c".into(),
    };
    if let Ok(spec) = read_spec(&FILE)
        && let Ok(plan) = plan(&spec, Path::new("/bundle"), "c", &guest)
    {
        let host = plan.host;
        assert!(host.rootfs.is_absolute() && is_plain(&host.rootfs));
        assert!(host.cgroups_path.is_relative() && is_plain(&host.cgroups_path));
        for bind in host.binds {
            assert!(bind.source.is_absolute() && is_plain(&bind.source), "{bind:?}");
            assert!(
                bind.destination.is_absolute() && is_plain(&bind.destination),
                "{bind:?}"
            );
        }
    }
});

fn is_plain(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
}
