//! A network for `cargo xtask boot --net`: the guest's side is a few commands before its own, the host's a script that
//! runs where the VMM does and undoes everything when that ends.

use std::ffi::OsString;
use std::fs;

/// Sets up the host's side around a command.
const SCRIPT: &str = include_str!("network.sh");

/// Sets up the guest's side and becomes the command behind.
const GUEST: &str = include_str!("network-guest.sh");

/// What the host's side takes: programs and their packages.
pub(crate) const NEEDS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// One run's network.
pub(crate) struct Network {
    id: u8,
}

impl Network {
    /// A network that runs at the same time do not share.
    pub(crate) fn new() -> Self {
        Self { id: u8::try_from(std::process::id() % 256).unwrap_or(0) }
    }

    /// The device.
    pub(crate) fn flag(&self) -> [OsString; 2] {
        ["--net".into(), "tap=tap0".into()]
    }

    /// `words` with the host's side around them.
    pub(crate) fn around(&self, words: Vec<OsString>) -> Vec<OsString> {
        let script = ["sh".into(), "-c".into(), SCRIPT.into(), "network".into(), self.id.to_string().into()];
        script.into_iter().chain(words).collect()
    }

    /// The guest's command, or a shell, with the guest's side before it.
    pub(crate) fn before(&self, command: &[String]) -> Vec<String> {
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut words: Vec<String> = ["sh", "-c", GUEST, "network"].map(str::to_owned).into();
        words.extend([self.id.to_string(), name_servers(&resolv)]);
        match command {
            [] => words.push("sh".to_owned()),
            command => words.extend_from_slice(command),
        }
        words
    }
}

/// The name servers of a resolv.conf that a guest can reach: not the host's own.
fn name_servers(resolv: &str) -> String {
    let servers = resolv.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).map(str::trim);
    servers.filter(|server| !server.starts_with("127.") && *server != "::1").collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_asks_no_name_server_on_the_hosts_own_loopback() {
        let resolv = "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch x\nnameserver fd00::1\n";
        assert_eq!(name_servers(resolv), "10.0.0.1 fd00::1");
    }

    #[test]
    fn a_command_stays_what_it_was_behind_the_guests_side() {
        let words = Network { id: 7 }.before(&["echo".into(), "a b".into()]);
        assert_eq!(words[4], "7");
        assert_eq!(words[6..], ["echo", "a b"]);
        assert_eq!(Network { id: 7 }.before(&[])[6..], ["sh"]);
    }
}
