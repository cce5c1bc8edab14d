//! A machine's devices, in the words of each VMM that is compared.

use std::path::{Path, PathBuf};

/// By which a guest knows the directory that is shared with it.
const TAG: &str = "src";

/// All devices that a sandbox may have: a network on a tap that is there, sockets, a disk, and idle ones beside them; machines at the same time have different numbers.
#[derive(Clone, Debug)]
pub struct Devices {
    number: u8,
    disk: PathBuf,
}

impl Devices {
    /// The devices of machine `number`, whose disk is the image `disk`.
    pub fn new(number: u8, disk: &Path) -> Self {
        Self { number, disk: disk.to_owned() }
    }

    /// The guest's address; the tap has the one that ends with 1. The guest makes it of its Ethernet address.
    pub fn guest_ip(&self) -> String {
        format!("10.0.{}.2", self.number)
    }

    /// The guest's context id.
    pub fn cid(&self) -> u32 {
        // 2 is the host.
        2 + u32::from(self.number)
    }

    fn tap(&self) -> String {
        format!("tap{}", self.number)
    }

    fn mac(&self) -> String {
        format!("52:54:00:00:00:{:02x}", self.number)
    }

    /// Our words.
    pub fn kiwi(&self) -> Vec<String> {
        let disk = self.disk.display();
        let net = format!("tap={},mac={},vhost=on", self.tap(), self.mac());
        let words = ["--transport", "pci", "--net", &net, "--vsock", &self.cid().to_string()];
        let words = words.into_iter().chain(["--balloon", "on", "--rng", "on", "--console", "null"]);
        words.map(str::to_owned).chain(["--disk".to_owned(), format!("path={disk}")]).collect()
    }

    /// QEMU's words. The page cache and flushes are as ours are by default, the disk has a thread of its own as ours
    /// has, and options for booting from a device, which only cost, are left out.
    pub fn qemu(&self) -> Vec<String> {
        let (tap, mac, cid, disk) = (self.tap(), self.mac(), self.cid(), self.disk.display());
        let modern = "disable-legacy=on";
        [
            "-netdev".to_owned(),
            format!("tap,id=net0,ifname={tap},script=no,downscript=no,vhost=on"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=net0,mac={mac},romfile=,{modern}"),
            "-device".to_owned(),
            format!("vhost-vsock-pci,guest-cid={cid},{modern}"),
            "-object".to_owned(),
            "iothread,id=io0".to_owned(),
            "-drive".to_owned(),
            format!("if=none,id=disk0,format=raw,cache=writeback,aio=io_uring,file={disk}"),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=disk0,iothread=io0,{modern}"),
            "-device".to_owned(),
            format!("virtio-balloon-pci,{modern}"),
            "-device".to_owned(),
            format!("virtio-rng-pci,{modern}"),
            "-device".to_owned(),
            format!("virtio-serial-pci,{modern}"),
            "-chardev".to_owned(),
            "null,id=null0".to_owned(),
            "-device".to_owned(),
            "virtconsole,chardev=null0".to_owned(),
        ]
        .into()
    }

    /// Our words for a directory, served at `socket`, and sockets to give orders by.
    pub fn kiwi_sharing(&self, socket: &Path, _: u32) -> Vec<String> {
        let (cid, share) = (self.cid().to_string(), format!("tag={TAG},socket={}", socket.display()));
        ["--transport", "pci", "--vsock", &cid, "--fs", &share].map(str::to_owned).into()
    }

    /// QEMU's words for the same. The daemon maps the guest's memory, `mib` MiB, which must be a file for that; ours becomes
    /// one by itself.
    pub fn qemu_sharing(&self, socket: &Path, mib: u32) -> Vec<String> {
        let modern = "disable-legacy=on";
        [
            "-object".to_owned(),
            format!("memory-backend-memfd,id=memory,size={mib}M,share=on"),
            "-machine".to_owned(),
            "memory-backend=memory".to_owned(),
            "-device".to_owned(),
            format!("vhost-vsock-pci,guest-cid={},{modern}", self.cid()),
            "-chardev".to_owned(),
            format!("socket,id=fs0,path={}", socket.display()),
            "-device".to_owned(),
            format!("vhost-user-fs-pci,chardev=fs0,tag={TAG}"),
        ]
        .into()
    }
}
