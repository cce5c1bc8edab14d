//! Threads that may only use the system calls they need.
//!
//! Who writes a thread knows what it asks of the kernel and says so in a list of [`Call`]s beside its code. Who builds
//! the machine decides whether the list is enforced, and how: a [`Confinement`] comes in as a value, and every thread
//! of the machine is started by it.
//!
//! 1. [`Confinement::spawn`] makes a filter of the list and of what every thread needs: memory, locks, its own end.
//! 2. The new thread takes the filter upon itself; only then does its work begin.
//!
//! Hazard: a thread inherits the filter of the one that starts it, and a filter only ever narrows. So a confined thread
//! starts no other, and workers are started while the machine is built. A device that is activated by the guest, on a
//! vCPU's thread, hands its work to a worker that waits for it.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, JoinHandle};

/// A system call that a thread needs, by its number (`libc::SYS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// With any arguments.
    Any(i64),
    /// Only when the argument at this place, from 0, is one of these values. 32 bits of it are compared: what the
    /// kernel reads of an ioctl's request, of flags and of protections.
    Only(i64, u8, &'static [u32]),
}

/// Confines the calling thread; made by one thread, called by another.
pub type Entry = Box<dyn FnOnce() -> io::Result<()> + Send>;

thread_local! {
    static CONFINED: Cell<bool> = const { Cell::new(false) };
}

type Prepare = dyn Fn(&[Call]) -> io::Result<Entry> + Send + Sync;

/// How the threads of a machine are confined.
#[derive(Clone, Default)]
pub struct Confinement(Option<Arc<Prepare>>);

impl Confinement {
    /// Threads may do what the process may.
    pub fn none() -> Self {
        Self(None)
    }

    /// Threads are confined by what `prepare` makes of their list, which it completes by what every thread needs.
    pub fn new(prepare: impl Fn(&[Call]) -> io::Result<Entry> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(prepare)))
    }

    /// Starts a thread confined to `calls`, to run `body`.
    ///
    /// # Errors
    /// The host has no thread to give, or will not confine it, or the calling thread is confined itself; then `body`
    /// has not run.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread: Builder,
        calls: &[Call],
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<Option<T>>> {
        if CONFINED.get() {
            return Err(io::Error::other("a confined thread cannot start another; start it before"));
        }
        // Made here, not there: a thread that allocates much has a heap of its own, which stays.
        let entry = self.prepare(calls)?;
        let (tell, told) = sync_channel(1);
        let handle = thread.spawn(move || {
            let entered = entry();
            let confined = entered.is_ok();
            // The receiver waits for this very message.
            let _ = tell.send(entered);
            confined.then(body)
        })?;
        told.recv().map_err(io::Error::other)??;
        Ok(handle)
    }

    /// Confines the calling thread, for good.
    ///
    /// # Errors
    /// The host does not confine threads.
    pub fn enter(&self, calls: &[Call]) -> io::Result<()> {
        self.prepare(calls)?()
    }

    fn prepare(&self, calls: &[Call]) -> io::Result<Entry> {
        let Some(prepare) = &self.0 else { return Ok(Box::new(|| Ok(()))) };
        let entry = prepare(calls)?;
        Ok(Box::new(move || {
            CONFINED.set(true);
            entry()
        }))
    }
}

impl fmt::Debug for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Confinement(on)" } else { "Confinement(off)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::thread;

    #[test]
    fn a_thread_is_confined_to_its_list_before_its_work_begins() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (list, work) = (log.clone(), log.clone());
        let confinement = Confinement::new(move |calls| {
            let (list, calls) = (list.clone(), calls.to_vec());
            Ok(Box::new(move || {
                let name = thread::current().name().map(str::to_owned);
                list.lock().expect("log").push(format!("{name:?} {calls:?}"));
                Ok(())
            }))
        });
        let body = move || work.lock().expect("log").push("works".to_owned());
        let builder = Builder::new().name("w".to_owned());
        let handle = confinement.spawn(builder, &[Call::Any(7)], body).expect("starts");
        assert_eq!(handle.join().expect("ends"), Some(()));
        assert_eq!(*log.lock().expect("log"), ["Some(\"w\") [Any(7)]", "works"]);
    }

    #[test]
    fn a_thread_that_cannot_be_confined_does_not_work() {
        let confinement = Confinement::new(|_| Ok(Box::new(|| Err(io::Error::other("no filters here")))));
        let refused = confinement.spawn(Builder::new(), &[], || unreachable!("works unconfined"));
        assert_eq!(refused.expect_err("refused").to_string(), "no filters here");
        let unprepared = Confinement::new(|_| Err(io::Error::other("a bad list")));
        assert!(unprepared.spawn(Builder::new(), &[], || ()).is_err());
        assert!(unprepared.enter(&[]).is_err());
    }

    #[test]
    fn a_confined_thread_starts_no_other() {
        let confinement = Confinement::new(|_| Ok(Box::new(|| Ok(()))));
        let inner = confinement.clone();
        let body = move || inner.spawn(Builder::new(), &[], || ()).map(drop);
        let handle = confinement.spawn(Builder::new(), &[], body).expect("starts");
        let refused = handle.join().expect("ends").expect("ran").expect_err("refused");
        assert!(refused.to_string().contains("cannot start another"));
    }

    #[test]
    fn without_confinement_a_thread_just_works() {
        let handle = Confinement::none().spawn(Builder::new(), &[], || 42).expect("starts");
        assert_eq!(handle.join().expect("ends"), Some(42));
    }
}
