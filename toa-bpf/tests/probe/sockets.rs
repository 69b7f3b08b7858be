//! What servers do with sockets that the standard library has no words for.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd};

/// From linux/mptcp.h.
const SOL_MPTCP: libc::c_int = 284;
const MPTCP_INFO: libc::c_int = 1;
const MPTCP_INFO_FLAG_FALLBACK: u32 = 1;
/// From linux/tcp.h, linux/tls.h and linux/bpf.h.
const TCP_ULP: libc::c_int = 31;
const SOL_TLS: libc::c_int = 282;
const TLS_TX: libc::c_int = 1;
const TLS_1_2: u16 = 0x0303;
const TLS_CIPHER_AES_GCM_128: u16 = 51;
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;

/// Keeps a sockmap alive.
pub struct Kept(#[allow(dead_code, reason = "closing it is what matters")] OwnedFd);

/// `struct tls12_crypto_info_aes_gcm_128`; the key is of no importance here, since nobody reads what is sent.
#[repr(C)]
struct TlsKey {
    version: u16,
    cipher: u16,
    iv: [u8; 8],
    key: [u8; 16],
    salt: [u8; 4],
    sequence: [u8; 8],
}

fn set_option<T>(socket: &impl std::os::fd::AsRawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap();
    // SAFETY: the value is plain data that lives through the call, and its length is passed.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a receiver's own socket options tell: address and port. An error of the kind "not found" says there is nothing.
pub fn ask_receiver(stream: &TcpStream, option: libc::c_int) -> io::Result<SocketAddr> {
    let mut answer = [0_u8; 20];
    let mut length = libc::socklen_t::try_from(answer.len()).unwrap();
    // SAFETY: the buffer and its length live through the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            answer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&answer[..16]).unwrap());
    Ok(SocketAddr::new(address.to_canonical(), u16::from_be_bytes([answer[16], answer[17]])))
}

/// The data segment, not the bare ACK, makes the connection.
pub fn defer_accept(listener: &TcpListener) -> io::Result<()> {
    let seconds: libc::c_int = 30;
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, &seconds)
}

/// A listener as programs have that turn MPTCP on, Go's among them.
pub fn listen_mptcp(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    set_option(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)?;
    match address {
        SocketAddr::V4(v4) => bind(
            &listener,
            &libc::sockaddr_in {
                sin_family: libc::sa_family_t::try_from(family).unwrap(),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            },
        )?,
        SocketAddr::V6(v6) => bind(
            &listener,
            &libc::sockaddr_in6 {
                sin6_family: libc::sa_family_t::try_from(family).unwrap(),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            },
        )?,
    }
    // SAFETY: no pointers are passed.
    if unsafe { libc::listen(fd, 8) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(listener)
}

/// `name` is a `sockaddr_in` or `sockaddr_in6`.
fn bind<T>(socket: &TcpListener, name: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(name)).unwrap();
    // SAFETY: the address is valid for the length that is passed.
    match unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(name).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of a descriptor that stays open in the program that this one becomes.
pub fn inheritable(listener: TcpListener) -> io::Result<libc::c_int> {
    let fd = listener.into_raw_fd();
    // SAFETY: no pointers are passed.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An error where the connection does not speak MPTCP, or has ceased to.
pub fn speaks_mptcp(stream: &TcpStream) -> io::Result<()> {
    // `struct mptcp_info`: its flags are the third word.
    let mut info = [0_u32; 3];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
    // SAFETY: the buffer and its length live through the call.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    match result {
        0 if info[2] & MPTCP_INFO_FLAG_FALLBACK == 0 => Ok(()),
        0 => Err(io::Error::other("it has fallen back to TCP")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel encrypt what is sent from now on, and sends something.
pub fn encrypt(stream: &TcpStream) -> io::Result<()> {
    set_option(stream, libc::IPPROTO_TCP, TCP_ULP, b"tls")?;
    let key = TlsKey {
        version: TLS_1_2,
        cipher: TLS_CIPHER_AES_GCM_128,
        iv: [1; 8],
        key: [2; 16],
        salt: [3; 4],
        sequence: [0; 8],
    };
    set_option(stream, SOL_TLS, TLS_TX, &key)?;
    (&mut &*stream).write_all(b"encrypted by the kernel")
}

/// Turns an IPv6 socket with an IPv4 peer into an IPv4 socket.
pub fn make_ipv4(stream: &TcpStream) -> io::Result<()> {
    set_option(stream, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, &libc::AF_INET)
}

/// Puts the socket into a map that BPF programs move data between sockets with.
pub fn put_into_sockmap(stream: &TcpStream) -> io::Result<Kept> {
    // Type, key size, value size, entries, flags: the head of union bpf_attr for BPF_MAP_CREATE.
    let create: [u32; 5] = [BPF_MAP_TYPE_SOCKMAP, 4, 4, 1, 0];
    // SAFETY: the attributes are valid for the length that is passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const create, size_of_val(&create)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor is new, and nobody else has it.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let (key, value) = (0_u32, stream.as_raw_fd());
    // Map, key, value, flags: the same for BPF_MAP_UPDATE_ELEM, each 8 bytes.
    let update = [
        u64::try_from(fd).map_err(io::Error::other)?,
        (&raw const key).addr() as u64,
        (&raw const value).addr() as u64,
        0,
    ];
    // SAFETY: the attributes point to a key and a value that live through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const update, size_of_val(&update)) };
    if result == 0 { Ok(Kept(map)) } else { Err(io::Error::last_os_error()) }
}
