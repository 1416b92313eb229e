//! The smallest initramfs: the agent as /init.

use std::io::Write;
use std::path::Path;

/// Writes a "newc" archive with `/dev/console` and `/init`.
pub fn write_initramfs(path: &Path, agent: &Path) {
    let mut archive = Vec::new();
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(
        &mut archive,
        "init",
        0o100_755,
        (0, 0),
        &std::fs::read(agent).unwrap(),
    );
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    std::fs::File::create(path).unwrap().write_all(&archive).unwrap();
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let inode = archive.len();
    let size = content.len();
    let (major, minor) = device;
    let name_size = name.len() + 1;
    write!(
        archive,
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{major:08x}{minor:08x}{name_size:08x}{0:08x}{name}\0",
        0, 1
    )
    .unwrap();
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
