use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use levee_model::Epoch;
use levee_model::control::EntryRecord;
use levee_traffic::{DnsNode, Records, SiteView, TrafficError};

use crate::client::{ask_tcp, ask_udp, question};

fn record(epoch: u64, site: &str, last: u8) -> EntryRecord {
    EntryRecord {
        app: "shop".parse().unwrap(),
        name: "shop.test.".into(),
        ttl_s: 1,
        epoch: Epoch(epoch),
        site: site.parse().unwrap(),
        version: 0,
        address: Some([127, 0, 0, last].into()),
        signature: String::new(),
    }
}

struct Running {
    address: SocketAddr,
    records: Records,
    view: SiteView,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(view: SiteView) -> Self {
        let records = Records::in_memory();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (address_out, address_in) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (records, view) = (records.clone(), view.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let node = DnsNode::bind("127.0.0.1:0".parse().unwrap(), records, view).await.unwrap();
                    address_out.send(node.local_address()).unwrap();
                    node.serve(async { _ = stopped.await }).await;
                });
            }
        });
        let address = address_in.recv().unwrap();
        Self { address, records, view, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_switch_is_answered_at_once_over_udp_and_tcp() {
    let node = Running::start(SiteView::without_site());
    assert_eq!(ask_udp(node.address, "shop.test.").code, 5, "refused while nothing is known");
    node.records.update(record(1, "east", 2)).unwrap();
    let mut stream = node.connect();
    for (id, (next, last)) in
        [(record(1, "east", 2), 2), (record(2, "west", 3), 3), (record(1, "east", 2), 3)].into_iter().enumerate()
    {
        node.records.update(next).unwrap();
        let by_udp = ask_udp(node.address, "shop.TEST.");
        let by_tcp = ask_tcp(&mut stream, id as u16, "shop.test.");
        for reply in [by_udp, by_tcp] {
            assert_eq!((reply.code, reply.authoritative), (0, true));
            assert_eq!(reply.address, Some([127, 0, 0, last].into()));
        }
    }
    assert_eq!(ask_udp(node.address, "www.shop.test.").code, 3);
    assert_eq!(ask_udp(node.address, "example.com.").code, 5);
}

#[test]
fn a_node_at_east_never_sends_anyone_to_an_east_that_may_not_write() {
    let node = Running::start(SiteView::at("east".parse().unwrap()));
    let shop = "shop".parse().unwrap();
    node.records.update(record(1, "east", 2)).unwrap();
    assert_eq!(ask_udp(node.address, "shop.test.").code, 2, "SERVFAIL before the agent has spoken");
    node.view.allow("shop".parse().unwrap(), Epoch(1));
    assert_eq!(ask_udp(node.address, "shop.test.").address, Some([127, 0, 0, 2].into()));
    node.view.forbid(&shop);
    assert_eq!(ask_udp(node.address, "shop.test.").code, 2);
    // The other node's record arrives, with the higher epoch.
    assert_eq!(node.records.merge(vec![record(2, "west", 3)]).unwrap(), 1);
    assert_eq!(ask_udp(node.address, "shop.test.").address, Some([127, 0, 0, 3].into()));
}

#[test]
fn rubbish_and_idle_connections_do_not_stop_a_node() {
    let node = Running::start(SiteView::without_site());
    node.records.update(record(1, "east", 2)).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 11, 12, 13, 600] {
        socket.send_to(&vec![0x5a; length], node.address).unwrap();
    }
    // More connections than there are places, all silent: they are closed after a while, and the
    // next client is served.
    let idle: Vec<TcpStream> = (0..70).map(|_| node.connect()).collect();
    let mut half = node.connect();
    half.write_all(&[0, 40, 1, 2, 3]).unwrap();
    assert_eq!(ask_udp(node.address, "shop.test.").code, 0);
    assert_eq!(ask_tcp(&mut node.connect(), 9, "shop.test.").code, 0);
    for mut stream in idle.into_iter().take(3) {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed by the node");
    }
}

#[test]
fn one_connection_carries_several_questions_and_a_bound() {
    let node = Running::start(SiteView::without_site());
    node.records.update(record(1, "east", 2)).unwrap();
    let mut stream = node.connect();
    for id in 0..100 {
        assert_eq!(ask_tcp(&mut stream, id, "shop.test.").code, 0);
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // Pieces of a question may come one by one.
    let mut slow = node.connect();
    let packet = question(5, "shop.test.");
    slow.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes()).unwrap();
    for byte in packet {
        slow.write_all(&[byte]).unwrap();
    }
    let mut length = [0; 2];
    slow.read_exact(&mut length).unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let first = DnsNode::bind("127.0.0.1:0".parse().unwrap(), Records::in_memory(), SiteView::default()).await.unwrap();
    let taken = first.local_address();
    let error = DnsNode::bind(taken, Records::in_memory(), SiteView::default()).await.unwrap_err();
    assert!(matches!(error, TrafficError::Bind { address, .. } if address == taken), "{error}");
    assert!(error.to_string().contains(&taken.to_string()));
}
