//! Whether the host backs guests' memory with huge pages.

use std::fs;

use super::Check;

const ID: &str = "huge-pages";
/// A guest's memory is a memfd, to which this one applies.
const SHARED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

pub(super) fn check() -> Check {
    judge(fs::read_to_string(SHARED).ok().as_deref())
}

/// The setting lists all choices, the chosen one in brackets.
fn judge(setting: Option<&str>) -> Check {
    let Some(setting) = setting else {
        return Check::ok(ID, "the kernel has none for shared memory");
    };
    let choice = setting
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(setting.trim(), |(choice, _)| choice);
    match choice {
        "always" | "force" | "within_size" => Check::warning(
            ID,
            format!("{SHARED} is {choice:?}: idle guests take memory by 2 MiB, and give it back so"),
            format!("echo advise >{SHARED}"),
        ),
        _ => Check::ok(
            ID,
            format!("{SHARED} is {choice:?}: guests' memory comes by the page"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_choice_is_the_one_in_brackets() {
        let status = |setting| judge(Some(setting)).status;
        assert_eq!(
            status("always within_size advise [never] deny force\n"),
            Status::Ok
        );
        assert_eq!(
            status("[always] within_size advise never deny force\n"),
            Status::Warning
        );
        assert_eq!(
            status("always within_size [advise] never deny force\n"),
            Status::Ok
        );
        assert_eq!(judge(None).status, Status::Ok);
    }
}
