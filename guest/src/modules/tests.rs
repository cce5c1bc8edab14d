use super::*;
use crate::modinfo::tests::module;

/// ring <- pci; ring, pci <- net; builtin is built in.
fn tree(with_dep: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("kernel/a/virtio_ring.ko", &module(&["depends=builtin"]));
    write("kernel/a/virtio-pci.ko", &module(&["depends=virtio_ring", "alias=pci:*"]));
    write("kernel/b/net.ko", &module(&["depends=virtio-pci,virtio_ring"]));
    write("modules.builtin", b"kernel/builtin.ko\n");
    write(
        "modules.order",
        b"kernel/b/net.ko\nkernel/a/virtio-pci.ko\nkernel/a/virtio_ring.ko\nkernel/gone.ko\n",
    );
    if with_dep {
        let text = "kernel/b/net.ko: kernel/a/virtio-pci.ko kernel/a/virtio_ring.ko\n\
                    kernel/a/virtio-pci.ko: kernel/a/virtio_ring.ko\nkernel/a/virtio_ring.ko:\n";
        write("modules.dep", text.as_bytes());
    }
    folder
}

fn names(modules: &[Module]) -> Vec<&str> {
    modules.iter().map(|module| module.name.as_str()).collect()
}

#[test]
fn each_module_comes_after_what_it_needs_and_once() {
    for with_dep in [true, false] {
        let folder = tree(with_dep);
        let tree = ModuleTree::open(folder.path(), "6.1").unwrap();
        let modules = tree.closure(["net", "virtio_pci", "builtin"]).unwrap();
        assert_eq!(names(&modules), ["virtio_ring", "virtio_pci", "net"], "modules.dep: {with_dep}");
        assert_eq!(modules[1].path, "kernel/a/virtio-pci.ko");
        assert_eq!(modules[1].aliases(), ["pci:*"]);
    }
}

#[test]
fn a_compressed_module_is_found_and_unpacked() {
    let folder = tree(false);
    let plain = module(&["depends="]);
    let packed = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    fs::write(folder.path().join("kernel/gone.ko.gz"), packed).unwrap();
    let modules = ModuleTree::open(folder.path(), "6.1").unwrap().closure(["gone"]).unwrap();
    assert_eq!((modules[0].path.as_str(), &modules[0].content), ("kernel/gone.ko", &plain));
}

#[test]
fn an_unknown_name_is_said_with_the_kernel() {
    let folder = tree(true);
    let error = ModuleTree::open(folder.path(), "6.1").unwrap().closure(["nosuch"]).unwrap_err();
    assert_eq!(error.to_string(), "the kernel 6.1 has no module nosuch");
}

#[test]
fn a_missing_dependency_names_both_modules() {
    let folder = tree(false);
    fs::remove_file(folder.path().join("kernel/a/virtio_ring.ko")).unwrap();
    let error = ModuleTree::open(folder.path(), "6.1").unwrap().closure(["net"]).unwrap_err();
    assert!(error.to_string().starts_with("the module virtio_pci needs virtio_ring"), "{error}");
}

#[test]
fn a_loop_of_needs_ends() {
    let folder = tree(false);
    fs::write(folder.path().join("kernel/a/virtio_ring.ko"), module(&["depends=net"])).unwrap();
    let modules = ModuleTree::open(folder.path(), "6.1").unwrap().closure(["net"]).unwrap();
    assert_eq!(modules.len(), 3);
}

#[test]
fn a_folder_without_lists_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let error = ModuleTree::open(folder.path(), "6.1").unwrap_err();
    assert!(error.to_string().contains("--modules-dir"), "{error}");
}
