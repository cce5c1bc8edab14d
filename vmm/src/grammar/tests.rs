use super::*;
use proptest::prelude::*;

fn memory_of(text: &str) -> Result<MemoryConfig, String> {
    let mut config = MemoryConfig::default();
    memory(text, &mut config).map_err(|e| e.to_string())?;
    Ok(config)
}

fn cpus_of(text: &str) -> Result<CpusConfig, String> {
    let mut config = CpusConfig::default();
    cpus(text, &mut config).map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn memory_takes_a_size_alone_or_keys() {
    let want = MemoryConfig { size: 2 << 30, shared: false, hugepages: false };
    assert_eq!(memory_of("2G").unwrap(), want);
    assert_eq!(memory_of("size=2G").unwrap(), want);
    assert_eq!(memory_of("size=2048M,shared=on").unwrap(), MemoryConfig { shared: true, ..want });
    assert_eq!(memory_of("2g,hugepages=true").unwrap(), MemoryConfig { hugepages: true, ..want });
}

#[test]
fn a_flag_changes_only_the_keys_it_names() {
    let mut config = MemoryConfig { size: 1 << 30, shared: false, hugepages: true };
    memory("shared=on", &mut config).unwrap();
    assert_eq!(config, MemoryConfig { size: 1 << 30, shared: true, hugepages: true });
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    assert_eq!(
        memory_of("size=1G,hugepage=on").unwrap_err(),
        "--memory has no key \"hugepage\"; did you mean \"hugepages\"?"
    );
    assert_eq!(
        memory_of("size=1G,zebra=on").unwrap_err(),
        "--memory has no key \"zebra\"; there are size, shared and hugepages"
    );
    assert_eq!(serial("sdtio").unwrap_err().to_string(), {
        "--serial does not know \"sdtio\"; did you mean \"stdio\"?"
    });
    assert_eq!(console("fil=/x").unwrap_err().to_string(), {
        "--console has no key \"fil\"; did you mean \"file\"?"
    });
}

#[test]
fn a_key_given_twice_is_refused() {
    assert_eq!(
        memory_of("size=1G,size=2G").unwrap_err(),
        "--memory has the key \"size\" twice; give it once"
    );
    assert_eq!(memory_of("1G,size=2G").unwrap_err(), "--memory has the key \"size\" twice; give it once");
    assert!(cpus_of("4,boot=4").unwrap_err().contains("twice"));
}

#[test]
fn values_that_make_no_sense_say_what_would() {
    assert_eq!(
        memory_of("size=lots").unwrap_err(),
        "--memory size=lots is not understood; size takes a number of bytes, or one with K, M, G or T"
    );
    assert_eq!(
        memory_of("size").unwrap_err(),
        "--memory size needs a value: a number of bytes, or one with K, M, G or T"
    );
    assert!(memory_of("shared=maybe").unwrap_err().contains("shared takes on or off"));
    assert!(memory_of("size=99999999T").unwrap_err().contains("not understood"));
    assert!(cpus_of("boot=-1").unwrap_err().contains("a number of CPUs from 1 to 32"));
    assert!(cpus_of("10000").unwrap_err().contains("a number of CPUs from 1 to 32"));
    assert!(memory_of("1G,").unwrap_err().contains("empty element"));
    assert!(memory_of("").unwrap_err().contains("empty element"));
}

#[test]
fn cpus_take_a_number_or_boot_and_max() {
    assert_eq!(cpus_of("4").unwrap(), CpusConfig { boot: 4, max: None });
    assert_eq!(cpus_of("boot=2,max=8").unwrap(), CpusConfig { boot: 2, max: Some(8) });
}

#[test]
fn double_quotes_keep_commas_and_equals_signs() {
    assert_eq!(serial("file=\"/a,b=c\"").unwrap(), ConsoleTarget::File("/a,b=c".into()));
    assert_eq!(serial("file=/x\"y,\"z").unwrap(), ConsoleTarget::File("/xy,z".into()));
    assert_eq!(serial("file=/a=b").unwrap(), ConsoleTarget::File("/a=b".into()));
    assert_eq!(serial("file=\"/a").unwrap_err(), GrammarError::Quote { flag: "serial" });
}

#[test]
fn a_console_has_exactly_one_target() {
    for (text, want) in [
        ("off", ConsoleTarget::Off),
        ("null", ConsoleTarget::Null),
        ("tty", ConsoleTarget::Tty),
        ("stdio", ConsoleTarget::Stdio),
        ("pty", ConsoleTarget::Pty),
        ("socket=/run/s", ConsoleTarget::Socket("/run/s".into())),
    ] {
        assert_eq!(serial(text).unwrap(), want, "{text}");
    }
    assert!(serial("tty,file=/x").is_err());
    assert!(serial("file=/x,socket=/y").is_err());
    assert!(serial("file=").is_err());
}

#[test]
fn rng_is_a_switch_or_a_source() {
    assert_eq!(rng("on").unwrap(), Some(RngConfig::default()));
    assert_eq!(rng("off").unwrap(), None);
    assert_eq!(
        rng("src=/dev/hwrng").unwrap(),
        Some(RngConfig { src: "/dev/hwrng".into(), ..RngConfig::default() })
    );
    let limited = RngConfig { bw: Some(64 << 10), ops: Some(9), ..RngConfig::default() };
    assert_eq!(rng("on,bw=64K,ops=9").unwrap(), Some(limited));
    assert_eq!(rng("off,bw=64K").unwrap(), None);
    assert!(rng("on,bw=fast").unwrap_err().to_string().contains("bw takes a number of bytes"));
    assert_eq!(rng("scr=/x").unwrap_err().to_string(), { "--rng has no key \"scr\"; did you mean \"src\"?" });
}

#[test]
fn the_virtio_console_may_have_limits_and_the_serial_port_has_none() {
    let limits = LimitsConfig { bw: Some(1 << 20), ops: Some(7) };
    assert_eq!(console("tty,bw=1M,ops=7").unwrap(), (ConsoleTarget::Tty, limits));
    let file = (ConsoleTarget::File("/x".into()), LimitsConfig { ops: None, ..limits });
    assert_eq!(console("bw=1M,file=/x").unwrap(), file);
    assert_eq!(console("null").unwrap(), (ConsoleTarget::Null, LimitsConfig::default()));
    assert!(console("bw=1M").is_err(), "no target");
    assert!(serial("tty,bw=1M").unwrap_err().to_string().contains("no key \"bw\""));
}

#[test]
fn sizes_have_units_of_1024() {
    assert_eq!(size("512"), Some(512));
    assert_eq!(size("4K"), Some(4096));
    assert_eq!(size("1MiB"), Some(1 << 20));
    assert_eq!(size("6g"), Some(6 << 30));
    assert_eq!(size("1T"), Some(1 << 40));
    for bad in ["", "G", "1.5G", "-1", "1X", "0x10", "18446744073709551616", "17179869184G", "1 G"] {
        assert_eq!(size(bad), None, "{bad}");
    }
}

#[test]
fn words_that_are_far_from_any_get_the_list() {
    assert_eq!(seccomp("strict").unwrap_err().to_string(), {
        "--seccomp does not know \"strict\"; there are on, off and log"
    });
    assert_eq!(transport("pcie").unwrap_err().to_string(), {
        "--transport does not know \"pcie\"; did you mean \"pci\"?"
    });
}

proptest! {
    #[test]
    fn any_text_is_understood_or_refused(text in ".{0,80}") {
        let _ = memory_of(&text);
        let _ = cpus_of(&text);
        let _ = serial(&text);
        let _ = rng(&text);
        let _ = transport(&text);
        let _ = seccomp(&text);
    }

    #[test]
    fn a_quoted_path_comes_back_whole(path in "/[^\"\0]{1,60}") {
        prop_assert_eq!(
            serial(&format!("file=\"{path}\"")).unwrap(),
            ConsoleTarget::File(path.into())
        );
    }
}
