//! Laws of the look-up of UDP ports.

use std::net::{Ipv4Addr, UdpSocket};

use super::super::udp_socket::{ask, is_bound, queue_of, receive_queues};
use super::{in_namespace, wait_for};

#[test]
fn a_port_is_somebodys_while_a_socket_of_either_family_is_bound_to_it_on_all_addresses() {
    in_namespace(|| async {
        for all in ["0.0.0.0", "[::]"] {
            let socket = UdpSocket::bind(format!("{all}:0")).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert!(is_bound(port).unwrap(), "{all}");
            assert!(!is_bound(port ^ 1).unwrap(), "{all}: another port");
            drop(socket);
            assert!(!is_bound(port).unwrap(), "{all}: closed");
        }
    });
}

#[test]
fn a_socket_on_one_address_or_of_tcp_is_none_that_wireguard_could_have() {
    in_namespace(|| async {
        let local = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!is_bound(local.local_addr().unwrap().port()).unwrap());
        let tcp = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(!is_bound(tcp.local_addr().unwrap().port()).unwrap());
    });
}

#[test]
fn packets_for_which_a_socket_has_no_room_are_counted() {
    in_namespace(|| async {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let queue = || receive_queues(port).unwrap()[0];
        assert!(queue().room > 0 && queue().dropped == 0, "{:?}", queue());

        let packet = [0; 1000];
        let packets = queue().room as usize / packet.len() + 10;
        for _ in 0..packets {
            socket.send_to(&packet, (Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        // On a busy machine some of them have not arrived yet.
        let enough = || Some(queue().dropped as usize).filter(|dropped| *dropped >= 10);
        let dropped = wait_for("ten packets dropped", enough).await;
        assert!(dropped <= packets, "{dropped}");

        drop(socket);
        assert_eq!(receive_queues(port).unwrap(), []);
    });
}

#[test]
fn an_answer_that_ends_early_says_nothing_of_a_queue_or_the_truth() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let answer = ask(libc::AF_INET, port).unwrap().expect("it is bound");
    let whole = queue_of(&answer).expect("it has a queue");
    let told: Vec<_> = (0..answer.len())
        .filter_map(|length| queue_of(&answer[..length]))
        .collect();
    assert!(
        told.len() < answer.len() && told.iter().all(|queue| *queue == whole),
        "{told:?}"
    );
}
