//! Rules of leases.

use std::time::Duration;

use super::store_under_test::StoreUnderTest;
use crate::{
    Name,
    port::{EventStore, Lease},
};

const HOUR: Duration = Duration::from_secs(3_600);
const ROLE: Name = Name::from_static("relay");
const ONE: Name = Name::from_static("one");
const TWO: Name = Name::from_static("two");

async fn acquire<S: EventStore>(store: &StoreUnderTest<S>, role: &Name, owner: &Name, ttl: Duration) -> Option<Lease> {
    let lease = store.ok(store.acquire_lease(role, owner, ttl).await, format_args!("{owner} acquiring {role}"));
    if let Some(lease) = &lease {
        store.same((&lease.role, &lease.owner), (role, owner), "what the lease says");
    }
    lease
}

/// Acquires a lease that must be free.
async fn acquired<S: EventStore>(store: &StoreUnderTest<S>, owner: &Name, ttl: Duration) -> Lease {
    match acquire(store, &ROLE, owner, ttl).await {
        Some(lease) => lease,
        None => store.fail(format_args!("{owner} cannot acquire a free lease")),
    }
}

async fn seized<S: EventStore>(store: &StoreUnderTest<S>, owner: &Name) -> Lease {
    store.ok(store.seize_lease(&ROLE, owner, HOUR).await, format_args!("{owner} seizing"))
}

async fn renew<S: EventStore>(store: &StoreUnderTest<S>, lease: &Lease, ttl: Duration) -> bool {
    store.ok(store.renew_lease(lease, ttl).await, format_args!("{} renewing", lease.owner))
}

async fn release<S: EventStore>(store: &StoreUnderTest<S>, lease: &Lease) {
    store.ok(store.release_lease(lease).await, format_args!("{} releasing", lease.owner));
}

/// Checks that an owner who does not hold the lease cannot acquire it.
async fn assert_taken<S: EventStore>(store: &StoreUnderTest<S>) {
    let other = Name::from_static("another owner");
    store.same(acquire(store, &ROLE, &other, HOUR).await, None, "a lease that is held");
}

/// The store names the owner of a lease for as long as it is held.
pub async fn lease_names_its_owner<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("lease_names_its_owner", store);
    let named = async || store.ok(store.lease_of(&ROLE).await, "asking for the owner of a lease");
    store.same(named().await, None, "the owner of a lease that was never acquired");
    let first = acquired(&store, &ONE, HOUR).await;
    store.same(named().await, Some(first), "the owner of the lease");
    let second = seized(&store, &TWO).await;
    store.same(named().await.as_ref(), Some(&second), "the owner that seized the lease");
    let unowned = Name::from_static("unowned");
    let together = store.ok(store.leases_of(&[unowned, ROLE]).await, "asking for the owners of leases");
    store.same(together, vec![None, Some(second.clone())], "the owners of leases that are asked for together");
    release(&store, &second).await;
    store.same(named().await, None, "the owner of a released lease");
}

/// While a lease is held, only its owner can acquire it; it then gets a higher epoch.
pub async fn lease_has_one_owner<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("lease_has_one_owner", store);
    let first = acquired(&store, &ONE, HOUR).await;
    assert_taken(&store).await;
    let again = acquired(&store, &ONE, HOUR).await;
    store.check(again.epoch > first.epoch, "an owner that acquires anew is not fenced from its former lease");
    store.check(!renew(&store, &first, HOUR).await, "the owner renews its former lease");
    store.check(renew(&store, &again, HOUR).await, "the owner cannot renew");
    assert_taken(&store).await;
}

/// An expired lease goes to the next owner that acquires it, with a higher epoch each time.
pub async fn lease_runs_out_and_epochs_grow<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("lease_runs_out_and_epochs_grow", store);
    let mut former = acquired(&store, &ONE, Duration::from_millis(50)).await;
    for owner in [TWO, ONE, TWO] {
        let next = async {
            loop {
                match acquire(&store, &ROLE, &owner, Duration::from_millis(50)).await {
                    Some(lease) => return lease,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let next = store.within("running out", next).await;
        store.check(next.epoch > former.epoch, format_args!("epoch {} after {}", next.epoch, former.epoch));
        store.check(!renew(&store, &former, HOUR).await, "a former owner renews");
        former = next;
    }
}

/// An owner keeps a lease that it renews, also after the lease has expired; it cannot renew a lease that has a new
/// owner.
pub async fn renewed_lease_is_kept_and_a_passed_one_is_not<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("renewed_lease_is_kept_and_a_passed_one_is_not", store);
    let first = acquired(&store, &ONE, Duration::ZERO).await;
    store.check(renew(&store, &first, HOUR).await, "an expired lease cannot be renewed");
    assert_taken(&store).await;
    store.check(renew(&store, &first, Duration::ZERO).await, "the owner cannot renew");
    let second = acquired(&store, &TWO, HOUR).await;
    store.check(!renew(&store, &first, HOUR).await, "a former owner renews");
    store.check(renew(&store, &second, HOUR).await, "the owner cannot renew");
    assert_taken(&store).await;
    let unknown = Lease { role: Name::from_static("unowned"), ..second.clone() };
    store.check(!renew(&store, &unknown, HOUR).await, "a lease that was never acquired is renewed");
}

/// Seizing takes a lease from any owner and fences it.
pub async fn seizing_fences_the_former_owner<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("seizing_fences_the_former_owner", store);
    let first = seized(&store, &ONE).await;
    let second = seized(&store, &TWO).await;
    store.same((&second.role, &second.owner), (&ROLE, &TWO), "what the lease says");
    store.check(second.epoch > first.epoch, format_args!("epoch {} after {}", second.epoch, first.epoch));
    store.check(!renew(&store, &first, HOUR).await, "the former owner renews");
    release(&store, &first).await;
    assert_taken(&store).await;
    store.check(renew(&store, &second, HOUR).await, "the owner cannot renew");
    let third = seized(&store, &TWO).await;
    store.check(third.epoch > second.epoch, "an owner that seizes its own lease is not fenced from the former one");
}

