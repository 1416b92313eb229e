use crate::*;

#[test]
fn a_relative_path_starts_at_the_bundle() {
    let plan = planned(minimal()).unwrap();
    assert_eq!(plan.host.rootfs, PathBuf::from("/bundle/rootfs"));
    let guest = plan.guest.root().as_ref().unwrap();
    assert_eq!(guest.path(), Path::new("/run/share/c1/rootfs"));
    assert_eq!(guest.readonly(), Some(false));
}

#[test]
fn an_absolute_path_is_taken_as_it_is() {
    let plan = with("/root/path", json!("/srv/./tree")).unwrap();
    assert_eq!(plan.host.rootfs, PathBuf::from("/srv/tree"));
}

#[test]
fn read_only_holds_on_both_sides() {
    let plan = with("/root/readonly", json!(true)).unwrap();
    assert!(plan.host.rootfs_read_only);
    assert_eq!(plan.guest.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn paths_that_escape_are_refused() {
    for path in ["../..", "rootfs/../../x", "/srv/../etc", "", ".", "a\0b"] {
        assert_eq!(invalid(with("/root/path", json!(path))), "root.path", "{path:?}");
    }
    assert_eq!(unsupported(with("/root/path", json!("/"))), "root.path");
    assert_eq!(invalid(with("/root", Value::Null)), "root");
}
