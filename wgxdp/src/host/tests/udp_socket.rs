//! Laws of the look-up of UDP ports.

use std::net::UdpSocket;

use super::super::udp_socket::is_bound;
use super::in_namespace;

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
