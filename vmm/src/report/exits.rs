//! VM exits by kind, from KVM's counters.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Counters;

/// A kind of VM exit, and KVM's counters of it.
#[derive(Debug)]
pub struct Kind {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// Its name in a narrow column.
    pub short: &'static str,
    /// Counters whose sum it is; empty for the rest of all exits.
    pub counters: &'static [&'static str],
}

impl Kind {
    /// All kinds; the last one is what no other counts (CPUID, MSRs, hypercalls, …).
    pub const ALL: [Self; 6] = [
        Self { key: "port", label: "port I/O", short: "port", counters: &["io_exits"] },
        Self { key: "mmio", label: "MMIO", short: "mmio", counters: &["mmio_exits"] },
        Self { key: "page_fault", label: "page fault", short: "fault", counters: &["pf_taken"] },
        Self { key: "halt", label: "halt", short: "halt", counters: &["halt_exits"] },
        Self {
            key: "interrupt",
            label: "interrupt",
            short: "irq",
            counters: &["irq_exits", "irq_window_exits", "nmi_window_exits"],
        },
        Self { key: "other", label: "other", short: "other", counters: &[] },
    ];
}

/// Numbers of VM exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exits {
    /// All exits.
    pub total: u64,
    /// By kind, in the order of [`Kind::ALL`].
    pub by_kind: [u64; 6],
    /// Those that came back to this process, where they were counted.
    pub to_userspace: u64,
}

/// The counter of returns to userspace, which KVM does not have and the machine adds.
pub(crate) const TO_USERSPACE: &str = "returns_to_userspace";

impl Exits {
    /// The exits in `counters`.
    pub fn of(counters: &Counters) -> Self {
        let value = |name: &&str| counters.get(*name).copied().unwrap_or(0);
        let total = value(&"exits");
        let mut by_kind = Kind::ALL.map(|kind| kind.counters.iter().map(value).sum());
        let named: u64 = by_kind.iter().sum();
        if let Some(other) = by_kind.last_mut() {
            // The counters are read one after another while the guest runs, and may overlap a little.
            *other = total.saturating_sub(named);
        }
        Self { total, by_kind, to_userspace: value(&TO_USERSPACE) }
    }

    /// Exits since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut by_kind = self.by_kind;
        by_kind.iter_mut().zip(earlier.by_kind).for_each(|(now, then)| *now = now.saturating_sub(then));
        Self {
            total: self.total.saturating_sub(earlier.total),
            by_kind,
            to_userspace: self.to_userspace.saturating_sub(earlier.to_userspace),
        }
    }
}

impl Serialize for Exits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(Kind::ALL.len() + 2))?;
        map.serialize_entry("total", &self.total)?;
        for (kind, number) in Kind::ALL.iter().zip(self.by_kind) {
            map.serialize_entry(kind.key, &number)?;
        }
        map.serialize_entry("to_userspace", &self.to_userspace)?;
        map.end()
    }
}
