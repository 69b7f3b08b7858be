//! A TAP device: a network interface of the kernel whose other end is this process.
//!
//! Not DPDK's net_tap, which takes no frame above 1522 bytes whatever its MTU, stops at the first one that is longer,
//! and has the kernel leave checksums and super-frames to a device that nobody plays. Here the kernel is told of no
//! offloads, so it completes its packets by itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use wire::PacketBuf;

use crate::{Burst, Mbuf, Mempool, RX_BURST_MAX};

/// The end of a TAP device that belongs to the process. The interface goes away with it.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// The buffer for the next frame, so that asking for one that is not there costs one system call and no more.
    spare: Option<Mbuf>,
}

/// What [`Tap::receive`] found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Received {
    /// Frames appended to the burst.
    pub frames: usize,
    /// Frames that were longer than a buffer, and are lost.
    pub too_long: usize,
}

impl Tap {
    /// Makes the interface `name` in the network namespace of the calling thread; it is down, with a random MAC address.
    ///
    /// # Errors
    /// `EBUSY`: there is such a TAP device already; `EINVAL`: another interface has the name, or it is none; `EPERM`:
    /// needs `CAP_NET_ADMIN`.
    pub fn open(name: &str) -> io::Result<Tap> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        // SAFETY: a structure of integers and byte arrays, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        if name.is_empty() || name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
        // SAFETY: the file is open, and the structure is the one that this request reads and writes.
        let ret = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &mut request) };
        if ret != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Tap { file, spare: None })
    }

    /// Appends frames that the kernel sent, at most [`RX_BURST_MAX`], each in a buffer of `pool`. Does not wait.
    pub fn receive(&mut self, pool: &Mempool, burst: &mut Burst) -> Received {
        let mut received = Received::default();
        for _ in 0..burst.remaining_capacity().min(RX_BURST_MAX) {
            // Without a buffer the frames wait in the kernel.
            let Some(mut buffer) = self.spare.take().or_else(|| pool.alloc()) else { break };
            let room = buffer.tailroom();
            if !buffer.push_back(room) {
                break;
            }
            match self.file.read(buffer.data_mut()) {
                Ok(0) | Err(_) => {
                    self.spare = Some(emptied(buffer));
                    break;
                }
                // What did not fit is gone, and not told; so a full buffer counts as too long.
                Ok(len) if len == room => {
                    received.too_long += 1;
                    self.spare = Some(emptied(buffer));
                }
                Ok(len) => {
                    buffer.truncate(len);
                    received.frames += 1;
                    burst.push(buffer);
                }
            }
        }
        received
    }

    /// Hands a frame in one segment to the kernel; `false`: it did not take it (the interface is down, no memory).
    pub fn send(&mut self, frame: &Mbuf) -> bool {
        frame.segment_count() == 1 && self.file.write(frame.data()).is_ok_and(|len| len == frame.data().len())
    }
}

fn emptied(mut buffer: Mbuf) -> Mbuf {
    buffer.truncate(0);
    buffer
}
