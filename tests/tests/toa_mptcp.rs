//! A client that speaks MPTCP, by two paths, to a server behind the whole gateway that knows nothing of it.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tollgate_tests::Cmd;
use tollgate_tests::lab::Lab;
use tollgate_tests::rig::CLIENTS;

/// Timestamps beside the options of MP_JOIN would leave no room for the client's address.
const SERVICE: &str = r#"
[[service]]
listen = "10.1.0.100:5300"
protocol = "tcp"
mode = "fullnat"
tcp_timestamps = "strip"
real_server = [{ address = "10.2.0.11:5300" }]
"#;

/// Where the client's other path begins.
const OTHER_ADDRESS: &str = "10.1.0.21";

/// Answers each question with the peer and how many paths there are beside the first: MPTCP_INFO (1) of SOL_MPTCP (284),
/// whose first byte that is. 262 is IPPROTO_MPTCP.
const SERVER: &str = "import socket\n\
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
    listener.bind(('10.2.0.11', 5300))\n\
    listener.listen()\n\
    print('listening', flush=True)\n\
    while True:\n\
    \x20   connection, accepted = listener.accept()\n\
    \x20   print('accepted', *accepted, flush=True)\n\
    \x20   while connection.recv(1):\n\
    \x20       more = connection.getsockopt(284, 1, 4)[0]\n\
    \x20       connection.send(('%s %d %d\\n' % (*connection.getpeername(), more)).encode())\n";

/// Asks until there is a second path, and once more then. Says its own end of the first path, and the last answer.
const CLIENT: &str = "import socket, sys, time\n\
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
    client.settimeout(10)\n\
    client.bind((sys.argv[1], 0))\n\
    client.connect(('10.1.0.100', 5300))\n\
    answers = client.makefile('r')\n\
    def ask():\n\
    \x20   client.send(b'?')\n\
    \x20   return answers.readline().strip()\n\
    deadline = time.monotonic() + 15\n\
    while not ask().endswith(' 1') and time.monotonic() < deadline:\n\
    \x20   time.sleep(0.05)\n\
    print(*client.getsockname(), '1')\n\
    print(ask())\n";

/// How long the server may take to start, and to write down who came.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_second_path_does_not_change_who_the_client_is() -> Result<()> {
    let lab = Lab::start(SERVICE)?;
    let client = lab.client();
    client.ip(&format!("addr add {OTHER_ADDRESS}/24 dev eth0"))?;
    client.ip(&format!("mptcp endpoint add {OTHER_ADDRESS} dev eth0 subflow"))?;

    let receiver = lab.receiver()?;
    let mut server = lab.serve("mptcp", &Cmd::line("python3 -u -c").arg(SERVER), &receiver)?;
    server.wait_log("listening", PATIENCE)?;

    let asking = Cmd::line("python3 -c").arg(CLIENT).arg(CLIENTS[0]);
    let said = asking.limit(Duration::from_secs(40)).in_netns(client).run()?.stdout;
    let (expected, seen) = said.trim().split_once('\n').context(said.clone())?;
    ensure!(seen == expected, "the server sees {seen}, but {expected} is right");
    let end = expected.strip_suffix(" 1").context(said.clone())?;
    server.wait_log(&format!("accepted {end}\n"), PATIENCE)?;
    // The second path's option is read, too, but the first one's stays.
    let status = receiver.status()?;
    ensure!(status.contains("\n           1  learnt "), "{status}");
    ensure!(status.contains("\n           0  without_option "), "{status}");
    drop(server);
    drop(receiver);
    lab.succeed()
}
