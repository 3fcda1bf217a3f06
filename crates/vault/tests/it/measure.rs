use std::path::Path;
use std::time::Instant;
use jiff::Timestamp;
use levee_vault::*;
use crate::support::*;

fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() / 100.0, fields[12].parse::<f64>().unwrap() / 100.0)
}
fn timed<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let (start, before) = (Instant::now(), cpu());
    let result = run();
    println!("{name}: {:.2} s wall, {:.2} s user {:.2} s system", start.elapsed().as_secs_f64(), cpu().0 - before.0, cpu().1 - before.1);
    result
}
#[test]
#[ignore]
fn measure() {
    let scratch = Scratch::new();
    let mut data = Vec::with_capacity(1 << 30);
    let mut random = noise(1 << 20, 3);
    let mut n = 0_u64;
    while data.len() < 1 << 30 {
        // like pgbench_accounts: row header + aid + filler of blanks, ~1/6 entropy
        n += 1;
        let k = (n as usize * 24) % (1 << 20 - 1);
        data.extend_from_slice(&random[k..k + 16]);
        data.extend_from_slice(&n.to_le_bytes());
        data.extend_from_slice(&[b' '; 97]);
        if n % 4096 == 0 { random.rotate_left(7); }
    }
    let vault = scratch.init();
    let meta = NodeMeta::new(0o600, Timestamp::UNIX_EPOCH);
    let base = |compression| {
        let mut writer = SnapshotWriter::begin(&vault, SnapshotOptions { compression, ..Default::default() }).unwrap();
        writer.file(Path::new("table"), &meta, &mut &data[..], Chunking::Pages { chunk_bytes: 131_072 }).unwrap();
        writer.finish().unwrap()
    };
    let s = timed("base auto", || base(Compression::Auto));
    println!("{} -> {} blobs {}", s.total_bytes, s.data_added_packed_bytes, s.data_blobs);
    timed("base again", || base(Compression::Auto));
    for durable in [false, true] {
        let target = scratch.path(&format!("t{durable}"));
        timed(&format!("restore durable={durable}"), || {
            let options = RestoreOptions { target, durable, no_lock: true, ..Default::default() };
            restore(&vault, &s.snapshot_id.unwrap(), &options, &()).unwrap()
        });
    }
    timed("check read data", || check(&vault, CheckOptions { read_data: true, no_lock: true }, &()).unwrap());
    let s = timed("usr share", || levee_vault::backup(&vault, &backup_options(Path::new("/usr/share")), &()).unwrap());
    println!("{s:?}");
    let s = timed("usr share again", || levee_vault::backup(&vault, &backup_options(Path::new("/usr/share")), &()).unwrap());
    println!("{} {}", s.files_unmodified, s.total_bytes);
    timed("usr share again, new vault", || levee_vault::backup(&scratch.open(), &backup_options(Path::new("/usr/share")), &()).unwrap());
    timed("restore usr share", || {
        let options = RestoreOptions { target: scratch.path("us"), durable: true, no_lock: true, ..Default::default() };
        restore(&vault, &s.snapshot_id.unwrap(), &options, &()).unwrap()
    });
    timed("restore usr share again", || {
        let options = RestoreOptions { target: scratch.path("us"), durable: true, no_lock: true, ..Default::default() };
        restore(&vault, &s.snapshot_id.unwrap(), &options, &()).unwrap()
    });
}
