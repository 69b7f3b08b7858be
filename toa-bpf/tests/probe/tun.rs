//! A TUN device: whole IP packets in and out of a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

/// `TUNSETIFF` of linux/if_tun.h on all architectures that matter here.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;
/// The largest packet that anything here sends.
const PACKET_MAX: usize = 2048;

/// A TUN device that lives as long as this value.
pub struct Tun(File);

/// Waits until `fd` has something to read. False when the deadline passes first.
pub fn wait_readable(fd: RawFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut pollfd = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let timeout_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd is passed, and its count is 1.
        let ready = unsafe { libc::poll(&raw mut pollfd, 1, timeout_ms) };
        match ready {
            0 => return Ok(false),
            1.. => return Ok(true),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

impl Tun {
    /// Makes the device in the network namespace of this thread.
    pub fn create(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: ifreq is plain data, for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        assert!(name.len() < libc::IFNAMSIZ, "interface name {name} is too long");
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
        // SAFETY: the descriptor is open, and TUNSETIFF takes a pointer to an ifreq, which outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(file))
    }

    /// Hands a packet to the kernel.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.0).write_all(packet)
    }

    /// The next packet from the kernel for which `wanted` returns something.
    pub fn receive<T>(&self, wait: Duration, wanted: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + wait;
        let mut packet = [0; PACKET_MAX];
        while wait_readable(self.0.as_raw_fd(), deadline)? {
            let length = (&self.0).read(&mut packet)?;
            if let Some(found) = wanted(&packet[..length]) {
                return Ok(found);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the expected packet did not come"))
    }
}
