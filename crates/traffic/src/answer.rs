//! From a packet to its answer: a pure function of the records and the node's view.
//!
//! Sources: RFC 1034 and 1035; RFC 2308 (negative answers carry the SOA), RFC 6891 (EDNS), RFC 8482
//! (a short answer to ANY). Each entry is a zone of its own, with the entry's name as its top.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use levee_model::control::EntryRecord;

use crate::decision::{Decision, SiteView};
use crate::records::RecordMap;

/// The largest answer over UDP that is sent whole, whatever the asker offers: it passes every usual
/// link unfragmented (DNS flag day 2020).
const UDP_ANSWER_BYTES_MAX: u16 = 1232;

const HEADER_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The answer to a packet, or `None` for one that gets none (it is no question, or its header is cut).
pub(crate) fn answer(packet: &[u8], transport: Transport, records: &RecordMap, view: &SiteView) -> Option<Vec<u8>> {
    // An answer to an answer would let two nodes talk for ever.
    if packet.len() < HEADER_BYTES || packet[2] & 0x80 != 0 {
        return None;
    }
    let response = match Message::from_vec(packet) {
        Ok(request) => respond(&request, records, view),
        Err(_) => {
            let op_code = OpCode::from_u8(packet[2] >> 3 & 0x0f);
            Message::error_msg(u16::from_be_bytes([packet[0], packet[1]]), op_code, ResponseCode::FormErr)
        }
    };
    let offered = Message::from_vec(packet).map_or(512, |request| request.max_payload());
    let size_max = match transport {
        Transport::Udp => offered.min(UDP_ANSWER_BYTES_MAX),
        Transport::Tcp => u16::MAX,
    };
    match encode(&response, size_max) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "a DNS answer could not be written");
            None
        }
    }
}

/// Records that do not fit are left out, and the answer is marked as truncated.
fn encode(response: &Message, size_max: u16) -> Result<Vec<u8>, ProtoError> {
    let whole = response.to_vec()?;
    if whole.len() <= usize::from(size_max) {
        return Ok(whole);
    }
    // Not at once with the bound: the encoder writes each name whole before it compresses it, and
    // takes an answer that would fit for one that does not.
    let mut bytes = Vec::with_capacity(usize::from(size_max));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(size_max);
    response.emit(&mut encoder)?;
    Ok(bytes)
}

fn respond(request: &Message, records: &RecordMap, view: &SiteView) -> Message {
    let mut response = Message::new(request.id, MessageType::Response, request.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_ANSWER_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response.add_queries(request.queries.iter().take(1).cloned());
    response.metadata.response_code = match request.queries.as_slice() {
        _ if request.op_code != OpCode::Query => ResponseCode::NotImp,
        _ if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) => ResponseCode::BADVERS,
        [query] => fill(&mut response, query, records, view),
        _ => ResponseCode::FormErr,
    };
    response
}

fn fill(response: &mut Message, query: &Query, records: &RecordMap, view: &SiteView) -> ResponseCode {
    let zone_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if query.query_class() != DNSClass::IN || zone_transfer {
        return ResponseCode::Refused;
    }
    let name = LowerName::new(query.name());
    let Some((zone, record, address)) = zone_of(&name, records) else { return ResponseCode::Refused };
    if name != *zone {
        response.metadata.authoritative = true;
        response.add_authority(start_of_authority(zone.into(), record));
        // A name that has names below it exists, though it holds nothing itself (RFC 8020).
        let has_names_below = records.iter().any(|(other, record)| record.address.is_some() && name.zone_of(other));
        return if has_names_below { ResponseCode::NoError } else { ResponseCode::NXDomain };
    }
    let address = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    let wanted = query.query_type();
    if wanted == address.record_type() || wanted == RecordType::ANY {
        if view.decide(record) == Decision::Withhold {
            return ResponseCode::ServFail;
        }
        response.add_answer(Record::from_rdata(query.name().clone(), record.ttl_s, address));
    } else if wanted == RecordType::SOA {
        response.add_answer(start_of_authority(query.name().clone(), record));
    } else {
        response.add_authority(start_of_authority(zone.into(), record));
    }
    response.metadata.authoritative = true;
    ResponseCode::NoError
}

/// The closest entry at or above the name. One that was given up is none.
fn zone_of<'a>(name: &LowerName, records: &'a RecordMap) -> Option<(&'a LowerName, &'a EntryRecord, IpAddr)> {
    let mut candidate = name.clone();
    while !candidate.is_root() {
        if let Some((zone, record)) = records.get_key_value(&candidate)
            && let Some(address) = record.address
        {
            return Some((zone, record, address));
        }
        candidate = candidate.base_name();
    }
    None
}

