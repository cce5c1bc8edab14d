//! The arrows between rooms, and who may know KVM.

use std::path::{Path, PathBuf};

use super::Finding;
use super::metadata::{Metadata, Package};
use super::tree::Tree;

/// Which rooms a room may use. `guest/kernel` under `vmm`: docs/adr/0006-vmm-uses-guest-kernel.md.
const ARROWS: [(&str, &[&str]); 9] = [
    ("shim", &["vmm"]),
    ("vmm", &["virtio-net", "virtio-fs", "vsock", "devices", "guest/kernel"]),
    ("virtio-net", &["devices"]),
    ("virtio-fs", &["devices"]),
    ("vsock", &["devices"]),
    ("devices", &[]),
    ("guest", &["guest/kernel"]),
    ("guest/kernel", &[]),
    ("guest/init", &[]),
];

/// Rooms from which any arrow may go, in all their crates.
const FREE: [&str; 2] = ["tests", "benches"];

/// Every dependency of every crate, of every kind.
pub(super) fn check(metadata: &Metadata, tree: &Tree) -> Vec<Finding> {
    metadata.packages.iter().flat_map(|package| check_crate(metadata, tree, package)).collect()
}

fn check_crate(metadata: &Metadata, tree: &Tree, package: &Package) -> Vec<Finding> {
    let room = metadata.room(package);
    if FREE.iter().any(|free| room.starts_with(free)) {
        return Vec::new();
    }
    let manifest = room.join("Cargo.toml");
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| room == Path::new(from)) else {
        let what = format!("the crate {} is in no room (limit: the table in lint/arrows.rs)", package.name);
        return vec![Finding::new(manifest, 1, what)];
    };
    let mut found = Vec::new();
    for needed in &package.dependencies {
        if let Some(what) = wrong(metadata, &room, allowed, &needed.name) {
            let line = line_of(tree.text(&manifest).unwrap_or_default(), &needed.name);
            found.push(Finding::new(&manifest, line, what));
        }
    }
    found
}

/// What is wrong with an arrow from `room` to the crate `needed`, if anything.
fn wrong(metadata: &Metadata, room: &Path, allowed: &[&str], needed: &str) -> Option<String> {
    if needed.starts_with("kvm-") && room != Path::new("vmm") {
        return Some(format!("{} uses {needed} (limit: only vmm knows KVM)", room.display()));
    }
    let to: PathBuf = metadata.room(metadata.named(needed)?);
    if allowed.iter().any(|other| to == Path::new(other)) {
        return None;
    }
    let limit = if allowed.is_empty() { "no other room".to_owned() } else { allowed.join(", ") };
    Some(format!("{} uses {} (limit: {limit})", room.display(), to.display()))
}

/// The line on which a manifest names a dependency.
fn line_of(manifest: &str, name: &str) -> usize {
    let names = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
    manifest.lines().position(names).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::metadata::workspace;
    use super::*;

    fn found(crates: &[(&str, &str, &str, &[&str])], tree: &Tree) -> Vec<String> {
        check(&workspace(crates), tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_among_the_device_crates_is_found_where_the_manifest_has_it() {
        let manifest = "[package]\nname = \"vsock\"\n[dependencies]\ndevices.workspace = true\n\
                        virtio-net.workspace = true\n";
        let tree = Tree::from([("vsock/Cargo.toml", manifest)]);
        let crates: &[(&str, &str, &str, &[&str])] = &[
            ("vsock", "vsock", "lib", &["devices", "virtio-net"]),
            ("virtio-net", "virtio-net", "lib", &["devices"]),
            ("devices", "devices", "lib", &["libc"]),
        ];
        assert_eq!(found(crates, &tree), ["vsock/Cargo.toml:5: vsock uses virtio-net (limit: devices)"]);
    }

    #[test]
    fn arrows_that_point_up_are_found() {
        let crates: &[(&str, &str, &str, &[&str])] = &[
            ("devices", "devices", "lib", &["vmm"]),
            ("vmm", "vmm", "lib", &["devices", "kvm-ioctls", "guest"]),
            ("guest", "guest", "lib", &[]),
        ];
        let found = found(crates, &Tree::default());
        assert!(found.contains(&"devices/Cargo.toml:1: devices uses vmm (limit: no other room)".to_owned()));
        assert!(found.iter().any(|line| line.contains("vmm uses guest ")), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn kvm_is_known_to_the_vmm_alone() {
        let crates: &[(&str, &str, &str, &[&str])] = &[
            ("shim", "shim", "lib", &["kvm-bindings"]),
            ("vmm", "vmm", "lib", &["kvm-bindings"]),
            ("tests/xtask", "xtask", "bin", &["kvm-bindings"]),
        ];
        let expected = "shim/Cargo.toml:1: shim uses kvm-bindings (limit: only vmm knows KVM)";
        assert_eq!(found(crates, &Tree::default()), [expected]);
    }

    #[test]
    fn a_crate_outside_of_every_room_is_found_and_tests_may_use_anything() {
        let crates: &[(&str, &str, &str, &[&str])] = &[
            ("tools/extra", "extra", "lib", &[]),
            ("tests/xtask", "xtask", "bin", &["vmm", "extra"]),
            ("vmm", "vmm", "lib", &[]),
        ];
        let found = found(crates, &Tree::default());
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("tools/extra/Cargo.toml:1: the crate extra is in no room"));
    }
}
