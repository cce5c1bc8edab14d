use super::*;
use crate::modinfo::tests::module;

/// A host with a kernel (an ELF already), three modules and a stand-in for busybox.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("boot/vmlinuz-6.1", &crate::mark_init());
        write("lib/modules/6.1/kernel/virtio_ring.ko", &module(&["depends="]));
        write("lib/modules/6.1/kernel/virtio_pci.ko", &module(&["depends=virtio_ring"]));
        write("lib/modules/6.1/kernel/extra.ko", &module(&["depends="]));
        write("lib/modules/6.1/modules.builtin", b"kernel/fuse.ko\n");
        write(
            "lib/modules/6.1/modules.order",
            b"kernel/virtio_ring.ko\nkernel/virtio_pci.ko\nkernel/extra.ko\n",
        );
        write("init", &crate::mark_init());
        write("busybox", b"#!/bin/sh\nprintf 'bin/sh\\nsbin/modprobe\\nsbin/init\\n'\n");
        let script = root.path().join("busybox");
        fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self(root)
    }

    fn spec(&self, modules: &[&str]) -> Spec {
        let root = self.0.path();
        Spec {
            source: Source::find(root, Some("6.1")).unwrap(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            with_modules: true,
            init: root.join("init"),
            busybox: Some(root.join("busybox")),
            command: Command::default(),
            compression: Compression::None,
        }
    }

    fn build(&self, spec: &Spec, out: &str) -> Result<Manifest, BuildError> {
        build(spec, &Cache::none(), &self.0.path().join(out), |_| {})
    }

    fn file(&self, path: &str) -> Vec<u8> {
        fs::read(self.0.path().join(path)).unwrap()
    }
}

#[test]
fn two_builds_are_the_same_to_the_byte() {
    let host = Host::new();
    for compression in Compression::ALL {
        let spec = Spec { compression, ..host.spec(&["extra"]) };
        host.build(&spec, "one").unwrap();
        host.build(&spec, "two").unwrap();
        for file in ["vmlinux", "initrd", "manifest.json"] {
            assert_eq!(host.file(&format!("one/{file}")), host.file(&format!("two/{file}")), "{file}");
        }
    }
}

#[test]
fn the_manifest_tells_what_is_loaded_built_in_and_absent() {
    let host = Host::new();
    let manifest = host.build(&host.spec(&["extra"]), "out").unwrap();
    let loaded = |name: &str| ManifestModule { name: name.into(), loaded: true };
    assert_eq!(manifest.modules, ["virtio_ring", "virtio_pci", "extra"].map(loaded));
    assert_eq!(manifest.builtin, ["fuse"]);
    assert!(manifest.absent.contains(&"virtio_net".to_owned()));
    let written: Manifest = serde_json::from_slice(&host.file("out/manifest.json")).unwrap();
    assert_eq!(written, manifest);
    assert_eq!(host.file("out/vmlinux"), crate::mark_init());
}

#[test]
fn only_a_module_that_was_asked_for_must_exist() {
    let host = Host::new();
    let error = host.build(&host.spec(&["nosuch"]), "out").unwrap_err();
    assert_eq!(error.to_string(), "the kernel 6.1 has no module nosuch");
    assert!(!host.0.path().join("out").exists());
}

#[test]
fn applets_are_linked_but_never_over_init() {
    let host = Host::new();
    host.build(&host.spec(&[]), "out").unwrap();
    let initrd = host.file("out/initrd");
    let text = String::from_utf8_lossy(&initrd);
    assert!(text.contains("bin/sh\0") && text.contains("sbin/modprobe\0") && !text.contains("sbin/init\0"));
}

#[test]
fn an_image_is_current_until_something_of_it_changes() {
    let host = Host::new();
    let (spec, out) = (host.spec(&["extra"]), host.0.path().join("out"));
    assert_eq!(crate::current(&spec, &out), None);
    let manifest = host.build(&spec, "out").unwrap();
    assert_eq!(crate::current(&spec, &out), Some(manifest));
    let other = Spec { compression: Compression::Gzip, ..spec.clone() };
    assert_eq!(crate::current(&other, &out), None, "another way to build");
    fs::write(out.join("initrd"), "cut").unwrap();
    assert_eq!(crate::current(&spec, &out), None, "an output that is damaged");
    host.build(&spec, "out").unwrap();
    for input in ["boot/vmlinuz-6.1", "init", "busybox"] {
        assert!(crate::current(&spec, &out).is_some());
        let file = File::options().append(true).open(host.0.path().join(input)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        // A program that is open for writing cannot be run.
        drop(file);
        assert_eq!(crate::current(&spec, &out), None, "{input}");
        host.build(&spec, "out").unwrap();
    }
    fs::write(host.0.path().join("lib/modules/6.1/modules.dep"), "").unwrap();
    assert_eq!(crate::current(&spec, &out), None, "modules come and go by the folder's time");
}

#[test]
fn every_step_is_told_once() {
    let host = Host::new();
    let mut steps = Vec::new();
    let out = host.0.path().join("out");
    build(&host.spec(&[]), &Cache::none(), &out, |step| steps.push(step)).unwrap();
    assert_eq!(steps.len() as u64, Step::COUNT);
}