fn start_of_authority(zone: Name, record: &EntryRecord) -> Record {
    // A name of 255 bytes leaves no room for one more label.
    let contact = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
    // The serial grows with every change of writer. It is only read by people: zones are not transferred.
    let serial = record.epoch.0 as u32;
    let (refresh_s, retry_s, expire_s) = (60, 10, 7 * 86_400);
    let soa = SOA::new(zone.clone(), contact, serial, refresh_s, retry_s, expire_s, record.ttl_s);
    Record::from_rdata(zone, record.ttl_s, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::TXT;
    use levee_model::Epoch;
    use proptest::prelude::*;

    use super::*;
    use crate::Records;

    fn record(name: &str, site: &str, address: &str) -> EntryRecord {
        EntryRecord {
            app: "shop".parse().unwrap(),
            name: name.into(),
            ttl_s: 7,
            epoch: Epoch(4),
            site: site.parse().unwrap(),
            version: 0,
            address: Some(address.parse().unwrap()),
            signature: String::new(),
        }
    }

    fn shop() -> Records {
        let records = Records::in_memory();
        records.update(record("shop.test.", "east", "127.0.0.2")).unwrap();
        records.update(record("deep.under.shop.test.", "west", "127.0.0.3")).unwrap();
        records.update(record("six.test.", "west", "::3")).unwrap();
        records
    }

    fn ask(request: &Message, view: &SiteView) -> Message {
        let bytes = answer(&request.to_vec().unwrap(), Transport::Udp, &shop().current(), view).unwrap();
        assert!(bytes.len() <= usize::from(UDP_ANSWER_BYTES_MAX));
        Message::from_vec(&bytes).unwrap()
    }

    fn question(name: &str, record_type: RecordType) -> Message {
        let mut request = Message::new(77, MessageType::Query, OpCode::Query);
        request.metadata.recursion_desired = true;
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        request
    }

    #[test]
    fn questions_and_answers() {
        use RecordType as Type;
        use ResponseCode as Code;
        let cases = [
            // name, type, code, authoritative, answers, authorities
            ("shop.test.", Type::A, Code::NoError, true, 1, 0),
            ("SHOP.tesT.", Type::A, Code::NoError, true, 1, 0),
            ("shop.test.", Type::AAAA, Code::NoError, true, 0, 1),
            ("shop.test.", Type::MX, Code::NoError, true, 0, 1),
            ("shop.test.", Type::SOA, Code::NoError, true, 1, 0),
            ("shop.test.", Type::ANY, Code::NoError, true, 1, 0),
            ("six.test.", Type::AAAA, Code::NoError, true, 1, 0),
            ("six.test.", Type::A, Code::NoError, true, 0, 1),
            ("www.shop.test.", Type::A, Code::NXDomain, true, 0, 1),
            ("under.shop.test.", Type::A, Code::NoError, true, 0, 1),
            ("deep.under.shop.test.", Type::A, Code::NoError, true, 1, 0),
            ("test.", Type::A, Code::Refused, false, 0, 0),
            ("example.com.", Type::A, Code::Refused, false, 0, 0),
            ("shopx.test.", Type::A, Code::Refused, false, 0, 0),
            (".", Type::NS, Code::Refused, false, 0, 0),
            ("shop.test.", Type::AXFR, Code::Refused, false, 0, 0),
        ];
        let view = SiteView::without_site();
        for (name, record_type, code, authoritative, answers, authorities) in cases {
            let got = ask(&question(name, record_type), &view);
            let seen = (got.response_code, got.authoritative, got.answers.len(), got.authorities.len());
            assert_eq!(seen, (code, authoritative, answers, authorities), "{name} {record_type}");
            assert_eq!((got.id, got.message_type, got.recursion_available), (77, MessageType::Response, false));
            assert!(got.recursion_desired && !got.truncation);
            assert!(got.authorities.iter().all(|record| record.record_type() == RecordType::SOA));
            assert!(got.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()), "the spelling is kept");
        }
        let got = ask(&question("shop.test.", Type::A), &view);
        assert_eq!((got.answers[0].ttl, got.answers[0].data.ip_addr()), (7, Some([127, 0, 0, 2].into())));
    }

    #[test]
    fn a_node_at_a_site_that_may_not_write_withholds_its_own_address_only() {
        let view = SiteView::at("east".parse().unwrap());
        let code = |name: &str, view: &SiteView| ask(&question(name, RecordType::A), view).response_code;
        assert_eq!(code("shop.test.", &view), ResponseCode::ServFail);
        assert_eq!(code("deep.under.shop.test.", &view), ResponseCode::NoError);
        view.allow("shop".parse().unwrap(), Epoch(4));
        assert_eq!(code("shop.test.", &view), ResponseCode::NoError);
    }

    #[test]
    fn odd_questions_get_the_code_that_the_standard_gives() {
        let view = SiteView::without_site();
        let code = |change: &dyn Fn(&mut Message)| {
            let mut request = question("shop.test.", RecordType::A);
            change(&mut request);
            ask(&request, &view).response_code
        };
        assert_eq!(code(&|request| request.metadata.op_code = OpCode::Update), ResponseCode::NotImp);
        assert_eq!(code(&|request| request.queries.clear()), ResponseCode::FormErr);
        assert_eq!(code(&|request| request.queries.push(Query::new())), ResponseCode::FormErr);
        assert_eq!(code(&|request| _ = request.queries[0].set_query_class(DNSClass::CH)), ResponseCode::Refused);
        let future_edns = |request: &mut Message| {
            let mut edns = Edns::new();
            edns.set_version(1);
            request.set_edns(edns);
        };
        // BADVERS and BADSIG are the same number.
        assert_eq!(u16::from(code(&future_edns)), 16);
    }

    #[test]
    fn edns_is_answered_by_edns() {
        let view = SiteView::without_site();
        assert!(ask(&question("shop.test.", RecordType::A), &view).edns.is_none());
        let mut request = question("shop.test.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        request.set_edns(edns);
        let got = ask(&request, &view).edns.unwrap();
        assert_eq!((got.version(), got.max_payload(), got.flags().dnssec_ok), (0, UDP_ANSWER_BYTES_MAX, true));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_marked_as_truncated() {
        let mut response = Message::new(1, MessageType::Response, OpCode::Query);
        let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
        for _ in 0..5 {
            response.add_answer(Record::from_rdata(Name::root(), 1, text.clone()));
        }
        let bytes = encode(&response, 512).unwrap();
        let got = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= 512 && got.truncation && got.answers.len() == 2, "{}", got.answers.len());
        assert!(!Message::from_vec(&encode(&response, u16::MAX).unwrap()).unwrap().truncation);
    }

    #[test]
    fn the_longest_name_is_answered() {
        let name = format!("{}.{}.{}.{}.", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(60));
        let records = Records::in_memory();
        records.update(record(&name, "east", "127.0.0.2")).unwrap();
        for record_type in [RecordType::A, RecordType::SOA, RecordType::MX] {
            let packet = question(&name, record_type).to_vec().unwrap();
            let view = SiteView::without_site();
            let bytes = answer(&packet, Transport::Udp, &records.current(), &view).unwrap();
            let got = Message::from_vec(&bytes).unwrap();
            assert_eq!(got.answers.len() + got.authorities.len(), 1, "{record_type}");
            assert!(!got.truncation && bytes.len() <= 512);
        }
    }

    #[test]
    fn answers_and_cut_headers_get_no_answer() {
        let (records, view) = (shop(), SiteView::without_site());
        let mut response = question("shop.test.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        let current = records.current();
        assert_eq!(answer(&response.to_vec().unwrap(), Transport::Udp, &current, &view), None);
        let packet = question("shop.test.", RecordType::A).to_vec().unwrap();
        for length in 0..packet.len() {
            let got = answer(&packet[..length], Transport::Udp, &current, &view);
            assert_eq!(got.is_some(), length >= HEADER_BYTES, "{length}");
            if let Some(bytes) = got {
                assert_eq!(Message::from_vec(&bytes).unwrap().response_code, ResponseCode::FormErr);
            }
        }
    }

    proptest! {
        #[test]
        fn no_packet_is_too_strange(packet in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&packet, Transport::Udp, &shop().current(), &SiteView::without_site());
        }

        #[test]
        fn no_damage_to_a_question_is_too_strange(changes in prop::collection::vec((0usize..60, any::<u8>()), 1..6)) {
            let mut request = question("www.shop.test.", RecordType::A);
            request.set_edns(Edns::new());
            let mut packet = request.to_vec().unwrap();
            for (at, byte) in changes {
                let length = packet.len();
                packet[at % length] = byte;
            }
            if let Some(bytes) = answer(&packet, Transport::Udp, &shop().current(), &SiteView::without_site()) {
                prop_assert_eq!(&bytes[..2], &packet[..2]);
                prop_assert!(bytes[2] & 0x80 != 0 && bytes.len() <= usize::from(UDP_ANSWER_BYTES_MAX));
            }
        }
    }
}
