//! Claims of two workers.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn workers(lasting: Duration) -> (tempfile::TempDir, ClaimStore, ClaimStore) {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(root.path().into(), false, &[names::CLAIMS]).unwrap());
    let worker = |name: &str| ClaimStore::new(Arc::clone(&disk), name.into(), lasting);
    let (one, two) = (worker("one"), worker("two"));
    (root, one, two)
}

fn claimed(claimed: Option<NewClaim>) -> Claim {
    claimed.expect("the claim is free").claim
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn only_one_has_a_claim() {
    let (_root, one, two) = workers(HOUR);
    let claim = claimed(one.create("a", "data".into()).unwrap());
    assert_eq!((claim.epoch, claim.worker_id.as_str()), (1, "one"));
    assert!(two.create("a", Value::Null).unwrap().is_none());
    assert!(one.create("a", Value::Null).unwrap().is_none());
    assert_eq!(two.load_newest("a").unwrap(), Some(claim));
}

#[test]
fn nobody_renews_or_gives_back_what_is_another_workers() {
    let (_root, one, two) = workers(HOUR);
    let claim = claimed(one.create("a", "data".into()).unwrap());
    assert!(matches!(two.renew(&claim), Err(FileQueueError::ClaimLost { epoch: 1, .. })));
    assert!(matches!(two.release(&claim), Err(FileQueueError::ClaimLost { .. })));
    assert_eq!(one.load_newest("a").unwrap(), Some(claim));
}

#[test]
fn of_two_who_see_that_it_is_free_one_has_it() {
    let (_root, one, two) = workers(HOUR);
    claimed(two.create("a", Value::Null).unwrap());
    assert!(one.create_after("a", None, Value::Null).unwrap().is_none(), "it saw no claim");
    assert_eq!(one.load_newest("a").unwrap().unwrap().worker_id, "two");
}

/// Fails if a worker that was slow makes the file of a removed epoch anew, and takes itself for the owner.
#[test]
fn who_saw_that_it_was_free_before_earlier_epochs_were_removed_does_not_have_it() {
    let (_root, one, two) = workers(HOUR);
    let released = claimed(one.create("a", Value::Null).unwrap());
    let seen = one.release(&released).unwrap();
    for _ in 0..2 {
        let claim = claimed(two.create("a", Value::Null).unwrap());
        two.remove_epochs_before(&claim).unwrap();
        two.release(&claim).unwrap();
    }
    let claim = claimed(two.create("a", Value::Null).unwrap());
    two.remove_epochs_before(&claim).unwrap(); // epoch 4; that of the slow worker, 2, is gone
    assert!(one.create_after("a", Some(seen), Value::Null).unwrap().is_none());
    let newest = one.load_newest("a").unwrap().unwrap();
    assert_eq!((newest.epoch, newest.worker_id.as_str()), (4, "two"));
    assert!(one.load_epoch("a", 2).unwrap().is_none(), "it leaves no file");
}

/// Fails, after some thousand calls, if a claim counts as missing whose listed epoch was removed before it was read.
#[test]
fn a_claim_is_found_while_owners_remove_earlier_epochs() {
    let (_root, one, two) = workers(HOUR);
    let acquire = || {
        let claim = claimed(one.create("a", Value::Null).unwrap());
        one.remove_epochs_before(&claim).unwrap();
        one.release(&claim).unwrap();
    };
    acquire();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(two.load_newest("a").unwrap().is_some());
                }
            });
        }
        (0..250).for_each(|_| acquire());
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_ran_out_is_taken_over_and_its_owner_is_kept_out() {
    let (_root, one, two) = workers(Duration::ZERO);
    let old = claimed(one.create("a", Value::Null).unwrap());
    let new = claimed(two.create("a", Value::Null).unwrap());
    assert_eq!(new.epoch, 2);
    assert!(matches!(one.check_owned(&old), Err(FileQueueError::ClaimLost { epoch: 1, .. })));
    assert!(matches!(one.release(&old), Err(FileQueueError::ClaimLost { .. })));
    assert!(matches!(two.renew(&new), Err(FileQueueError::ClaimLost { .. })), "it has expired");
}

#[test]
fn what_was_given_back_is_free_and_renewing_makes_it_last() {
    let (_root, one, two) = workers(HOUR);
    let claim = claimed(one.create("a", Value::Null).unwrap());
    let renewed = one.renew(&Claim { data: 7.into(), ..claim.clone() }).unwrap();
    assert!(renewed.expires_at > claim.expires_at && renewed.is_live());
    assert_eq!(two.load_newest("a").unwrap().unwrap().data, 7);
    one.release(&renewed).unwrap();
    assert_eq!(claimed(two.create("a", Value::Null).unwrap()).epoch, 2);
    assert!(one.renew(&renewed).is_err());
}

#[test]
fn files_of_old_epochs_are_removed() {
    let (root, one, _two) = workers(HOUR);
    for epoch in 1..=4 {
        let claim = claimed(one.create("a b", Value::Null).unwrap());
        assert_eq!(claim.epoch, epoch);
        one.remove_epochs_before(&claim).unwrap();
        one.release(&claim).unwrap();
    }
    let mut left = disk::list_names(&root.path().join("claims/a%20b")).unwrap();
    left.sort();
    assert_eq!(left, ["000000000003.json", "000000000004.json"]);
    one.remove_all_epochs("a b").unwrap();
    assert!(one.list_ids().unwrap().is_empty());
}

#[test]
fn a_torn_claim_is_nobodys_and_is_left_alone() {
    let (root, one, _two) = workers(HOUR);
    let path = root.path().join("claims/a/000000000001.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "{\"claim_id\": \"a\"").unwrap();
    let error = one.create("a", Value::Null).unwrap_err();
    assert!(matches!(&error, FileQueueError::Torn { path: named, .. } if *named == path), "{error:?}");
    assert!(path.exists());
}
