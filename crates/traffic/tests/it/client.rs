//! A question in bytes, and the few fields of an answer that the tests look at.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

pub struct Reply {
    pub code: u8,
    pub authoritative: bool,
    pub address: Option<Ipv4Addr>,
}

pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

pub fn read_reply(id: u16, packet: &[u8]) -> Reply {
    assert_eq!(packet[..2], id.to_be_bytes());
    assert!(packet[2] & 0x80 != 0, "not a response");
    let answers = u16::from_be_bytes([packet[6], packet[7]]);
    // The one answer of an address record without EDNS is the end of the packet.
    let address = (answers == 1).then(|| <[u8; 4]>::try_from(&packet[packet.len() - 4..]).unwrap().into());
    Reply { code: packet[3] & 0x0f, authoritative: packet[2] & 0x04 != 0, address }
}

pub fn ask_udp(node: SocketAddr, name: &str) -> Reply {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(&question(4711, name), node).unwrap();
    let mut packet = [0; 512];
    let (length, from) = socket.recv_from(&mut packet).unwrap();
    assert_eq!(from, node);
    read_reply(4711, &packet[..length])
}

pub fn ask_tcp(stream: &mut TcpStream, id: u16, name: &str) -> Reply {
    let packet = question(id, name);
    stream.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&packet).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet).unwrap();
    read_reply(id, &packet)
}
