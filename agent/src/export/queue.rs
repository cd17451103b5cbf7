//! How much of what was written to a socket is still this host's to deliver.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use nix::libc;

nix::ioctl_read_bad!(outq, libc::TIOCOUTQ, libc::c_int);

/// Bytes that the other side's TCP has not acknowledged (tcp(7), `SIOCOUTQ`).
pub(super) fn unacknowledged(stream: &TcpStream) -> io::Result<usize> {
    let mut bytes = 0;
    // SAFETY: the socket is open for as long as the borrow, and the kernel writes one int.
    unsafe { outq(stream.as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn counts_what_nobody_took() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut other = listener.accept().unwrap().0;
        assert_eq!(unacknowledged(&stream).unwrap(), 0);
        // More than the other side has room for.
        stream.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(more) = stream.write(&[0; 65536]) {
            written += more;
        }
        let waiting = unacknowledged(&stream).unwrap();
        assert!(waiting > 0 && waiting < written, "{waiting} of {written}");
        stream.set_nonblocking(false).unwrap();
        let reader = std::thread::spawn(move || other.read_exact(&mut vec![0; written]).map(|()| other));
        let _other = reader.join().unwrap().unwrap();
        // The last acknowledgement may be on its way.
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while unacknowledged(&stream).unwrap() > 0 {
            assert!(std::time::Instant::now() < soon);
            std::thread::yield_now();
        }
    }
}
