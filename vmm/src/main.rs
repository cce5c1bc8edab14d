//! The `vmm` binary.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut c = vmm::VmConfig::default();
    c.boot.kernel = a[1].clone().into();
    if a[2] != "-" {
        c.boot.initrd = Some(a[2].clone().into());
    }
    c.cpus.boot = a[3].parse().unwrap();
    c.memory.size = a[4].parse::<u64>().unwrap() << 20;
    c.transport = if a[5] == "pci" { vmm::config::Transport::Pci } else { vmm::config::Transport::Mmio };
    if a.len() > 6 {
        c.boot.cmdline = Some(a[6].clone());
    }
    let m = vmm::VmBuilder::from(c).build().unwrap();
    let e = m.start().unwrap().wait();
    println!("{e:?}");
}
