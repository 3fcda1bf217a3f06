//! Who listens on this host, by the kernel's own tables: to try a port would take it from a server that is just starting.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `TCP_LISTEN` of the kernel's `tcp_states.h`, as the tables show it.
const LISTEN: &str = "0A";

/// Whether anybody listens where a server is to; `None` when the kernel does not say.
pub fn is_listened_on(wanted: SocketAddr) -> Option<bool> {
    let table = if wanted.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let table = fs::read_to_string(table).ok()?;
    Some(table.lines().filter_map(listener).any(|listener| is_same(listener, wanted)))
}

/// Whoever listens at every address leaves none to others.
fn is_same(listener: SocketAddr, wanted: SocketAddr) -> bool {
    let covers = |one: IpAddr, other: IpAddr| one == other || one.is_unspecified();
    let (here, there) = (listener.ip(), wanted.ip());
    listener.port() == wanted.port()
        && here.is_ipv4() == there.is_ipv4()
        && (covers(here, there) || covers(there, here))
}

/// A line of a table: its number, the local address, the remote one, the state. An address is one or four words as they
/// lie in memory, in hexadecimal digits, and the port (`proc_net_tcp.rst`).
fn listener(line: &str) -> Option<SocketAddr> {
    let fields: Vec<&str> = line.split_whitespace().take(4).collect();
    let [_, local, _, state] = fields[..] else { return None };
    if state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let word = |from: usize| Some(u32::from_str_radix(address.get(from..from + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words: [[u8; 4]; 4] = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_read_from_the_kernels_table() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(listener(line), expected.map(|text| text.parse().unwrap()), "{line}");
        };
        check("  sl  local_address rem_address   st tx_queue rx_queue tr", None);
        check("   0: 0200007F:1538 00000000:0000 0A 00000000:00000000 00:0 0 0 1059", Some("127.0.0.2:5432"));
        check("   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:0 0 0 1059", Some("0.0.0.0:22"));
        // A connection.
        check("   2: 0200007F:1538 0100007F:C350 01 00000000:00000000 00:0 0 0 1059", None);
        let loopback = "00000000000000000000000001000000:1538";
        check(&format!("   3: {loopback} 00000000000000000000000000000000:0000 0A 0:0"), Some("[::1]:5432"));
        check("   4: 0200:1538 00000000:0000 0A", None);
    }

    #[test]
    fn only_the_same_address_or_all_of_them_take_a_port() {
        let check = |listener: &str, wanted: &str, expected: bool| {
            let same = is_same(listener.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(same, expected, "{listener} {wanted}");
        };
        check("127.0.0.2:5432", "127.0.0.2:5432", true);
        check("127.0.0.2:5432", "127.0.0.3:5432", false);
        check("127.0.0.2:5433", "127.0.0.2:5432", false);
        check("0.0.0.0:5432", "127.0.0.3:5432", true);
        check("127.0.0.2:5432", "0.0.0.0:5432", true);
        // It may be for IPv6 alone.
        check("[::]:5432", "127.0.0.3:5432", false);
    }

    #[test]
    fn a_port_is_taken_as_long_as_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(is_listened_on(address), Some(true));
        assert_eq!(is_listened_on(SocketAddr::new([127, 0, 0, 2].into(), address.port())), Some(false));
        drop(listener);
        assert_eq!(is_listened_on(address), Some(false));
    }
}
