//! `cargo xtask bench files`: a shared directory, ours and QEMU's with the other daemon, as devices are compared.

use super::devices::Setting;
use crate::bed::Load;
use crate::error::Result;
use crate::{build, peer};

/// As for devices: no process of the guest may use ports.
const INIT: &str = r#"#!/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in virtio_pci vmw_vsock_virtio_transport virtiofs; do modprobe $m || poweroff -f; done
mkdir -p /mnt && mount -t virtiofs src /mnt && load
poweroff -f
"#;

/// Daemons change their root, which the kernel allows nobody whose root is its first file system: another is laid over it.
const JOB: &str = r#"b=/bin/busybox
$b mkdir -p /over /var/run && $b ln -s busybox /bin/true && $b mount --rbind / /over && cd /over && $b mount --move . / || exit 1
export KIWI_VIRTIOFSD=/kiwi-virtiofsd KIWI_OTHER_VIRTIOFSD=/virtiofsd PATH=/bin
exec $b chroot . /devices --bench"#;

pub(super) const FILES: Setting = Setting { name: "files", init: INIT, job: JOB, more };

fn more(load: &mut Load) -> Result<()> {
    load.copy(&build::programs()?.virtiofsd, "/kiwi-virtiofsd", 0o755)?;
    load.program(&peer::virtiofsd_at_its_best()?, "/virtiofsd")
}
