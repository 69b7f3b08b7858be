//! Which steering the program chooses on the ports that it finds.

use api::{Request, Response, Status};

use crate::common::{Dataplane, dataplane_section, write_text};
use crate::forwarding::{apply, state};

/// What the program says of itself with such a device, another one that hashes, and three workers.
fn status_on(device: &str, steering: &str) -> Status {
    let directory = tempfile::tempdir().unwrap();
    let port = |name: &str, device: &str| {
        format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\nkernel_interface = \"\"\nrx_descriptors = 64\n"
        )
    };
    let section = dataplane_section(directory.path(), 3);
    let text = format!(
        "{section}steering = \"{steering}\"\n{}{}",
        port("wan", device),
        port("lan", "net_null,size=60,no-rx=1")
    );
    let config = write_text(directory.path(), &text);
    let dataplane = Dataplane::start_with(directory.path(), &config, &[], None);
    assert_eq!(dataplane.ask(&apply(state(1))), Response::Applied { generation: 1 });
    let Response::Status(status) = dataplane.ask(&Request::GetStatus) else { panic!("no status") };
    *status
}

/// It takes a key and a table and tells them, as NICs do; only packets there are none.
const HASHES: &str = "net_null,no-rx=1";

#[test]
fn ports_that_take_the_same_key_and_table_steer_by_their_hash() {
    let status = status_on(HASHES, "auto");
    assert_eq!((status.steering.as_str(), status.steering_note.as_str()), ("rss", ""));
    assert_eq!(status.warnings, [] as [&str; 0]);
}

#[test]
fn software_is_what_ports_without_a_hash_leave_and_a_warning_if_more_was_wanted() {
    let status = status_on("net_ring", "auto");
    assert_eq!(status.steering, "software");
    assert!(status.steering_note.contains("port wan"), "{}", status.steering_note);
    assert!(!status.warnings.iter().any(|warning| warning.contains("steering")), "{:?}", status.warnings);
    let status = status_on("net_ring", "rss");
    assert!(status.warnings.iter().any(|warning| warning.contains("\"rss\" is not possible")), "{status:?}");
}

#[test]
fn ports_that_take_no_flow_rules_say_so() {
    let status = status_on("net_ring", "auto");
    assert!(status.steering_note.contains("no flow rules: port wan"), "{}", status.steering_note);
    let status = status_on(HASHES, "flow");
    assert_eq!((status.steering.as_str(), status.flow_rules), ("software", 0));
    assert!(
        status.steering_note.contains("port wan (net_null) takes none for IPv4 (Function not implemented)"),
        "{}",
        status.steering_note
    );
    assert!(status.warnings.iter().any(|warning| warning.contains("\"flow\" is not possible")), "{status:?}");
}

#[test]
fn software_can_be_asked_for() {
    let status = status_on(HASHES, "software");
    assert_eq!((status.steering.as_str(), status.steering_note.as_str()), ("software", "as configured"));
}