/// A released lease is free at once; epochs still grow.
pub async fn release_lets_the_next_one_in<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("release_lets_the_next_one_in", store);
    let first = acquired(&store, &ONE, HOUR).await;
    release(&store, &first).await;
    let second = acquired(&store, &TWO, HOUR).await;
    store.check(second.epoch > first.epoch, format_args!("epoch {} after {}", second.epoch, first.epoch));
    release(&store, &first).await;
    assert_taken(&store).await;
    release(&store, &second).await;
    release(&store, &second).await;
    let third = acquired(&store, &ONE, Duration::MAX).await;
    store.check(third.epoch > second.epoch, format_args!("epoch {} after {}", third.epoch, second.epoch));
    assert_taken(&store).await;
}

/// Each role has its own lease; names are compared byte for byte.
pub async fn leases_of_roles_are_independent<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("leases_of_roles_are_independent", store);
    let mut leases = Vec::new();
    for (number, role) in ["relay", "Relay", "relay ", "o'brien", "%", "漢字 ünï"].into_iter().enumerate() {
        let role = store.ok(Name::new("role", role), "naming a role");
        let owner = store.ok(Name::new("owner", format!("owner {number}")), "naming an owner");
        match acquire(&store, &role, &owner, HOUR).await {
            Some(lease) => leases.push(lease),
            None => store.fail(format_args!("the lease of `{role}` is not free")),
        }
    }
    release(&store, &leases[0]).await;
    for lease in &leases[1..] {
        let named = store.ok(store.lease_of(&lease.role).await, "asking for the owner of a lease");
        store.same(named.as_ref(), Some(lease), format_args!("the owner of the lease of `{}`", lease.role));
        store.check(renew(&store, lease, HOUR).await, format_args!("`{}` was lost", lease.role));
    }
}

/// Of many concurrent callers one acquires a lease that is new or was released; concurrent seizures get different
/// epochs.
pub async fn one_of_racing_owners_gets_the_lease<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("one_of_racing_owners_gets_the_lease", store);
    let mut former = 0;
    for round in 0..10 {
        let leases = store
            .at_once(8, |task| {
                let store = store.clone();
                async move {
                    let owner = store.ok(Name::new("owner", format!("owner {task}")), "naming an owner");
                    acquire(&store, &ROLE, &owner, HOUR).await
                }
            })
            .await;
        let winners: Vec<_> = leases.into_iter().flatten().collect();
        store.same(winners.len(), 1, format_args!("winners in round {round}"));
        store.check(winners[0].epoch > former, "epochs do not grow");
        former = winners[0].epoch;
        release(&store, &winners[0]).await;
    }
    let mut epochs = store
        .at_once(8, |_| {
            let store = store.clone();
            async move { seized(&store, &ONE).await.epoch }
        })
        .await;
    epochs.sort_unstable();
    epochs.dedup();
    store.same(epochs.len(), 8, "different epochs");
    store.check(epochs[0] > former, "epochs do not grow");
}

/// A lease acquired in the future is free: the store's clock was set back, and the owner may have stopped long ago.
///
/// `set_clock_back` has the same effect on the store's leases as setting its clock back by that duration. No macro
/// lists this rule; a backend that supports it calls it.
pub async fn lease_of_the_future_is_free<S: EventStore>(store: S, set_clock_back: impl AsyncFn(Duration)) {
    let store = StoreUnderTest::new("lease_of_the_future_is_free", store);
    let first = acquired(&store, &ONE, HOUR).await;
    set_clock_back(24 * HOUR).await;
    let named = store.ok(store.lease_of(&ROLE).await, "asking for the owner of a lease");
    store.same(named, None, "the owner of a lease of the future");
    store.check(renew(&store, &first, HOUR).await, "an owner that still runs cannot renew");
    assert_taken(&store).await;
    set_clock_back(HOUR / 2).await;
    let second = acquired(&store, &TWO, HOUR).await;
    store.check(second.epoch > first.epoch, format_args!("epoch {} after {}", second.epoch, first.epoch));
    store.check(!renew(&store, &first, HOUR).await, "the former owner renews");
    assert_taken(&store).await;
}
