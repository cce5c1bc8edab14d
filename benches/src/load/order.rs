//! Orders to a guest, a line of JSON each, answered with a line when they are done.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use serde::{Deserialize, Serialize};

use super::{Disk, Files};

const DONE: &str = "done";

/// What a guest shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Requests to its disk.
    Disk(Disk),
    /// Work in its shared directory.
    Files(Files),
    /// To end, which needs no answer.
    End,
}

/// Gives an order and waits until it is done.
///
/// # Errors
/// The guest cannot do it and says why, or is gone.
pub fn ask(connection: &mut BufReader<File>, order: &Order) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    connection.get_mut().write_all(&line)?;
    let mut answer = String::new();
    connection.read_line(&mut answer)?;
    match (order, answer.trim()) {
        (_, DONE) | (Order::End, "") => Ok(()),
        (_, why) => Err(io::Error::other(format!("the guest answers {order:?} with {why:?}"))),
    }
}

/// Does what comes over a connection.
pub(super) fn obey(connection: File) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while let Ok(1..) = connection.read_line(&mut line) {
        let done = match serde_json::from_str(&line) {
            Ok(Order::Disk(disk)) => disk.work(),
            Ok(Order::Files(files)) => files.work(),
            Ok(Order::End) => std::process::exit(0),
            Err(why) => Err(why.into()),
        };
        let answer = done.map_or_else(|why| why.to_string(), |()| DONE.to_owned());
        if connection.get_mut().write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}
