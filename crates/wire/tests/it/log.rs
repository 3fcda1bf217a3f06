use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use levee_model::control::Role;
use levee_model::postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use levee_model::{Epoch, FLUSH_INTERVAL};
use levee_wire::log::{LogChunk, LogError, LogOpen, LogRefusal, LogSession, LogStream, RefusalReason};
use levee_wire::{AgentClient, Credentials};

use crate::fleet::{Fleet, Serving, TestAgent, agent_id};

/// What a recovery side has: all bytes, and how many of them were flushed.
#[derive(Default)]
struct Journal {
    log: Mutex<(Vec<u8>, usize)>,
    flushes: AtomicUsize,
    histories: Mutex<Vec<(TimelineId, Vec<u8>)>>,
    source: Mutex<Option<(Timestamp, Lsn)>>,
}

const START: u64 = 0x0100_0000;

struct Session {
    journal: Arc<Journal>,
    resume: Lsn,
    has_log: bool,
}

impl LogSession for Session {
    fn resume_lsn(&self) -> Lsn {
        self.resume
    }

    fn has_log(&self) -> bool {
        self.has_log
    }

    fn append(&mut self, chunk: LogChunk) -> Result<(), LogRefusal> {
        let mut log = self.journal.log.lock().unwrap();
        let end = START + log.0.len() as u64;
        if chunk.lsn.0 != end {
            let message = format!("the log here ends at {}, and the next piece starts at {}", Lsn(end), chunk.lsn);
            return Err(LogRefusal::new(RefusalReason::Gap, message));
        }
        log.0.extend_from_slice(&chunk.bytes);
        Ok(())
    }

    fn history(&mut self, timeline: TimelineId, content: &[u8]) -> Result<(), LogRefusal> {
        self.journal.histories.lock().unwrap().push((timeline, content.to_vec()));
        Ok(())
    }

    fn source_time(&mut self, as_of: Timestamp, source_end: Lsn) -> Result<(), LogRefusal> {
        *self.journal.source.lock().unwrap() = Some((as_of, source_end));
        Ok(())
    }

    fn flush(&mut self) -> Result<Lsn, LogRefusal> {
        // As long as a disk takes.
        std::thread::sleep(Duration::from_millis(4));
        let mut log = self.journal.log.lock().unwrap();
        log.1 = log.0.len();
        self.journal.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(Lsn(START + log.1 as u64))
    }
}

fn taking(fleet: &Fleet, journal: &Arc<Journal>) -> TestAgent {
    let (key, journal) = (fleet.authority.signer().public_key(), journal.clone());
    TestAgent::taking(move |peer, open| {
        let known = Epoch(2);
        if open.epoch < known {
            return Err(LogRefusal::new(RefusalReason::StaleEpoch, format!("epoch {known} is known here")));
        }
        key.authorize(&open.grant, peer, &open.asset.app, Role::Writer, open.epoch)
            .map_err(|error| LogRefusal::new(RefusalReason::NotGranted, error.to_string()))?;
        let resume = Lsn(open.source_start.0 + journal.log.lock().unwrap().1 as u64);
        let has_log = resume > open.source_start;
        Ok(Box::new(Session { journal: journal.clone(), resume, has_log }))
    })
}

fn open(fleet: &Fleet, agent: &str, epoch: u64) -> LogOpen {
    LogOpen {
        asset: "shop/orders".parse().unwrap(),
        epoch: Epoch(epoch),
        grant: fleet.grant(agent, "east", Role::Writer, epoch),
        system_identifier: SystemIdentifier(u64::MAX - 3),
        timeline: TimelineId(1),
        segment_size: SegmentSize::DEFAULT,
        source_start: Lsn(START),
        after_gap: false,
    }
}

async fn stream(from: &Credentials, to: &Serving, open: LogOpen) -> Result<LogStream, LogError> {
    let client = AgentClient::connect(from, &agent_id("w1"), &to.address.to_string()).await;
    client.unwrap().append_log(open).await
}

