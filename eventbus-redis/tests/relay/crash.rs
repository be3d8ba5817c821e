//! Servers that die in the middle of a write.

use std::{fs, path::Path};

use crate::{common::config_on, rig::Rig};

const CUTS: usize = 25;

#[tokio::test]
async fn wherever_the_log_of_the_server_is_cut_stream_and_record_agree() {
    let mut server = eventbus_test::private_redis();
    let config = config_on(server.url());
    let rig = Rig::on(config.clone()).await;
    let store = rig.store;
    rig.begin(0).await;
    for batch in 0..40 {
        rig.publish(batch * 25, batch * 25 + 25).await;
        if batch % 10 == 9 {
            rig.set(rig.published().await, batch * 25 + 10).await;
            rig.publish(batch * 25 + 10, batch * 25 + 25).await;
        }
    }
    let folder: (String, String) = rig.command(&["CONFIG", "GET", "dir"]).await;
    let folder = Path::new(&folder.1).join("appendonlydir");
    let log = folder.join("appendonly.aof.1.incr.aof");
    server.stop();
    let paths = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = paths.map(|path| (fs::read(&path).unwrap(), path)).collect();
    let whole = fs::read(&log).unwrap();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut missing = Vec::new();
    for _ in 0..CUTS {
        server.stop();
        let cut = random.usize(whole.len() / 50..whole.len());
        // a start with a cut log may have replaced it
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        for (content, path) in &files {
            fs::write(path, content).unwrap();
        }
        fs::write(&log, &whole[..cut]).unwrap();
        server.start();
        let rig = Rig { store, ..Rig::on(config.clone()).await };
        let last = rig.positions().await.last().copied().unwrap_or(0);
        let what = format!("seed {seed}, cut at {cut} of {}", whole.len());
        let Some(record) = rig.record().await else {
            assert_eq!(last, 0, "{what}");
            continue;
        };
        let recorded: u64 = record.split(' ').next().unwrap().parse().unwrap();
        // after a rewind the stream has no new entry yet
        let is_rewound = record.ends_with("- -");
        assert!(recorded == last || (is_rewound && recorded < last), "{what}: {record}, but the last is {last}");
        assert_eq!(rig.publish(1_000, 1_001).await, format!("moved to {recorded}"), "{what}");
        assert_eq!(rig.publish(recorded, 1_001).await, "published", "{what}");
        let mut positions = rig.positions().await;
        positions.sort_unstable();
        positions.dedup();
        assert_eq!(positions, (1..=1_001).collect::<Vec<_>>(), "{what}");
        missing.push(1_000 - recorded);
    }
    assert!(missing.iter().any(|missing| *missing > 0), "no cut took anything: {missing:?}");
}
