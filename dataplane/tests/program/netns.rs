//! A network namespace of the test's own, and the far ends of net_tap ports in it.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::common::PATIENCE;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// A namespace; deleted when dropped. End the processes in it first.
pub(crate) struct Netns(String);

impl Netns {
    pub(crate) fn new() -> Netns {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let netns = Netns(format!("tgprogram{}-{number}", std::process::id()));
        run(&format!("ip netns add {}", netns.0));
        netns.ip("link set lo up");
        // A net_tap interface has the MAC address, and so the link-local address, of the twin at the cable's other end:
        // duplicate detection would find that, now and then.
        netns.inside(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// `ip` with these arguments, in the namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.0))
    }

    /// Runs `work` in the namespace, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        let thread = || {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    /// Sends one datagram from the namespace's own stack.
    pub(crate) fn send_datagram(&self, to: &str, len: usize) {
        let sent = self.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&vec![0x5a; len], to));
        assert_eq!(sent.unwrap(), len);
    }

    /// The far end of the net_tap port whose kernel side is `interface`.
    pub(crate) fn cable(&self, interface: &str) -> Cable {
        self.inside(|| {
            let mut all = nix::ifaddrs::getifaddrs().unwrap().filter(|one| one.interface_name == interface);
            let link = all.find_map(|one| one.address?.as_link_addr().copied()).unwrap();
            let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
            let fd = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll).unwrap();
            bind(fd.as_raw_fd(), &link).unwrap();
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
            Cable { fd, link }
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// What the other stations of a port's network see and send.
pub(crate) struct Cable {
    fd: OwnedFd,
    link: LinkAddr,
}

impl Cable {
    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = sendto(self.fd.as_raw_fd(), frame, &self.link, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The next frame, if one comes within 50 ms.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        match recv(self.fd.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(len) => Some(frame[..len].to_vec()),
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(errno) => panic!("{errno}"),
        }
    }

    /// The first frame that `wanted` takes; `again` runs whenever none has come for a while.
    pub(crate) fn wait_for(&self, mut wanted: impl FnMut(&[u8]) -> bool, mut again: impl FnMut()) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next() {
                Some(frame) if wanted(&frame) => return frame,
                Some(_) => {}
                None => again(),
            }
            assert!(Instant::now() < deadline, "the frame does not come");
        }
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
