//! A resolver in a few lines: what the shop's clients use to find it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a name server may take before the next one is asked.
const ANSWER_MAX: Duration = Duration::from_millis(300);

/// Asks name servers in turn, and keeps an answer for as long as its TTL says.
pub struct Resolver {
    name: String,
    servers: Vec<SocketAddr>,
    kept: Option<(IpAddr, Instant)>,
}

impl Resolver {
    pub fn new(name: &str, servers: Vec<SocketAddr>) -> Resolver {
        Resolver { name: name.trim_end_matches('.').into(), servers, kept: None }
    }

    /// The address of the name, as any of the servers gives it.
    pub fn resolve(&mut self) -> io::Result<IpAddr> {
        if let Some((address, until)) = self.kept
            && Instant::now() < until
        {
            return Ok(address);
        }
        let mut last = io::Error::other("there is no name server to ask");
        for server in &self.servers {
            match ask(&self.name, *server) {
                Ok((address, ttl)) => {
                    self.kept = Some((address, Instant::now() + ttl));
                    return Ok(address);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn ask(name: &str, server: SocketAddr) -> io::Result<(IpAddr, Duration)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let id = std::process::id() as u16;
    socket.send(&query(id, name))?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    first_address(id, &buffer[..length])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{server} gives no address for {name}")))
}

/// RFC 1035, section 4: a header, and one question for an A record.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn first_address(id: u16, packet: &[u8]) -> Option<(IpAddr, Duration)> {
    let number = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let is_answer = number(0)? == id && packet.get(2)? & 0x80 != 0 && packet.get(3)? & 0x0f == 0;
    if !is_answer {
        return None;
    }
    let mut at = 12;
    for _ in 0..number(4)? {
        at = end_of_name(packet, at)? + 4;
    }
    for _ in 0..number(6)? {
        at = end_of_name(packet, at)?;
        let kind = number(at)?;
        let ttl = u32::from_be_bytes(packet.get(at + 4..at + 8)?.try_into().ok()?);
        let length = usize::from(number(at + 8)?);
        let data = packet.get(at + 10..at + 10 + length)?;
        if let (1, [a, b, c, d]) = (kind, data) {
            return Some((IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)), Duration::from_secs(ttl.into())));
        }
        at += 10 + length;
    }
    None
}

fn end_of_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_rubbish_is_not() {
        let mut packet = query(7, "shop.example.test");
        packet[2] = 0x84;
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 3]);
        let expected = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), Duration::from_secs(5));
        assert_eq!(first_address(7, &packet), Some(expected));
        assert_eq!(first_address(8, &packet), None);
        for length in 0..packet.len() {
            assert_eq!(first_address(7, &packet[..length]), None);
        }
    }
}
