//! Whether the guest's images are those that were built.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Check;

const ID: &str = "checksums";
/// What the build writes beside the images, as `sha256sum` does.
const LIST: &str = "SHA256SUMS";

pub(super) fn check(images: &[&Path]) -> Check {
    let remedy = "install the images again; a half-copied one is the usual cause";
    let (mut good, mut unknown) = (Vec::new(), Vec::new());
    for image in images {
        let name = image.display();
        match (listed(image), sum(image)) {
            (Some(expected), Ok(found)) if expected == found => good.push(format!("{name} {found:.12}")),
            (Some(expected), Ok(found)) => {
                let evidence = format!("{name} has {found:.12}.., and {LIST} says {expected:.12}..");
                return Check::warning(ID, evidence, remedy);
            }
            // An image of the operator's own, or one that is not there, which is another check's affair.
            _ => unknown.push(name.to_string()),
        }
    }
    if good.is_empty() {
        return Check::ok(ID, format!("no {LIST} lists {}", unknown.join(", ")));
    }
    Check::ok(ID, good.join(", "))
}

/// What the list beside an image says of it.
fn listed(image: &Path) -> Option<String> {
    let list = std::fs::read_to_string(image.with_file_name(LIST)).ok()?;
    let name = image.file_name()?.to_str()?;
    list.lines().find_map(|line| {
        let (sum, of) = line.split_once(' ')?;
        (of.trim_start_matches([' ', '*']) == name).then(|| sum.to_owned())
    })
}

fn sum(image: &Path) -> io::Result<String> {
    let digest = Sha256::digest(std::fs::read(image)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn an_image_is_as_listed_or_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("vmlinux");
        fs::write(&image, "kernel\n").unwrap();
        let unknown = check(&[&image]);
        assert_eq!(unknown.status, Status::Ok);
        assert!(
            unknown.evidence.starts_with("no SHA256SUMS"),
            "{}",
            unknown.evidence
        );

        let list = directory.path().join(LIST);
        let found = sum(&image).unwrap();
        fs::write(&list, format!("0123  initramfs.cpio\n{found}  vmlinux\n")).unwrap();
        assert_eq!(check(&[&image]).status, Status::Ok);
        fs::write(&image, "kern").unwrap();
        let torn = check(&[&image]);
        assert_eq!(torn.status, Status::Warning);
        assert!(torn.evidence.contains(&found[..12]), "{}", torn.evidence);
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("empty");
        fs::write(&image, "").unwrap();
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sum(&image).unwrap(), expected);
    }
}