fn chunk(lsn: Lsn, bytes: Vec<u8>) -> LogChunk {
    let source_end = Lsn(lsn.0 + bytes.len() as u64);
    LogChunk { lsn, bytes: bytes.into(), source_time: Timestamp::now(), source_end, may_wait: false }
}

fn refusal(result: Result<LogStream, LogError>) -> RefusalReason {
    match result.map(|stream| stream.resume) {
        Err(LogError::Refused(refusal)) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_waits_is_made_durable_by_one_flush() {
    let (fleet, journal) = (Fleet::new(), Arc::new(Journal::default()));
    let (west, _) = taking(&fleet, &journal).serve(fleet.agent("w1", "west")).await;
    let east = fleet.agent("e1", "east");
    let LogStream { resume, has_log, sender, mut receiver } =
        stream(&east, &west, open(&fleet, "e1", 2)).await.unwrap();
    assert_eq!((resume, has_log), (Lsn(START), false));
    sender.history(TimelineId(2), b"1\t0/1000000\tx\n").await.unwrap();
    let total = 2000u64;
    let sending = tokio::spawn(async move {
        for number in 0..total {
            sender.chunk(chunk(Lsn(START + number * 100), vec![number as u8; 100])).await.unwrap();
        }
        // Larger than one message may be.
        sender.chunk(chunk(Lsn(START + total * 100), vec![7; 3_000_000])).await.unwrap();
        sender.source_time(Timestamp::from_second(1_700_000_000).unwrap(), Lsn(START + 1)).await.unwrap();
        sender
    });
    let end = Lsn(START + total * 100 + 3_000_000);
    let mut last = resume;
    while last < end {
        let durable = receiver.durable().await.unwrap();
        assert!(durable >= last && (durable.0 - START) as usize <= journal.log.lock().unwrap().1);
        last = durable;
    }
    let sender = sending.await.unwrap();
    let flushes = journal.flushes.load(Ordering::Relaxed);
    assert!(flushes < 500, "{flushes} flushes for {total} pieces");
    let log = journal.log.lock().unwrap().0.clone();
    assert!(log[..200_000].chunks(100).enumerate().all(|(number, piece)| piece == [number as u8; 100]));
    assert_eq!(*journal.histories.lock().unwrap(), [(TimelineId(2), b"1\t0/1000000\tx\n".to_vec())]);
    // A piece that does not fit ends the stream with its reason.
    sender.chunk(chunk(Lsn(end.0 + 1), vec![1])).await.unwrap();
    let refused = loop {
        match receiver.durable().await {
            Ok(_) => {}
            Err(LogError::Refused(refusal)) => break refusal,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(refused.reason, RefusalReason::Gap);
    assert!(refused.message.contains("the next piece starts at"));
    assert_eq!(journal.source.lock().unwrap().unwrap().0, Timestamp::from_second(1_700_000_000).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_where_the_log_is_durable() {
    let (fleet, journal) = (Fleet::new(), Arc::new(Journal::default()));
    let (west, _) = taking(&fleet, &journal).serve(fleet.agent("w1", "west")).await;
    let east = fleet.agent("e1", "east");
    let mut first = stream(&east, &west, open(&fleet, "e1", 2)).await.unwrap();
    first.sender.chunk(chunk(first.resume, vec![1; 1000])).await.unwrap();
    assert_eq!(first.receiver.durable().await.unwrap(), Lsn(START + 1000));
    // The recovery side dies and comes back elsewhere with the same journal.
    drop(west);
    let broken = tokio::time::timeout(Duration::from_secs(20), first.receiver.durable()).await.unwrap();
    assert!(matches!(broken, Err(LogError::Link(_))), "{broken:?}");
    let (west, _) = taking(&fleet, &journal).serve(fleet.agent("w1", "west")).await;
    let mut second = stream(&east, &west, open(&fleet, "e1", 2)).await.unwrap();
    assert_eq!((second.resume, second.has_log), (Lsn(START + 1000), true));
    second.sender.chunk(chunk(second.resume, vec![2; 10])).await.unwrap();
    assert_eq!(second.receiver.durable().await.unwrap(), Lsn(START + 1010));
}

#[tokio::test]
async fn a_stream_without_the_right_to_it_is_refused() {
    let (fleet, journal) = (Fleet::new(), Arc::new(Journal::default()));
    let west_credentials = fleet.agent("w1", "west");
    let (west, _) = taking(&fleet, &journal).serve(west_credentials.clone()).await;
    let east = fleet.agent("e1", "east");
    assert_eq!(refusal(stream(&east, &west, open(&fleet, "e1", 1)).await), RefusalReason::StaleEpoch);
    // A grant of another agent, and one of an older epoch than the stream says.
    assert_eq!(refusal(stream(&east, &west, open(&fleet, "e2", 2)).await), RefusalReason::NotGranted);
    let older = LogOpen { epoch: Epoch(3), ..open(&fleet, "e1", 2) };
    assert_eq!(refusal(stream(&east, &west, older).await), RefusalReason::NotGranted);
    let zero = LogOpen { epoch: Epoch(0), ..open(&fleet, "e1", 2) };
    assert_eq!(refusal(stream(&east, &west, zero).await), RefusalReason::Protocol);

    // A stream that is open ends when its agent is revoked.
    let mut opened = stream(&east, &west, open(&fleet, "e1", 2)).await.unwrap();
    west_credentials.revoke(&fleet.revocation(1, &["e1"])).unwrap();
    opened.sender.chunk(chunk(opened.resume, vec![1])).await.unwrap();
    let refused = opened.receiver.durable().await;
    assert!(matches!(&refused, Err(LogError::Refused(refusal)) if refusal.reason == RefusalReason::NotGranted));
    assert_eq!(journal.log.lock().unwrap().0, Bytes::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_commit_waits_for_is_flushed_in_its_time_and_at_the_end() {
    let (fleet, journal) = (Fleet::new(), Arc::new(Journal::default()));
    let (west, _) = taking(&fleet, &journal).serve(fleet.agent("w1", "west")).await;
    let east = fleet.agent("e1", "east");
    let LogStream { sender, mut receiver, .. } = stream(&east, &west, open(&fleet, "e1", 2)).await.unwrap();
    let patient = |at: u64| LogChunk { may_wait: true, ..chunk(Lsn(START + at), vec![1; 100]) };
    let flushes = || journal.flushes.load(Ordering::Relaxed);

    // Nothing comes after it: the time alone makes it durable.
    let begun = Instant::now();
    for at in (0..1000).step_by(100) {
        sender.chunk(patient(at)).await.unwrap();
    }
    let durable = tokio::time::timeout(Duration::from_secs(20), receiver.durable()).await.expect("it is never flushed");
    assert_eq!(durable.unwrap(), Lsn(START + 1000));
    let took = begun.elapsed();
    assert!(took > FLUSH_INTERVAL / 2, "{took:?}");
    assert_eq!(flushes(), 1, "ten pieces, one flush");

    // Whoever waits takes it along at once, and so does a sender in a hurry.
    sender.chunk(patient(1000)).await.unwrap();
    let begun = Instant::now();
    sender.chunk(chunk(Lsn(START + 1100), vec![1; 100])).await.unwrap();
    assert_eq!(receiver.durable().await.unwrap(), Lsn(START + 1200));
    sender.chunk(patient(1200)).await.unwrap();
    sender.hurry(Timestamp::now(), Lsn(START + 1300));
    assert_eq!(receiver.durable().await.unwrap(), Lsn(START + 1300));
    assert!(begun.elapsed() < FLUSH_INTERVAL, "{:?}", begun.elapsed());

    // The sender is lost: what had arrived may be the last that there ever is.
    sender.chunk(patient(1300)).await.unwrap();
    let wait_until = async |is_so: fn(&(Vec<u8>, usize)) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(&journal.log.lock().unwrap()) {
            assert!(Instant::now() < deadline, "waited in vain");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    wait_until(|(log, _)| log.len() == 1400).await;
    drop((sender, receiver));
    wait_until(|(_, flushed)| *flushed == 1400).await;
}
