//! A machine whose guest works for its host: see [`crate::load`].

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tests::peer::Address;

use crate::load::{self, Datagrams, Order};
use crate::memory::{self, Beside};
use crate::{Devices, Subject};

/// Why a machine does not work.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The program could not be started, or not be waited for.
    #[error("{subject}: {source}")]
    Host {
        /// Whose machine.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its guest does not take orders.
    #[error("{subject} {how}; it said:\n{said}")]
    Silent {
        /// Whose machine.
        subject: String,
        /// "hung", or how it ended.
        how: String,
        /// Its output.
        said: String,
    },
}

/// A running machine; one that is dropped is killed.
#[derive(Debug)]
pub struct Machine {
    subject: String,
    devices: Devices,
    child: Child,
    output: PathBuf,
    orders: Option<BufReader<File>>,
}

impl Machine {
    /// Starts `subject`, which has `devices`, and waits until its guest takes orders. What it says goes to `output`.
    ///
    /// # Errors
    /// It cannot be started, ends, or has not got there by `deadline`.
    pub fn start(
        subject: &Subject,
        devices: &Devices,
        output: &Path,
        deadline: Duration,
    ) -> Result<Self, MachineError> {
        let (program, rest) = subject.words.split_first().map_or(("", &[][..]), |(p, r)| (p.as_str(), r));
        let host = |source| MachineError::Host { subject: subject.name.clone(), source };
        let file = File::create(output).map_err(host)?;
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null());
        command.stdout(file.try_clone().map_err(host)?).stderr(file);
        let child = command.spawn().map_err(host)?;
        let (subject, devices) = (subject.name.clone(), devices.clone());
        let mut machine = Self { subject, devices, child, output: output.to_owned(), orders: None };
        machine.wait_for_guest(deadline)?;
        Ok(machine)
    }

    fn wait_for_guest(&mut self, deadline: Duration) -> Result<(), MachineError> {
        let (started, orders) = (Instant::now(), self.vsock(load::ORDERS));
        loop {
            if let Ok(connection) = orders.connect() {
                self.orders = Some(BufReader::new(connection));
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().map_err(|source| self.host(source))? {
                return Err(self.silent(format!("ended with {status} before its guest took orders")));
            }
            if started.elapsed() > deadline {
                return Err(self.silent("hung before its guest took orders".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A port of the guest's over TCP.
    pub fn tcp(&self, port: u16) -> Address {
        Address::Tcp(format!("{}:{port}", self.devices.guest_ip()))
    }

    /// A port of the guest's over vsock.
    pub fn vsock(&self, port: u16) -> Address {
        Address::Vsock(self.devices.cid(), port.into())
    }

    /// The guest's datagrams.
    ///
    /// # Errors
    /// There is no way there.
    pub fn datagrams(&self) -> io::Result<Datagrams> {
        Datagrams::to(&self.devices.guest_ip())
    }

    /// Has the guest do something.
    ///
    /// # Errors
    /// It cannot.
    pub fn ask(&mut self, order: &Order) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or_else(|| io::Error::other("the guest takes no orders"))?;
        load::ask(orders, order)
    }

    /// Its memory beside its guest's, which has `mib` MiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn memory(&self, mib: u32) -> io::Result<Beside> {
        memory::beside(self.child.id(), mib)
    }

    /// Ends the guest, and so the machine.
    ///
    /// # Errors
    /// It ends badly.
    pub fn end(mut self) -> Result<(), MachineError> {
        self.ask(&Order::End).map_err(|source| self.host(source))?;
        let status: ExitStatus = self.child.wait().map_err(|source| self.host(source))?;
        if status.success() { Ok(()) } else { Err(self.silent(format!("ended with {status}"))) }
    }

    fn host(&self, source: io::Error) -> MachineError {
        MachineError::Host { subject: self.subject.clone(), source }
    }

    /// All that it and its guest's console have said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    fn silent(&self, how: String) -> MachineError {
        MachineError::Silent { subject: self.subject.clone(), how, said: self.said() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
